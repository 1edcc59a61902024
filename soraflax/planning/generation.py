"""The memory that making a video takes, from sizes alone, and what to change.

A model with an outside text encoder is on the devices by turns, part by part
(`generation.generator`), so the largest of three phases must fit. With P parameters of
b bytes on n devices, rows of N tokens (two copies with guidance), width D, hidden size
F, depth L,

    text      P b / n + 2 heads M^2 4                     scores of M text tokens    (1)
    denoise   P b / n + 2 N (24 D + 6 F) / n + 4 P / L    working arrays of a block,
                                                          two gathered layers        (2)
    decode    P 4 + arrays width frames height width 4 / n                          (3)

(2) is what `estimate.estimate_step` has for a block, without what only training keeps.
(3) counts the widest arrays of the decoder's last stage for a chunk of a video, in
tiles where frames are large; six are alive at a time.
"""

import dataclasses
import math
import pathlib
from typing import Any

from soraflax import config as config_lib
from soraflax import flops
from soraflax.autoencoding import decoding, streaming
from soraflax.nn import autoencoder, text_encoder
from soraflax.ops import grid as grids
from soraflax.planning import chips
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models, text_encoders

# GPUs by name, GiB of memory (their data sheets).
GPUS = {
    "l4": 24,
    "rtx3090": 24,
    "rtx4090": 24,
    "rtx5090": 32,
    "v100": 32,
    "a100-40gb": 40,
    "l40s": 48,
    "a100": 80,
    "h100": 80,
    "h200": 141,
    "b200": 180,
}
USABLE = 0.92  # of a device's memory: the rest is the runtime's, and fragments
DECODER_ARRAYS = 6
MAX_DEVICES = 64


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a video is made on.

    Attributes:
      name: as it was asked for.
      count: number of devices.
      memory: bytes of each.
    """

    name: str
    count: int
    memory: int


def parse_devices(name: str) -> Devices:
    """Devices from `v5e:2x2`, or from a GPU and how many, `h100:4`.

    Raises:
      ValueError: no such chip or GPU, naming the nearest.
    """
    kind, _, count = name.partition(":")
    if kind in chips.CHIPS:
        topology = chips.parse(name)
        memory = topology.chip.hbm // topology.chip.devices
        return Devices(name, topology.devices, memory)
    if kind not in GPUS:
        hint = config_lib.nearest(kind, {**chips.CHIPS, **GPUS})
        raise ValueError(f"topology {name!r}: no chip or GPU {kind!r}; {hint}")
    if count and (not count.isdecimal() or not int(count)):
        raise ValueError(f"topology {name!r}: use a form like {kind}:4")
    return Devices(name, int(count or 1), GPUS[kind] * chips.GIB)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What of a video model its memory depends on.

    Attributes:
      video: its configuration.
      codec: sizes of its autoencoder.
      text: sizes of its outside text encoder; None where there is none.
      transformer_bytes, codec_bytes, text_bytes: of parameters on the devices, all.
    """

    video: models.VideoModelConfig
    codec: autoencoder.AutoencoderConfig
    text: text_encoder.TextEncoderConfig | None
    transformer_bytes: int
    codec_bytes: int
    text_bytes: int

    @classmethod
    def of_checkpoint(cls, checkpoint: pathlib.Path) -> "Sizes":
        """Sizes of a model on disk, of which no parameter is read.

        Raises:
          FileNotFoundError, ModelError, ConfigError: as of `models.load_video_model`.
        """
        directory = model_io.find_model(checkpoint, kind="video")
        video = config_lib.to_dataclass(
            models.config_of(directory, kind="video"), models.VideoModelConfig
        )
        codec = config_lib.to_dataclass(
            models.config_of(directory / models.AUTOENCODER, kind="autoencoder"),
            autoencoder.AutoencoderConfig,
        )
        text, text_bytes = None, 0
        if video.transformer.text is None:
            folder = directory / models.TEXT_ENCODER
            record = models.config_of(folder, kind=text_encoders.KIND)
            text = config_lib.to_dataclass(record, text_encoder.TextEncoderConfig)
            text_bytes = _bytes(folder)
        stored = _bytes(directory)
        if text is None:  # its parameters become float32
            stored = 4 * flops.transformer_parameters(video.transformer)
        return cls(
            video,
            codec,
            text,
            stored,
            _bytes(directory / models.AUTOENCODER),
            text_bytes,
        )

    @property
    def grid(self) -> grids.Grid:
        """Sizes of videos."""
        config = self.video.transformer
        return grids.Grid(
            self.codec.temporal_ratio,
            self.codec.spatial_ratio,
            config.patch,
            channels=config.latent_channels,
        )


def _bytes(directory: pathlib.Path) -> int:
    return (directory / model_io.PARAMS).stat().st_size


