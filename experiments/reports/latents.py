"""The report on an autoencoder that the authors of a transformer need.

    python -m experiments.reports.latents --checkpoint demo/autoencoder \\
        --dataset demo/dataset --output report

For held-out clips, of the sizes in which the stage `autoencoder` measures them, decoded
from the posterior's mean:

    channels        mean, deviation, shape and correlation of the latent channels, how
                    alike neighbouring cells are, the posterior's own deviation
    reconstruction  PSNR, SSIM, LPIPS (with weights), Fréchet distance
    frames          PSNR of the first, middle and last frame, and of every other
    flicker         what changes when a still frame is repeated

Writes `report.json` and `report.png`, and prints one JSON line for each of the four.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import latents as windows_lib
from data_pipelines import progress, records, transforms
from experiments.plots import latents as latent_figure
from experiments.stages.autoencoder import config as stage_config
from soraflax.cli import parser as cli
from soraflax.evaluation import fidelity, frechet, latent_statistics, metrics
from soraflax.nn import autoencoder, perceptual
from soraflax.ops import grid as grids
from soraflax.pretrained import models
from soraflax.train import reconstruction
from soraflax.weights import lpips

SECTIONS = ("channels", "reconstruction", "frames", "flicker")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The clips that are measured.

    Attributes:
      split: split of the dataset.
      clips: greatest number of clips.
      fit: limits of a clip's size.
      batch: clips of one size that are measured together.
      lpips: file or directory of LPIPS weights; empty leaves LPIPS out.
    """

    split: str = "validation"
    clips: int = 64
    fit: transforms.FitConfig = dataclasses.field(
        default_factory=lambda: stage_config.AutoencoderEvaluationConfig().fit
    )
    batch: int = 4
    lpips: str = ""

    def __post_init__(self) -> None:
        numbers = {
            "clips": self.clips,
            "batch": self.batch,
            "max frames": self.fit.max_frames,
            "max tokens": self.fit.max_tokens,
        }
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"{name} {value}: use 1 or more")


@dataclasses.dataclass(frozen=True)
class ClipMeasurement:
    """The measurements of one clip.

    Attributes:
      window: the clip, and its part that was measured.
      scalars: PSNR in dB, SSIM and, with weights, LPIPS.
      latent: `[t, h, w, z]`, mean of the posterior.
      noise: `[t, h, w, z]`, standard deviation of the posterior.
      errors: `[T]`, mean squared error of each frame.
      features: features of the clip and of its reconstruction (Fréchet distance).
      steps: `[T - 1]`, flicker of its middle frame repeated; empty for an image.
      still: peak and mean error of the same, in 8-bit levels.
    """

    window: windows_lib.ClipWindow
    scalars: dict[str, float]
    latent: np.ndarray
    noise: np.ndarray
    errors: np.ndarray
    features: tuple[np.ndarray, np.ndarray]
    steps: np.ndarray
    still: tuple[float, float]


def run(
    checkpoint: pathlib.Path,
    dataset: pathlib.Path,
    *,
    output: pathlib.Path,
    config: ReportConfig,
) -> dict[str, Any]:
    """Measure, write both files; returns what `report.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line, before anything is written.
    """
    for path in (output, *output.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path}: is a file; give a directory as --output")
    model = models.load_autoencoder(checkpoint)
    weights = lpips.load_lpips(config.lpips) if config.lpips else None
    clips = records.open_dataset(dataset, config.split)
    measured = measure(model, clips, config=config, weights=weights)
    report = {
        "autoencoder": {
            "digest": model.digest,
            "temporal_ratio": model.config.temporal_ratio,
            "spatial_ratio": model.config.spatial_ratio,
            "latent_channels": model.config.latent_channels,
        },
        "clips": {
            "split": config.split,
            "count": len(measured),
            "images": sum(len(clip.errors) == 1 for clip in measured),
            "fit": dataclasses.asdict(config.fit),
        },
        **summarise(measured, model.config.temporal_ratio),
    }
    report = plain(report)
    shown = examples(model, clips, measured=measured)
    output.mkdir(parents=True, exist_ok=True)
    latent_figure.draw(output / "report.png", report, examples=shown)
    text = json.dumps(report, indent=2, allow_nan=False)
    (output / "report.json").write_text(text + "\n")
    return report


