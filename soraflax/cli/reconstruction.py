"""The work of `soraflax reconstruct`: a video through an autoencoder, as a stream."""

import argparse
import collections
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from soraflax import media, process_memory
from soraflax.autoencoding import padding, streaming
from soraflax.cli import progress
from soraflax.evaluation import metrics
from soraflax.generation import sounds
from soraflax.media import arrays
from soraflax.pretrained import models

ARRAY_FPS = 24.0


@dataclasses.dataclass(frozen=True)
class Report:
    """What a reconstruction measured; its fields are those of `--json`.

    Attributes:
      out: the file.
      frames: of the clip, as are `height`, `width` in pixels and `fps`.
      latent: `(t, h, w, z)` of what the autoencoder saw, padding included.
      compression: numbers in the clip for each in the latent.
      psnr: dB, of the clipped float32 frames against the clip's; None if equal.
      ssim: of the same; None for frames smaller than its window, or unasked.
      seconds: reading, encoding, decoding, measuring, writing; compilation included.
      frames_per_second: frames / seconds.
      host_bytes: most memory this process held.
      device_bytes: most memory of the first device; None where it does not say.
    """

    out: str
    frames: int
    height: int
    width: int
    fps: float
    latent: tuple[int, ...]
    compression: float
    psnr: float | None
    ssim: float | None
    seconds: float
    frames_per_second: float
    host_bytes: int
    device_bytes: int | None