@dataclasses.dataclass(frozen=True)
class GenerationPlan:
    """Bytes of a device in each phase, and what to change.

    Attributes:
      devices: what the video is made on.
      size, frames: of the video.
      tokens: of a window of it.
      phases: bytes by phase: text, denoise, decode.
      weights: bytes of parameters among them.
      advice: what to change, a line each; none where all fits.
    """

    devices: Devices
    size: tuple[int, int]
    frames: int
    tokens: int
    phases: dict[str, int]
    weights: dict[str, int]
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every phase fits."""
        return max(self.phases.values()) <= USABLE * self.devices.memory


def plan(
    sizes: Sizes,
    devices: Devices,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
) -> GenerationPlan:
    """Equations (1) to (3).

    Args:
      sizes: of the model.
      devices: what the video is made on.
      size: width and height in pixels; None for the model's own.
      frames: of the video; None for the model's own.

    Raises:
      ValueError: a size off the grid, with the nearest on it.
    """
    defaults = sizes.video.sampling
    size = size or (defaults.size if defaults else (64, 64))
    frames = frames or (defaults.frames if defaults else 17)
    made = _phases(sizes, devices.count, size=size, frames=frames)
    found = GenerationPlan(devices, size, frames, *made, ())
    if found.fits:
        return found
    return dataclasses.replace(found, advice=tuple(_advice(sizes, found)))


def _phases(
    sizes: Sizes, count: int, *, size: tuple[int, int], frames: int
) -> tuple[int, dict[str, int], dict[str, int]]:
    """Tokens of a window, and bytes of a device by phase, whole and of parameters."""
    config, large = sizes.video.transformer, sizes.text is not None
    t, h, w, _ = sizes.grid.latent_shape(frames, size[1], size[0])
    t = min(t, sizes.video.window or t)
    tokens = t * h * w // math.prod(config.patch)
    shards = count if large else 1
    weights = {
        "text": sizes.text_bytes // count,
        "denoise": sizes.transformer_bytes // shards,
        "decode": sizes.codec_bytes,
    }
    working = 2 * tokens * (24 * config.width + 6 * config.mlp) // count
    if shards > 1:
        working += 4 * flops.transformer_parameters(config) // config.depth
    length = sizes.video.text_length
    scores = 8 * sizes.text.heads * length**2 if sizes.text else 0
    pixels = size[0] * size[1]
    if pixels > decoding.MAX_PIXELS:
        pixels = math.prod(decoding.TILE)
    chunk = min(frames, sizes.grid.video_frames(1 + streaming.StreamConfig().chunk))
    volume = math.prod((*sizes.codec.patch, sizes.codec.patch[1]))
    widest = max(sizes.codec.decoder_widths[-2:])
    decoder = DECODER_ARRAYS * 4 * widest * chunk * pixels // volume // count
    phases = {"text": scores, "denoise": working, "decode": decoder}
    if not large:
        del phases["text"], weights["text"]
    return tokens, {k: v + weights[k] for k, v in phases.items()}, weights


def _advice(sizes: Sizes, found: GenerationPlan) -> Any:
    """What would make it fit, the nearest first."""
    room, size, frames = USABLE * found.devices.memory, found.size, found.frames

    def needed(count: int, **changes: Any) -> dict[str, int]:
        return _phases(sizes, count, **{"size": size, "frames": frames} | changes)[1]

    large = [name for name, value in found.phases.items() if value > room]
    grid, count = sizes.grid, found.devices.count
    if found.weights.get(large[0], 0) <= room:
        step = grid.frame_step
        shorter = range(frames - step, grid.min_frames - 1, -step)
        fit = (n for n in shorter if max(needed(count, frames=n).values()) <= room)
        if (most := next(fit, None)) is not None:
            yield f"--frames {most} or fewer at this size"
        for scale in (0.75, 0.5, 0.35):
            smaller = tuple(
                max(s, round(side * scale / s) * s)
                for side, s in zip(size, grid.patch_sides[::-1], strict=True)
            )
            if max(needed(count, size=smaller).values()) <= room:
                yield f"--size {smaller[0]}x{smaller[1]} or less"
                break
    more = (2**k for k in range(1, MAX_DEVICES.bit_length()))
    fit = (n for n in more if n > count and max(needed(n).values()) <= room)
    if (least := next(fit, None)) is not None:
        yield f"{least} devices of this kind (--devices {least})"
    for name in large:
        if found.weights[name] > room:
            yield (
                f"weights of the phase '{name}' alone take "
                f"{found.weights[name] / chips.GIB:.1f} GiB of a device: a smaller "
                "model, more devices, or weights in bfloat16"
            )


def table(found: GenerationPlan) -> str:
    """Several lines, without a newline at the end."""
    capacity = found.devices.memory / chips.GIB
    lines = [
        f"{found.devices.name}: {found.devices.count} x {capacity:.0f} GiB",
        f"{found.size[0]}x{found.size[1]}, {found.frames} frames: {found.tokens:,} "
        "tokens a window",
        f"memory of a device, by phase   {'weights':>11}{'in all':>13}",
    ]
    for name, value in found.phases.items():
        share = value / found.devices.memory
        verdict = "fits" if share <= USABLE else "does not fit"
        lines.append(
            f"  {name:<28}{found.weights[name] / chips.GIB:>9.2f} GiB"
            f"{value / chips.GIB:>9.2f} GiB  {100 * share:.0f} %: {verdict}"
        )
    verdict = "it fits" if found.fits else "it does not fit; what would:"
    return "\n".join([*lines, verdict, *(f"  {line}" for line in found.advice)])
