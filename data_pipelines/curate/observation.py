"""Everything later steps need of a file, from decoding it once.

Of every frame, compared with those before it on a grid of at most 64 x 64 pixels:

    change     mean |x_t - x_s| after the best shift of each pixel, s = t-1 and t-2  (1)
    stillness  mean |x_t - x_(t-1)|

Equation (1) takes the least difference over shifts of up to two grid pixels, so that
what moves changes little and what is replaced changes much. Of samples, two a second
and wherever much changes: 32 x 32 colours, which rows and columns are lit, sharpness,
likelihood of text, a thumbnail, and the scores of users' models.
"""

import dataclasses
import importlib
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from data_pipelines.curate import settings as settings_lib
from soraflax import media

VERSION = 2  # of what is measured; another one decodes every file again
GRID, SAMPLE, PROFILE, THUMBNAIL = 64, 32, 128, 160
_SHIFTS = 2
_BLACK, _LIT = 32, 9  # most luma of black, and how much more of what is lit
_MUCH = 6.0  # change after which a frame is sampled out of turn
_TEXT_SIDE = 360
_SCORED_SIDE = 256


@dataclasses.dataclass(frozen=True)
class Observation:
    """What was measured of a file; T frames, K samples.

    Attributes:
      frames, height, width, fps: of the file, as it is shown.
      notes: what reading does to its frames.
      change, change2: equation (1) against the frame before and the one before it.
      stillness: levels of 255.
      displacement: by the codec's motion vectors, in longer sides; NaN where it wrote
        none.
      at: frame of each sample.
      samples: the frame squeezed to 32 x 32.
      rows, columns: part of a row and of a column that is lit, of 255.
      sharpness: variance of the Laplacian of its luma.
      text: part of the picture that looks like text.
      thumbnails: JPEG.
      scores: of users' models, by name.
      cuts: first frames of shots, where another detector found them.
    """

    frames: int
    height: int
    width: int
    fps: float
    notes: tuple[str, ...]
    change: Float32[np.ndarray, "T"]
    change2: Float32[np.ndarray, "T"]
    stillness: Float32[np.ndarray, "T"]
    displacement: Float32[np.ndarray, "T"]
    at: Int32[np.ndarray, "K"]
    samples: UInt8[np.ndarray, "K 32 32 3"]
    rows: UInt8[np.ndarray, "K 128"]
    columns: UInt8[np.ndarray, "K 128"]
    sharpness: Float32[np.ndarray, "K"]
    text: Float32[np.ndarray, "K"]
    thumbnails: tuple[bytes, ...]
    scores: Mapping[str, Float32[np.ndarray, "K"]]
    cuts: tuple[int, ...] | None = None

    def to_bytes(self) -> bytes:
        """An uncompressed .npz."""
        facts, arrays = {}, {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            target = arrays if isinstance(value, np.ndarray) else facts
            target[field.name] = value
        sizes = [len(data) for data in facts.pop("thumbnails")]
        scores = facts.pop("scores")
        arrays |= {f"score:{name}": values for name, values in scores.items()}
        arrays["jpeg"] = np.frombuffer(b"".join(self.thumbnails), np.uint8)
        arrays["sizes"] = np.array(sizes, np.int64)
        text = json.dumps(facts, sort_keys=True).encode()
        arrays["facts"] = np.frombuffer(text, np.uint8)
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Observation":
        """Inverse of `to_bytes`.

        Raises:
          ValueError: the bytes are damaged.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                arrays = dict(found)
        except Exception as error:  # zipfile's are many
            raise ValueError(f"damaged observation: {error}") from error
        facts = json.loads(arrays.pop("facts").tobytes())
        jpeg, sizes = arrays.pop("jpeg").tobytes(), arrays.pop("sizes")
        ends = np.cumsum(sizes)
        scores = {n[6:]: arrays.pop(n) for n in list(arrays) if n.startswith("score:")}
        return cls(
            **facts
            | {
                "notes": tuple(facts["notes"]),
                "cuts": None if facts["cuts"] is None else tuple(facts["cuts"]),
                "thumbnails": tuple(
                    jpeg[end - size : end]
                    for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)
                ),
                "scores": scores,
            },
            **arrays,
        )

    def inside(self, first: int, last: int) -> Int32[np.ndarray, "n"]:
        """Samples of the frames first..last, by number; of a cut, those after it."""
        return np.flatnonzero((self.at >= first) & (self.at <= last)).astype(np.int32)


def observe(
    stream: media.FrameStream, settings: settings_lib.ProbeSettings
) -> Observation:
    """Measure an open file; memory grows with its duration by 100 bytes a frame.

    Raises:
      MediaError: as decoding does.
      ValueError: a scorer that cannot be loaded, or whose scores are no numbers.
    """
    fps = stream.fps or 1.0
    measures = _Measures(fps, settings)
    for frame in stream:
        measures.add(frame)
    return measures.finish(stream, fps)


def load_scorer(spec: str) -> Any:
    """The function that `module:name` says.

    Raises:
      ValueError: there is none.
    """
    module, _, name = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"scorer {spec!r}: {error}; give module:function") from error


class _Measures:
    def __init__(self, fps: float, settings: settings_lib.ProbeSettings) -> None:
        self.every = max(1, round(fps * settings.sample_seconds))
        self.scorers = {n: load_scorer(s) for n, s in settings.scorers.items()}
        self.shots = _SceneDetect(fps) if settings.detector != "histogram" else None
        self.small: list[np.ndarray] = []
        self.per_frame: list[tuple[float, float, float]] = []
        self.samples: list[dict[str, Any]] = []
        self.last: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        index, small = len(self.per_frame), shrink(frame, GRID)
        changes = [change(small, before) for before in reversed(self.small)]
        still = float(_distance(small, self.small[-1]).mean()) if self.small else 0.0
        changes += [0.0] * (2 - len(changes))
        self.per_frame.append((changes[0], changes[1], still))
        self.small = [*self.small[-1:], small]
        if index % self.every == 0 or changes[0] > _MUCH:
            self.samples.append(self._sample(index, frame))
        if self.shots is not None:
            self.shots.add(frame)
        self.last = frame

    def _sample(self, index: int, frame: np.ndarray) -> dict[str, Any]:
        image = Image.fromarray(frame)
        luma = image.convert("L")
        profile = np.asarray(luma.resize((PROFILE, PROFILE), Image.Resampling.BOX))
        # What is black in a file is what its darkest part is, as noise leaves it.
        black = float(np.percentile(profile, 2))
        lit = profile > (black + _LIT if black <= _BLACK else -1)
        sample = {
            "at": index,
            "samples": np.asarray(image.resize((SAMPLE, SAMPLE), Image.Resampling.BOX)),
            "rows": np.round(255 * lit.mean(axis=1)).astype(np.uint8),
            "columns": np.round(255 * lit.mean(axis=0)).astype(np.uint8),
            "sharpness": laplacian_variance(np.asarray(luma)),
            "text": text_likelihood(np.asarray(_reduced(luma, _TEXT_SIDE))),
            "thumbnail": _jpeg(_reduced(image, THUMBNAIL)),
        }
        shown = shrink(frame, _SCORED_SIDE)
        for name, scorer in self.scorers.items():
            value = float(scorer(shown))
            if not math.isfinite(value):
                raise ValueError(f"scorer {name} gave {value}; give a finite number")
            sample[f"score:{name}"] = value
        return sample

    def finish(self, stream: media.FrameStream, fps: float) -> Observation:
        count = len(self.per_frame)
        if self.last is not None and self.samples[-1]["at"] != count - 1:
            self.samples.append(self._sample(count - 1, self.last))
        measured = np.array(self.per_frame, np.float32).T

        def column(name: str, kind: Any) -> Any:
            return np.array([sample[name] for sample in self.samples], kind)

        return Observation(
            frames=count,
            height=stream.height,
            width=stream.width,
            fps=fps,
            notes=tuple(stream.notes),
            change=measured[0],
            change2=measured[1],
            stillness=measured[2],
            displacement=np.array(
                stream.displacements or [math.nan] * count, np.float32
            ),
            at=column("at", np.int32),
            samples=column("samples", np.uint8),
            rows=column("rows", np.uint8),
            columns=column("columns", np.uint8),
            sharpness=column("sharpness", np.float32),
            text=column("text", np.float32),
            thumbnails=tuple(sample["thumbnail"] for sample in self.samples),
            scores={n: column(f"score:{n}", np.float32) for n in self.scorers},
            cuts=None if self.shots is None else self.shots.cuts(),
        )


class _SceneDetect:
    """Shots by PySceneDetect's content detector."""

    def __init__(self, fps: float) -> None:
        try:
            detectors = importlib.import_module("scenedetect.detectors")
            common = importlib.import_module("scenedetect")
        except ImportError as error:
            raise ImportError(
                "PySceneDetect is not installed: pip install 'soraflax[scenes]', or "
                "use the detector 'histogram'"
            ) from error
        self.detector = detectors.AdaptiveDetector(min_scene_len=1)
        self.timecode, self.fps = common.FrameTimecode, fps
        self.found: list[Any] = []
        self.count = 0

    def add(self, frame: np.ndarray) -> None:
        at = self.timecode(self.count, self.fps)
        self.found += self.detector.process_frame(at, frame[..., ::-1])
        self.count += 1

    def cuts(self) -> tuple[int, ...]:
        return tuple(sorted({int(getattr(f, "frame_num", f)) for f in self.found}))


def shrink(frame: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with its longer side at most `side`, area-averaged."""
    return np.asarray(_reduced(Image.fromarray(frame), side))


def _reduced(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(scale * length)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def change(
    frame: UInt8[np.ndarray, "h w 3"], before: UInt8[np.ndarray, "h w 3"]
) -> float:
    """Equation (1), in levels of 255."""
    return float(least_difference(frame, before).mean())


def least_difference(
    frame: UInt8[np.ndarray, "h w 3"], before: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w"]:
    """For each pixel the least difference to any near it in the other frame."""
    height, width = frame.shape[:2]
    pad = [(_SHIFTS, _SHIFTS), (_SHIFTS, _SHIFTS), (0, 0)]
    padded = np.pad(before, pad, mode="edge")
    least = np.full((height, width), 255, np.uint8)
    for dy in range(2 * _SHIFTS + 1):
        for dx in range(2 * _SHIFTS + 1):
            shifted = padded[dy : dy + height, dx : dx + width]
            np.minimum(least, _distance(frame, shifted), out=least)
    return least


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Greatest difference of a channel."""
    return (np.maximum(a, b) - np.minimum(a, b)).max(axis=-1)


def laplacian_variance(luma: UInt8[np.ndarray, "H W"]) -> float:
    """Sharpness; 0 of frames without an inside."""
    x = luma.astype(np.int16)
    if min(x.shape) < 3:
        return 0.0
    inner = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]
    return float(inner.var(dtype=np.float64))


def text_likelihood(luma: UInt8[np.ndarray, "H W"]) -> float:
    """Part of the blocks of 8 x 24 pixels in which strong edges go up and down often.

    Strokes of letters do so along a line; textures do, but weakly, and outlines once.
    """
    step = np.diff(luma.astype(np.int16), axis=1)
    height, width = step.shape[0] // 8 * 8, step.shape[1] // 24 * 24
    if not height or not width:
        return 0.0
    blocks = step[:height, :width].reshape(height // 8, 8, width // 24, 24)
    up, down = (blocks > 48).sum((1, 3)), (blocks < -48).sum((1, 3))
    flat = (np.abs(blocks) < 16).mean((1, 3))
    texts = (up >= 8) & (down >= 8) & (flat > 0.3)
    beside = np.zeros_like(texts)
    beside[:, 1:] |= texts[:, :-1]
    beside[:, :-1] |= texts[:, 1:]
    return float((texts & beside).mean())


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70)
    return out.getvalue()