def measure(
    model: models.AutoencoderModel,
    clips: Any,
    *,
    config: ReportConfig,
    weights: Any = None,
) -> list[ClipMeasurement]:
    """Every clip through the autoencoder and back, with a progress bar."""
    params = jax.device_put(model.params)
    module = autoencoder.Autoencoder(model.config)
    measured = []
    with progress.bar(
        total=min(config.clips, len(clips)), what="clips", unit="clip"
    ) as bar:
        for windows, videos in _batches(clips, model.config, config=config):
            values = jax.device_get(
                _measure(module, params, weights=weights, videos=videos)
            )
            for index, window in enumerate(windows):
                clip = jax.tree.map(lambda leaf, index=index: leaf[index], values)
                measured.append(_clip_measurement(window, clip))
            bar.update(len(windows))
    return measured


def _batches(
    clips: Any, model: autoencoder.AutoencoderConfig, *, config: ReportConfig
) -> Iterator[tuple[list[windows_lib.ClipWindow], np.ndarray]]:
    """Windows, and uint8 videos `[B, T, H, W, 3]` filled up to the batch size."""
    grid = grids.Grid(model.temporal_ratio, model.spatial_ratio, patch=(1, 2, 2))
    cache = windows_lib.LatentCacheConfig(fit=config.fit)
    windows = windows_lib.plan_windows(clips[: config.clips], grid, config=cache)
    batches = windows_lib.fitted_batches(clips, windows, batch=config.batch)
    for indexed, loaded in batches:
        videos = [video for _, video in loaded]
        videos += [videos[-1]] * (config.batch - len(videos))
        yield [window for _, window in indexed], np.stack(videos)


