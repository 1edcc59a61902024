"""`soraflax reconstruct`: a video of any length through an autoencoder, as a stream."""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm

from soraflax import media, memory
from soraflax.autoencoding import fitting, streaming
from soraflax.cli import checkpoints, devices
from soraflax.evaluation import metrics
from soraflax.media import arrays
from soraflax.pretrained import models

ARRAY_FPS = 24.0
_LESS_MEMORY = "--chunk 1, --tile 512x512, --devices N or --dtype bfloat16"


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


def run(args: argparse.Namespace) -> None:
    """Check everything that can be, reconstruct, write, print the report."""
    tile = args.tile and (args.tile[1], args.tile[0])
    config = streaming.StreamConfig(chunk=args.chunk, tile=tile, overlap=args.overlap)
    with _opened(args.clip) as clip:
        fps = (clip.fps or ARRAY_FPS) if args.fps is None else args.fps
        _check_out(args.out, args.clip, clip=clip, fps=fps)
        model = checkpoints.load_autoencoder(args.checkpoint, dtype=args.dtype)
        size = (clip.frames, clip.height, clip.width)
        try:
            fit = fitting.fit(model.config, size, rule=args.fit)
        except ValueError as error:
            raise ValueError(f"{args.clip}: {error}; or say --fit pad") from None
        start = time.perf_counter()
        with devices.split_over(args.devices), devices.memory_errors(_LESS_MEMORY):
            quality = metrics.Quality(similarity=None if args.no_ssim else 0.0)
            quality = _write(
                args.out,
                clip,
                model=model,
                fit=fit,
                config=config,
                fps=fps,
                quality=quality,
            )
        seconds = time.perf_counter() - start
    report = _report(
        args.out, model, fit=fit, quality=quality, fps=fps, seconds=seconds
    )
    print(json.dumps(dataclasses.asdict(report)) if args.json else _text(report))


def reconstructed(
    clip: Iterable[np.ndarray],
    model: models.AutoencoderModel,
    *,
    fit: fitting.Fit,
    config: streaming.StreamConfig,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of chunks `[T, H, W, 3]` float32 in [-1, 1]: of the clip, of its decoding.

    The clip is read to its end, so that its reader can find it cut short. Of its frames
    only those are held whose decoding is still to come.

    Raises:
      ValueError: a decoded frame is not finite.
    """
    waiting: collections.deque[np.ndarray] = collections.deque()

    def drawn() -> Iterator[np.ndarray]:
        for frame in clip:
            waiting.append(frame)
            yield as_float(frame)

    source = drawn()
    done = 0
    for made in fit.crop(streaming.reconstruct(model, fit.pad(source), config=config)):
        if not np.isfinite(made).all():
            raise ValueError(
                f"decoded frames {done} to {done + len(made) - 1} are not finite: the "
                "checkpoint is broken, or needs --dtype float32"
            )
        original = np.stack([as_float(waiting.popleft()) for _ in made])
        yield original, np.clip(made, -1.0, 1.0)
        done += len(made)
    if next(source, None) is not None:
        raise ValueError(f"only {done} frames were decoded")


def as_float(frame: np.ndarray) -> np.ndarray:
    """Pixels as float32 in [-1, 1], from uint8 or as they are."""
    if frame.dtype != np.uint8:
        return frame
    return frame.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def as_bytes(frame: np.ndarray) -> np.ndarray:
    """The inverse of `as_float`, to the nearest of 256 levels."""
    return np.round((frame + np.float32(1.0)) * np.float32(127.5)).astype(np.uint8)


def _opened(
    path: pathlib.Path,
) -> contextlib.AbstractContextManager[media.FrameStream]:
    if path.suffix.lower() == arrays.SUFFIX:
        return media.open_array(path)
    return media.open_frames(path)


def _check_out(
    out: pathlib.Path, source: pathlib.Path, *, clip: media.FrameStream, fps: float
) -> None:
    if out.exists() and os.path.samefile(out, source):
        raise ValueError(f"--out {out}: is the clip itself; choose another name")
    if out.suffix.lower() == arrays.SUFFIX:
        media.check_array_target(out)
    else:
        size = (clip.height, clip.width)
        media.check_target(out, frames=clip.frames, fps=fps, size=size)


def _write(
    out: pathlib.Path,
    clip: media.FrameStream,
    *,
    model: models.AutoencoderModel,
    fit: fitting.Fit,
    config: streaming.StreamConfig,
    fps: float,
    quality: metrics.Quality,
) -> metrics.Quality:
    """Reconstruct into a file, under a progress bar; PSNR and SSIM on the way."""
    bar = tqdm.tqdm(total=clip.frames, desc="reconstructing", unit="frame", leave=False)

    def frames() -> Iterator[np.ndarray]:
        nonlocal quality
        for original, made in reconstructed(clip, model, fit=fit, config=config):
            quality = quality.add(original, made)
            bar.update(len(made))
            yield from made

    with bar:
        if out.suffix.lower() == arrays.SUFFIX:
            media.write_array(out, frames(), count=clip.frames)
        else:
            made_by = {"generator": "soraflax", "autoencoder": model.digest}
            metadata = made_by | {"reconstruction_of": clip.name}
            pixels = map(as_bytes, frames())
            media.write_frames(out, pixels, fps=fps, metadata=metadata)
    return quality


def _report(
    out: pathlib.Path,
    model: models.AutoencoderModel,
    *,
    fit: fitting.Fit,
    quality: metrics.Quality,
    fps: float,
    seconds: float,
) -> Report:
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
        host_bytes=memory.peak_bytes(),
        device_bytes=device.get("peak_bytes_in_use"),
    )


def _text(report: Report) -> str:
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
