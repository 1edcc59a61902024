"""Given pixels: from a video of which parts are to be kept, to a canvas and back.

Tasks speak of pixels (`keep_mask`), the transformer of latents (`cond_mask`). A token
is known where all pixels it stands for are kept. What is made is decoded, and the kept
pixels are put back as they came (1), bit for bit:

    video = keep_mask ? given : decode(latent)                                    (1)

The autoencoder is causal, so the latent of a frame depends on the frames before it. For
frames kept at the start that changes nothing: their latents are those they have in the
longer clip. Everywhere else a kept frame follows frames that do not exist yet, and has
no latent of its own. This is dealt with in two passes:

1. Unknown pixels are filled in (`fill_unknown`): with what is next kept at their place,
   so that time stands still before it, or with what surrounds them. Its latents of kept
   pixels are held while the rest is denoised.
2. The result, with (1), is encoded again (`refined`). Now the latents of kept pixels
   follow what was made, not what was assumed, and are held; the rest is noised to the
   strength `refine_strength` and denoised once more (SDEdit), so that it fits them.

`needs_refinement` says whether there is a second pass. A patch in time of which only
the last frame is kept is held in the first pass, and free in the second.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from soraflax.autoencoding import streaming
from soraflax.generation import canvas as canvases
from soraflax.ops import grid as grids
from soraflax.pretrained import models


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """A video to be filled in.

    Attributes:
      video: `[T, H, W, 3]` uint8; what is not kept matters only for a strength below 1.
      keep_mask: `[T, H, W]` bool; true where the video is kept.
      fps: frames per second.
      frames: length of the video to be made, T or more; of frames beyond T nothing is
        given.
      strength: as of `Canvas`.
      before, after: frames that come before and after what is made, untouched.
      result_frames: how many frames of what is made, from the start, are in the
        result; None for all.
      prepend: new frames of further pieces that are made before the result, one after
        the other, the one next to it first (`tasks.extend`, backward).
      prepend_context: frames of the result that each of those is shown, at most.
      sides: two tasks whose last frames, as many as are not kept here, are made before
        and dissolved, and stand in the place of those (`generation.transitions`).

    Raises:
      ValueError: other types, a mask of another size, a rate or strength out of range.
    """

    video: UInt8[np.ndarray, "T H W 3"]
    keep_mask: Bool[np.ndarray, "T H W"]
    fps: float
    frames: int
    strength: float = 1.0
    before: UInt8[np.ndarray, "T0 H W 3"] | None = None
    after: UInt8[np.ndarray, "T1 H W 3"] | None = None
    result_frames: int | None = None
    prepend: tuple[int, ...] = ()
    prepend_context: int = 0
    sides: "tuple[Conditioning, Conditioning] | None" = None

    def __post_init__(self) -> None:
        if self.keep_mask.shape != self.video.shape[:3]:
            raise ValueError(
                f"mask of {self.keep_mask.shape} on a video of {self.video.shape[:3]}"
            )
        if self.video.dtype != np.uint8 or self.keep_mask.dtype != np.bool_:
            raise ValueError(
                f"a video of {self.video.dtype} and a mask of {self.keep_mask.dtype}: "
                "give uint8 and bool"
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
        """Frames of the result, further pieces included."""
        given = sum(len(part) for part in (self.before, self.after) if part is not None)
        made = self.frames if self.result_frames is None else self.result_frames
        return given + made + sum(self.prepend)

    def paste(
        self, video: UInt8[np.ndarray, "t H W 3"], *, start: int = 0
    ) -> UInt8[np.ndarray, "t H W 3"]:
        """Equation (1), of frames `start` and after."""
        given = slice(start, min(start + len(video), len(self.video)))
        count = max(0, given.stop - start)
        pasted = np.where(
            self.keep_mask[given][..., None], self.video[given], video[:count]
        )
        return np.concatenate([pasted, video[count:]])

    def assemble(self, video: UInt8[np.ndarray, "t H W 3"]) -> np.ndarray:
        """The result: the pasted video between its neighbours, without the pieces."""
        parts = (self.before, video[: self.result_frames], self.after)
        return np.concatenate([part for part in parts if part is not None])


@dataclasses.dataclass(frozen=True)
class Job:
    """A video to be made.

    Attributes:
      conditioning: what is given, and of which size the rest is; from
        `generation.tasks`, or `Generator.prompt` where nothing is given.
      text: what the video shows.
      negative: what it should not show; takes the empty caption's place in guidance.
      seed: PRNG seed of the noise, 0 to 2**32 - 1.
      refine_strength: strength of the second pass, where there is one; 0 goes without.
      task: name of the task, such as 'extend'; for the record.
      notes: what was changed about the input, a line each.
      options: of the task, JSON values, such as a strength; for the record.

    Raises:
      ValueError: a seed or strength out of range.
    """

    conditioning: Conditioning
    text: str = ""
    negative: str = ""
    seed: int = 0
    refine_strength: float = 0.5
    task: str = ""
    notes: Sequence[str] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        canvases.check_strength(self.refine_strength)
        canvases.check_seed(self.seed)


def encode(
    given: Conditioning,
    model: models.AutoencoderModel,
    *,
    grid: grids.Grid,
    reference_fps: float,
) -> canvases.Canvas:
    """The canvas of the first pass, without texts and seed.

    Args:
      given: pixels, on the grid.
      model: the autoencoder whose latents are meant.
      grid: sizes that the transformer can make.
      reference_fps: frame rate at which it counts latent frames.

    Raises:
      ValueError: a size off the grid, with the nearest on it.
    """
    shape = grid.latent_shape(*given.shape)
    cond_mask = known_cells(given, grid, whole=False)
    # From pure noise only latents up to the last known one are looked at.
    needed = shape[0]
    if given.strength == 1:
        known_frames = np.flatnonzero(cond_mask.any(axis=(1, 2)))
        needed = int(known_frames[-1]) + 1 if known_frames.size else 0
    latent = np.zeros(shape, np.float32)
    if needed:
        frames = grid.video_frames(needed)
        video, keep_mask = given.video[:frames], given.keep_mask[:frames]
        if given.strength == 1:
            video = fill_unknown(video, keep_mask)
        latent[:needed] = _encode(model, video)
    # An image has no rate, and the position of its only latent frame is 0.
    step = reference_fps / given.fps if given.frames > 1 else 1.0
    return canvases.Canvas(latent, cond_mask, step, given.strength)


def refined(
    given: Conditioning,
    video: UInt8[np.ndarray, "T H W 3"],
    *,
    model: models.AutoencoderModel,
    grid: grids.Grid,
    first: canvases.Canvas,
    strength: float,
) -> canvases.Canvas:
    """The canvas of the second pass.

    Args:
      given: what the first pass was given.
      video: what it made, pasted.
      model: the autoencoder whose latents are meant.
      grid: sizes that the transformer can make.
      first: canvas of the first pass.
      strength: how much of what was made is denoised again; no more than at first.
    """
    return dataclasses.replace(
        first,
        latent=_encode(model, video),
        cond_mask=known_cells(given, grid, whole=True),
        strength=min(strength, first.strength),
    )


def needs_refinement(
    given: Conditioning,
    model: models.AutoencoderModel,
    *,
    grid: grids.Grid,
    first: canvases.Canvas,
) -> bool:
    """Whether the second pass would hold something else than the first.

    An autoencoder that looks back over no more frames than a patch has none to look at
    before a kept one: then the latents of whole frames are what they are. To find out,
    the kept pixels are encoded among others.
    """
    if not may_need_refinement(given.keep_mask, grid):
        return False
    cond_mask = known_cells(given, grid, whole=True)
    if (cond_mask != first.cond_mask).any():
        return True
    if not cond_mask.any():
        return False
    video = np.where(given.keep_mask[..., None], given.video, np.uint8(128))
    count = grid.latent_shape(*video.shape[:3])[0]
    other = _encode(model, video)[cond_mask[:count]]
    own = first.latent[cond_mask]
    return not np.allclose(other, own, atol=1e-3 * max(float(np.std(own)), 1e-6))


def may_need_refinement(keep_mask: Bool[np.ndarray, "T H W"], grid: grids.Grid) -> bool:
    """Whether kept pixels follow, or lie beside, pixels that are not kept."""
    if not keep_mask.any():
        return False
    whole_frames = keep_mask.all(axis=(1, 2))
    # Frames kept whole from the start on; argmin finds the first that is not.
    start = len(keep_mask) if keep_mask.all() else int(np.argmin(whole_frames))
    if keep_mask[start:].any():
        return True
    # They must end with a patch: the rest of one would depend on what is made.
    first, step = grid.min_frames, grid.frame_step
    return start > 0 and (start < first or (start - first) % step != 0)


def fill_unknown(
    video: UInt8[np.ndarray, "T H W 3"], keep_mask: Bool[np.ndarray, "T H W"]
) -> UInt8[np.ndarray, "T H W 3"]:
    """Every pixel that is not kept filled in: from later, else earlier, else around.

    Raises:
      ValueError: nothing is kept.
    """
    if not keep_mask.any():
        raise ValueError("nothing is kept: there is nothing to fill from")
    result = np.where(keep_mask[..., None], video, 0).astype(np.uint8)
    known = keep_mask.copy()
    forward = range(len(video))
    # Backwards every frame takes what the next one knows, kept or just taken, so the
    # nearest later pixel arrives; then forwards what is left from the frame before.
    for order in (forward[::-1], forward):
        for source, target in itertools.pairwise(order):
            takes = ~known[target] & known[source]
            result[target][takes] = result[source][takes]
            known[target] |= takes
    for index in np.flatnonzero(~known.all(axis=(1, 2))):
        result[index] = _push_pull(result[index], known[index])
    return result


def _push_pull(
    frame: UInt8[np.ndarray, "H W 3"], known: Bool[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Holes of a frame filled from coarser and coarser means of what is known.

    Push-pull filling (Gortler et al., The Lumigraph, SIGGRAPH 1996, section 3.4): sums
    of colours and of weights are pulled down a pyramid until no cell is empty, and
    their quotients pushed up again into what is empty on the finer levels.
    """
    weight = known.astype(np.float32)[..., None]
    colour = frame.astype(np.float32) * weight
    pyramid = [(colour, weight)]
    while not pyramid[-1][1].all() and max(pyramid[-1][1].shape[:2]) > 1:
        pyramid.append((_halved(pyramid[-1][0]), _halved(pyramid[-1][1])))
    colour, weight = pyramid[-1]
    result = colour / np.maximum(weight, 1e-6)
    for colour, weight in reversed(pyramid[:-1]):
        height, width = weight.shape[:2]
        # An odd side was padded on the way down: the surplus is cut off again.
        coarse = result.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
        result = np.where(weight > 0, colour / np.maximum(weight, 1e-6), coarse)
    return np.round(result).clip(0, 255).astype(np.uint8)