@functools.partial(jax.jit, static_argnums=0)
def _measure(
    module: autoencoder.Autoencoder, params: Any, *, weights: Any, videos: jax.Array
) -> dict[str, Any]:
    x = reconstruction.as_float(videos)
    result: Any = module.apply({"params": params}, x)
    y = jnp.clip(result.video, -1.0, 1.0)
    values = {
        "scalars": {"psnr_db": metrics.psnr(y, x), "ssim": metrics.ssim(y, x)},
        "latent": result.mean,
        "noise": jnp.exp(0.5 * result.log_variance),
        "errors": fidelity.frame_errors(y, x),
        "features": (frechet.band_features(x), frechet.band_features(y)),
    }
    if weights is not None:
        values["scalars"]["lpips"] = perceptual.distance(y, x, params=weights)
    frames = x.shape[1]
    if frames > 1:
        scene = fidelity.static_scene(x[:, frames // 2], frames)
        still: Any = module.apply({"params": params}, scene)
        values["still"] = fidelity.flicker(scene, jnp.clip(still.video, -1.0, 1.0))
    return values


def _clip_measurement(
    window: windows_lib.ClipWindow, clip: dict[str, Any]
) -> ClipMeasurement:
    still = clip.pop("still", None)
    clip["scalars"] = {key: float(value) for key, value in clip["scalars"].items()}
    return ClipMeasurement(
        window=window,
        steps=np.empty(0) if still is None else still.steps,
        still=(0.0, 0.0) if still is None else (float(still.peak), float(still.error)),
        **clip,
    )


def summarise(clips: Sequence[ClipMeasurement], temporal_ratio: int) -> dict[str, Any]:
    """The four sections of the report."""
    return {
        "channels": _channels(clips),
        "reconstruction": _reconstruction(clips),
        "frames": dataclasses.asdict(
            fidelity.frame_profile(
                ([clip.errors] for clip in clips), temporal_ratio=temporal_ratio
            )
        ),
        "flicker": _flicker([clip for clip in clips if len(clip.steps)]),
    }


def _channels(clips: Sequence[ClipMeasurement]) -> dict[str, Any]:
    statistics = latent_statistics.channel_statistics(clip.latent for clip in clips)
    cells = sum(clip.noise[..., 0].size for clip in clips)
    noise = sum(np.square(clip.noise).sum(axis=(0, 1, 2)) for clip in clips) / cells
    return dataclasses.asdict(statistics) | {
        "variance_fraction": statistics.variance_fraction,
        "dead": list(statistics.dead),
        "posterior_std": np.sqrt(noise),
    }


def _reconstruction(clips: Sequence[ClipMeasurement]) -> dict[str, Any]:
    names = clips[0].scalars
    means = {
        name: float(np.mean([clip.scalars[name] for clip in clips])) for name in names
    }
    real, decoded = (
        frechet.moments(clip.features[side][None] for clip in clips) for side in (0, 1)
    )
    needed = frechet.clips_needed(frechet.FEATURES)
    distance = float("nan")
    if len(clips) > 1:
        distance = frechet.distance(real, decoded, too_few="allow")
    return means | {
        "frechet": {
            "distance": distance,
            "features": "frechet.band_features; not comparable with FVD or rFVD",
            "clips": len(clips),
            "clips_needed": needed,
            "enough_clips": len(clips) >= needed,
        },
        "by_clip": {clip.window.id: clip.scalars for clip in clips},
    }


def _flicker(clips: Sequence[ClipMeasurement]) -> dict[str, Any]:
    """Means over clips; empty without videos. Levels are of 8 bits."""
    if not clips:
        return {"clips": 0}
    means = np.array([clip.steps.mean() for clip in clips])
    errors = np.array([clip.still[1] for clip in clips])
    longest = max(len(clip.steps) for clip in clips)
    by_step = [
        np.mean([clip.steps[t] for clip in clips if len(clip.steps) > t])
        for t in range(longest)
    ]
    return {
        "clips": len(clips),
        "mean_levels": float(means.mean()),
        "worst_step_levels": max(float(clip.steps.max()) for clip in clips),
        "peak_levels": max(clip.still[0] for clip in clips),
        "error_levels": float(errors.mean()),
        "relative": float(means.mean() / max(errors.mean(), 1e-9)),
        "by_step_levels": np.array(by_step),
    }


def examples(
    model: models.AutoencoderModel, clips: Any, *, measured: Sequence[ClipMeasurement]
) -> list[latent_figure.Example]:
    """The worst, the median and the best clip by PSNR, videos before images."""
    videos = [clip for clip in measured if len(clip.errors) > 1] or list(measured)
    ordered = sorted(videos, key=lambda clip: clip.scalars["psnr_db"])
    indices = dict.fromkeys((0, len(ordered) // 2, len(ordered) - 1))
    chosen = []
    for title, index in zip(("worst", "median", "best"), indices, strict=False):
        window, psnr = ordered[index].window, ordered[index].scalars["psnr_db"]
        _, video = windows_lib.load_window(clips, window)
        latent = model.encode(video[None].astype(np.float32) / fidelity.LEVELS - 1.0)
        decoded = np.asarray(model.decode(latent))[0]
        label = f"{title} of {len(ordered)}: {window.id}, {psnr:.1f} dB"
        chosen.append(latent_figure.Example(label, video, decoded))
    return chosen


def plain(value: Any) -> Any:
    """JSON types; what is not finite becomes null, floats keep six digits."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def lines(report: dict[str, Any]) -> list[str]:
    """One JSON line per section: its numbers, without lists and tables."""
    texts = []
    for section in SECTIONS:
        values = report[section]
        scalars = {k: v for k, v in values.items() if not isinstance(v, dict | list)}
        if section == "channels":
            scalars["dead"] = values["dead"]
            scalars["std_range"] = [min(values["std"]), max(values["std"])]
            scalars["neighbours"] = {
                axis: _mean(each) for axis, each in values["neighbours"].items()
            }
        if section == "reconstruction":
            scalars["frechet"] = values["frechet"]
        texts.append(json.dumps({"section": section, **scalars}))
    return texts


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return plain(float(np.mean(known))) if known else None


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m experiments.reports.latents",
        description=(__doc__ or "").split("\n\n")[0],
    )
    default = ReportConfig()
    add = parser.add_argument
    add("--checkpoint", type=pathlib.Path, required=True, metavar="AE")
    add("--dataset", type=pathlib.Path, required=True, metavar="DATASET")
    add("--output", type=pathlib.Path, required=True, metavar="DIR")
    add("--split", default=default.split)
    add("--clips", type=int, default=default.clips, metavar="N", help="at most")
    add("--max-frames", type=int, default=default.fit.max_frames, metavar="N")
    add("--max-tokens", type=int, default=default.fit.max_tokens, metavar="N")
    add("--batch", type=int, default=default.batch, metavar="N")
    add("--lpips", default="", metavar="PATH", help="LPIPS weights, safetensors")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report; 0, or 2 after one line that says what was wrong."""
    arguments = _parser().parse_args(argv)

    def make() -> None:
        config = ReportConfig(
            split=arguments.split,
            clips=arguments.clips,
            fit=transforms.FitConfig(
                max_tokens=arguments.max_tokens, max_frames=arguments.max_frames
            ),
            batch=arguments.batch,
            lpips=arguments.lpips,
        )
        report = run(
            arguments.checkpoint,
            arguments.dataset,
            output=arguments.output,
            config=config,
        )
        print("\n".join(lines(report)))

    return cli.run_command("latents", make)


if __name__ == "__main__":
    sys.exit(main())
