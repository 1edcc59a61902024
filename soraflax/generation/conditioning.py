"""Given pixels: from a video of which parts are to be kept, to a canvas and back.

Tasks speak of pixels, the transformer of latents. A token is known where all pixels it
stands for are kept. What is made is decoded, and the kept pixels are put back as they
came (1), bit for bit:

    video = kept ? given : decode(latent)                                         (1)

The autoencoder is causal, so the latent of a frame depends on the frames before it. For
frames kept at the start that changes nothing: their latents are those they have in the
longer clip. Everywhere else a kept frame follows frames that do not exist yet, and has
no latent of its own. This is dealt with in two passes:

1. Unknown pixels are filled in plainly (`fill_unknown`): with what is next kept at
their
   place, so that time stands still before it, or with what surrounds them. Its latents
   of kept pixels are held while the rest is denoised.
2. The result, with (1), is encoded again. Now the latents of kept pixels follow what
   was made, not what was assumed, and are held; the rest is noised to the strength
   `settle` and denoised once more (SDEdit), so that it fits them.

`needs_refinement` says whether there is a second pass. A patch in time of which only
the last frame is kept is held in the first pass, and free in the second.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, UInt8

from soraflax.autoencoding import streaming
from soraflax.generation import canvas as canvases
from soraflax.ops import patch as patches
from soraflax.pretrained import models


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """A video to be filled in.

    Attributes:
      video: `[T, H, W, 3]` uint8; what is not kept matters only for a strength below 1.
      kept: `[T, H, W]` bool.
      fps: frames per second.
      frames: of the video to be made, T or more; of those beyond T nothing is given.
      strength: as of `Canvas`.
      before, after: frames that come before and after the result, untouched.
      used: frames of the result, from the start, that are returned; None for all.

    Raises:
      ValueError: other types, a mask of another size, a rate or strength out of range.
    """

    video: UInt8[np.ndarray, "T H W 3"]
    kept: Bool[np.ndarray, "T H W"]
    fps: float
    frames: int
    strength: float = 1.0
    before: UInt8[np.ndarray, "T0 H W 3"] | None = None
    after: UInt8[np.ndarray, "T1 H W 3"] | None = None
    used: int | None = None

    def __post_init__(self) -> None:
        if self.kept.shape != self.video.shape[:3]:
            raise ValueError(
                f"mask of {self.kept.shape} on a video of {self.video.shape[:3]}"
            )
        if self.video.dtype != np.uint8 or self.kept.dtype != np.bool_:
            raise ValueError(
                f"a video of {self.video.dtype} and a mask of {self.kept.dtype}: give "
                "uint8 and bool"
            )
        if not 0 < self.fps < np.inf:
            raise ValueError(f"{self.fps} frames per second: use a rate above 0")
        canvases.check_strength(self.strength)
        if len(self.video) > self.frames:
            raise ValueError(f"{len(self.video)} frames given of {self.frames}")
        if self.strength < 1 and len(self.video) < self.frames:
            raise ValueError(
                f"strength {self.strength} with {len(self.video)} frames given of "
                f"{self.frames}: give all, or use strength 1"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the video to be made."""
        return self.frames, self.video.shape[1], self.video.shape[2]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.video.shape[2], self.video.shape[1]

    @property
    def length(self) -> int:
        """Frames of what the task returns."""
        around = sum(
            len(part) for part in (self.before, self.after) if part is not None
        )
        return around + (self.frames if self.used is None else self.used)

    def paste(self, video: np.ndarray, *, start: int = 0) -> np.ndarray:
        """Equation (1), of frames `start` and after."""
        given = slice(start, min(start + len(video), len(self.video)))
        count = max(0, given.stop - start)
        kept = self.kept[given][..., None]
        pasted = np.where(kept, self.video[given], video[:count])
        return np.concatenate([pasted, video[count:]])

    def assemble(self, video: np.ndarray) -> np.ndarray:
        """What the task returns: the pasted video between its neighbours."""
        parts = (self.before, video[: self.used], self.after)
        return np.concatenate([part for part in parts if part is not None])


def encode(
    given: Conditioning,
    model: models.AutoencoderModel,
    *,
    grid: canvases.Grid,
    reference_fps: float,
) -> canvases.Canvas:
    """The canvas of the first pass.

    Args:
      given: on the grid.
      model: whose latents are meant.
      grid: of the transformer.
      reference_fps: frame rate at which it counts latent frames.

    Raises:
      ValueError: a size off the grid, with the nearest on it.
    """
    shape = grid.latent_shape(*given.shape)
    held = _held(given, grid, whole=False)
    needed = shape[0]
    if given.strength == 1:
        known = np.flatnonzero(held.reshape(len(held), -1).any(axis=1))
        needed = int(known[-1]) + 1 if known.size else 0
    latent = np.zeros(shape, np.float32)
    if needed:
        frames = grid.frames(needed)
        video, kept = given.video[:frames], given.kept[:frames]
        if given.strength == 1:
            video = fill_unknown(video, kept)
        latent[:needed] = _encode(model, video)
    step = reference_fps / given.fps if given.frames > 1 else 1.0
    return canvases.Canvas(latent, held, step, given.strength)


def refined(
    given: Conditioning,
    video: np.ndarray,
    *,
    model: models.AutoencoderModel,
    grid: canvases.Grid,
    first: canvases.Canvas,
    strength: float,
) -> canvases.Canvas:
    """The canvas of the second pass.

    Args:
      given: what the first pass was given.
      video: what it made, pasted, `[T, H, W, 3]` uint8.
      model: whose latents are meant.
      grid: of the transformer.
      first: canvas of the first pass.
      strength: how much of it is denoised again.
    """
    held = _held(given, grid, whole=True)
    strength = min(strength, first.strength)
    return canvases.Canvas(_encode(model, video), held, first.time_step, strength)