def paired_chunks(
    clip: Iterable[np.ndarray],
    model: models.AutoencoderModel,
    *,
    fit: padding.GridPadding,
    config: streaming.StreamConfig,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of chunks `[T, H, W, 3]` float32 in [-1, 1]: of the clip, of its decoding.

    The clip is read to its end, so that its reader can find it cut short. Of its frames
    only those are held whose decoding is still to come.

    Raises:
      ValueError: a decoded frame is not finite.
    """
    waiting: collections.deque[np.ndarray] = collections.deque()

    def read() -> Iterator[np.ndarray]:
        for frame in clip:
            waiting.append(frame)
            yield as_float(frame)

    source, count = read(), 0
    chunks = streaming.reconstruct(model, fit.pad(source), config=config)
    for decoded in fit.crop(chunks):
        if not np.isfinite(decoded).all():
            raise ValueError(
                f"decoded frames {count} to {count + len(decoded) - 1} are not finite: "
                "the checkpoint is broken, or needs --dtype float32"
            )
        original = np.stack([as_float(waiting.popleft()) for _ in decoded])
        yield original, np.clip(decoded, -1.0, 1.0)
        count += len(decoded)
    if next(source, None) is not None:
        raise ValueError(f"only {count} frames were decoded")


def as_float(frame: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Pixels as float32 in [-1, 1]: converted from uint8, else as they are."""
    if frame.dtype != np.uint8:
        return frame
    return frame.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def as_bytes(frame: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """The inverse of `as_float`, to the nearest of 256 levels."""
    return np.round((frame + np.float32(1.0)) * np.float32(127.5)).astype(np.uint8)


def open_clip(
    path: pathlib.Path,
) -> contextlib.AbstractContextManager[media.FrameStream]:
    """The frames of a video or image file, or of an `.npy` file, as a stream."""
    if path.suffix.lower() == arrays.SUFFIX:
        return media.open_array(path)
    return media.open_frames(path)


def check_out(
    out: pathlib.Path, source: pathlib.Path, *, clip: media.FrameStream, fps: float
) -> None:
    """Refuse an output that could not be written, before anything is decoded.

    Raises:
      ValueError: it is the clip itself, or a file that cannot hold such a video.
    """
    if out.exists() and os.path.samefile(out, source):
        raise ValueError(f"--out {out}: is the clip itself; choose another name")
    if out.suffix.lower() == arrays.SUFFIX:
        media.check_array_target(out)
    else:
        size = (clip.height, clip.width)
        media.check_target(out, frames=clip.frames, fps=fps, size=size)


def kept_sound(
    args: argparse.Namespace, clip: media.FrameStream, *, fps: float
) -> sounds.KeptSound:
    """The clip's sound, which lasts as long as its frames.

    Args:
      args: of the command: `no_audio`, `clip`, `out`.
      clip: the frames of `args.clip`.
      fps: of the result.
    """
    if args.no_audio or args.clip.suffix.lower() == arrays.SUFFIX:
        return sounds.KeptSound()
    seconds = clip.frames / fps
    heard = [sounds.Clip(args.clip, clip.frames, clip.fps, str(args.clip))]
    rules: Any = {"suffix": args.out.suffix, "fps": fps, "seconds": seconds}
    return sounds.kept(heard, starts=[0.0], **rules)


def write(
    out: pathlib.Path,
    clip: media.FrameStream,
    *,
    model: models.AutoencoderModel,
    fit: padding.GridPadding,
    config: streaming.StreamConfig,
    fps: float,
    quality: metrics.Quality,
    kept: Sequence[media.PlacedSound] = (),
) -> metrics.Quality:
    """Reconstruct into a file, under a line of progress; PSNR and SSIM on the way."""
    line = progress.Progress("soraflax reconstruct")

    def frames() -> Iterator[np.ndarray]:
        nonlocal quality
        done = 0
        line.begin("compiling, and the first frames")
        for original, decoded in paired_chunks(clip, model, fit=fit, config=config):
            quality = quality.add(original, decoded)
            done += len(decoded)
            line.update(done, clip.frames, what="frame {} of {}")
            yield from decoded

    with line:
        if out.suffix.lower() == arrays.SUFFIX:
            media.write_array(out, frames(), count=clip.frames)
        else:
            metadata = {
                "generator": "soraflax",
                "autoencoder": model.digest,
                "reconstruction_of": clip.name,
            }
            pixels = map(as_bytes, frames())
            beside: Any = {"metadata": metadata, "sounds": kept}
            media.write_frames(out, pixels, fps=fps, **beside)
    return quality


def measured_report(
    out: pathlib.Path,
    model: models.AutoencoderModel,
    *,
    fit: padding.GridPadding,
    quality: metrics.Quality,
    fps: float,
    seconds: float,
) -> Report:
    """The report of a reconstruction that is written."""
    frames, height, width = fit.size
    latent = (*model.config.latent_grid(*fit.grid), model.config.latent_channels)
    device: dict[str, Any] = jax.local_devices()[0].memory_stats() or {}
    return Report(
        out=str(out),
        frames=frames,
        height=height,
        width=width,
        fps=fps,
        latent=latent,
        compression=float(3 * np.prod(fit.size) / np.prod(latent)),
        psnr=quality.psnr if np.isfinite(quality.psnr) else None,
        ssim=quality.ssim,
        seconds=seconds,
        frames_per_second=frames / seconds,
        host_bytes=process_memory.peak_bytes(),
        device_bytes=device.get("peak_bytes_in_use"),
    )


def text(report: Report) -> str:
    """The report in lines for a reader."""
    size = f"{report.frames} frames of {report.width} x {report.height}"
    latent = " x ".join(map(str, report.latent))
    psnr = "infinite" if report.psnr is None else f"{report.psnr:.2f} dB"
    ssim = "left out, or too small" if report.ssim is None else f"{report.ssim:.4f}"
    held = f"{report.host_bytes / 2**30:.2f} GiB host"
    if report.device_bytes is not None:
        held += f", {report.device_bytes / 2**30:.2f} GiB device"
    lines = {
        "clip": f"{size}, {report.fps:g} frames per second",
        "latent": f"{latent}, {report.compression:.1f} times fewer numbers",
        "PSNR": psnr,
        "SSIM": ssim,
        "speed": f"{report.frames_per_second:.2f} frames per second",
        "memory": f"{held}, at most",
    }
    return "\n".join([report.out, *(f"  {k:8}{v}" for k, v in lines.items())])