def _halved(values: Float32[np.ndarray, "H W c"]) -> Float32[np.ndarray, "h w c"]:
    """Sums over squares of 2 x 2, an odd side padded with zeros."""
    padded = np.pad(values, [*((0, side % 2) for side in values.shape[:2]), (0, 0)])
    height, width, channels = padded.shape
    return padded.reshape(height // 2, 2, width // 2, 2, channels).sum(axis=(1, 3))


def known_cells(
    given: Conditioning, grid: grids.Grid, *, whole: bool
) -> Bool[np.ndarray, "t h w"]:
    """Latent cells whose patches are kept: the `cond_mask` of a pass.

    Args:
      given: pixels, on the grid.
      grid: sizes that the transformer can make.
      whole: whether a patch must be kept in all of its frames; else the last suffices.
    """
    t, h, w = grid.latent_shape(*given.shape)[:3]
    cond_mask = np.zeros((t, h, w), bool)
    if len(given.video) >= grid.min_frames:
        # A patch that begins among the given frames and ends after them is not known.
        count = grid.frames_below(len(given.video))
        cells = kept_patches(given.keep_mask[:count], grid, whole=whole)
        for axis, size in enumerate(grid.patch):
            cells = cells.repeat(size, axis=axis)
        cond_mask[: len(cells)] = cells
    return cond_mask


def kept_patches(
    keep_mask: Bool[np.ndarray, "T H W"], grid: grids.Grid, *, whole: bool
) -> Bool[np.ndarray, "a b c"]:
    """Which patches are kept: wholly, or at least in their last frame.

    Args:
      keep_mask: of a legal number of frames.
      grid: sizes that the transformer can make.
      whole: see `known_cells`.
    """
    rows, columns = grid.patch_sides
    frames, height, width = keep_mask.shape
    planes = keep_mask.reshape(frames, height // rows, rows, width // columns, columns)
    planes = np.asarray(planes.all(axis=(2, 4)))
    # The first patch holds 1 + r (pt - 1) frames, every later one r pt; it is known
    # from all of them, or from the last alone, which the causal encoder puts there.
    stops = list(range(grid.min_frames, frames + 1, grid.frame_step))
    starts = [0, *stops[:-1]] if whole else [stop - 1 for stop in stops]
    spans = zip(starts, stops, strict=True)
    return np.stack([np.all(planes[start:stop], axis=0) for start, stop in spans])


def _encode(
    model: models.AutoencoderModel, video: UInt8[np.ndarray, "T H W 3"]
) -> Float32[np.ndarray, "t h w z"]:
    pixels = (frame.astype(np.float32) / 127.5 - 1.0 for frame in video)
    return np.concatenate(list(streaming.encode(model, pixels)))