def needs_refinement(
    given: Conditioning,
    model: models.AutoencoderModel,
    *,
    grid: canvases.Grid,
    first: canvases.Canvas,
) -> bool:
    """Whether the second pass would hold something else than the first.

    An autoencoder that looks back over no more frames than a patch has none to look at
    before a kept one: then the latents of whole frames are what they are. This is found
    by encoding the kept pixels among others.
    """
    if not may_need_refinement(given.kept, grid):
        return False
    held = _held(given, grid, whole=True)
    if (held != first.cond_mask).any():
        return True
    if not held.any():
        return False
    video = np.where(given.kept[..., None], given.video, np.uint8(128))
    count = grid.latent_shape(*video.shape[:3])[0]
    other, held = _encode(model, video)[held[:count]], first.latent[held]
    return not np.allclose(other, held, atol=1e-3 * max(float(np.std(held)), 1e-6))


def may_need_refinement(kept: Bool[np.ndarray, "T H W"], grid: canvases.Grid) -> bool:
    """Whether kept pixels follow, or lie beside, pixels that are not kept."""
    if not kept.any():
        return False
    frames = kept.reshape(len(kept), -1).all(axis=1)
    start = len(kept) if kept.all() else int(np.argmin(frames))
    if kept[start:].any():
        return True
    first = grid.frames(grid.patch[0])
    return start > 0 and (start < first or (start - first) % grid.group != 0)


def fill_unknown(
    video: UInt8[np.ndarray, "T H W 3"], kept: Bool[np.ndarray, "T H W"]
) -> UInt8[np.ndarray, "T H W 3"]:
    """Every pixel that is not kept made plain: from later, else earlier, else around.

    Raises:
      ValueError: nothing is kept.
    """
    if not kept.any():
        raise ValueError("nothing is kept: there is nothing to fill from")
    result = np.where(kept[..., None], video, 0).astype(np.uint8)
    known = kept.copy()
    times = range(len(video))
    for order in (times[::-1], times):
        for here, there in zip(order[1:], order[:-1], strict=True):
            take = ~known[here] & known[there]
            result[here][take] = result[there][take]
            known[here] |= take
    holes = ~known.all(axis=(1, 2))
    for index in np.flatnonzero(holes):
        result[index] = _spread(result[index], known[index])
    return result


def _spread(frame: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Holes of a frame filled from coarser and coarser means of what is known."""
    weight = known.astype(np.float32)[..., None]
    colour = frame.astype(np.float32) * weight
    levels = [(colour, weight)]
    while not levels[-1][1].all() and max(levels[-1][1].shape[:2]) > 1:
        levels.append(_halved(*levels[-1]))
    colour, weight = levels[-1]
    result = colour / np.maximum(weight, 1e-6)
    for colour, weight in reversed(levels[:-1]):
        height, width = weight.shape[:2]
        finer = result.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
        result = np.where(weight > 0, colour / np.maximum(weight, 1e-6), finer)
    return np.round(result).clip(0, 255).astype(np.uint8)


def _halved(colour: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over squares of 2 x 2, an odd side extended by nothing."""
    sides = [(0, side % 2) for side in weight.shape[:2]]

    def total(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, [*sides, (0, 0)])
        height, width, channels = padded.shape
        return padded.reshape(height // 2, 2, width // 2, 2, channels).sum(axis=(1, 3))

    return total(colour), total(weight)


def _held(given: Conditioning, grid: canvases.Grid, *, whole: bool) -> np.ndarray:
    """`[t, h, w]` bool: cells of the patches that `_kept_tokens` finds.

    Frames of a patch that begins among the given ones and ends after them are not held.
    """
    t, h, w = grid.latent_shape(*given.shape)[:3]
    held = np.zeros((t, h, w), bool)
    first = grid.frames(grid.patch[0])
    if len(given.video) >= first:
        count = patches.nearest_sizes(len(given.video), grid.group, first=first)[0]
        found = _cells(_kept_tokens(given.kept[:count], grid, whole=whole), grid)
        held[: len(found)] = found
    return held


def _kept_tokens(
    kept: np.ndarray, grid: canvases.Grid, *, whole: bool
) -> Bool[np.ndarray, "t h w"]:
    """Which patches are kept: wholly, or at least in their last frame."""
    rows, columns = grid.cell
    frames, height, width = kept.shape
    cells = kept.reshape(frames, height // rows, rows, width // columns, columns)
    cells = np.asarray(cells.all(axis=(2, 4)))
    first = grid.frames(grid.patch[0])
    ends = list(range(first, frames + 1, grid.group))
    starts = [0, *ends[:-1]] if whole else [end - 1 for end in ends]
    spans = zip(starts, ends, strict=True)
    return np.stack([np.all(cells[start:end], axis=0) for start, end in spans])


def _cells(tokens: np.ndarray, grid: canvases.Grid) -> Bool[np.ndarray, "t h w"]:
    """One value a patch to one a latent cell."""
    for axis, size in enumerate(grid.patch):
        tokens = tokens.repeat(size, axis=axis)
    return tokens


def _encode(model: models.AutoencoderModel, video: np.ndarray) -> np.ndarray:
    pixels = (frame.astype(np.float32) / 127.5 - 1.0 for frame in video)
    return np.concatenate(list(streaming.encode(model, pixels)))
