"""The picture of a latent report: channels, time, and three reconstructed clips."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np

COLUMNS = 4
WIDTH, TOP, MAX_BOTTOM = 15.0, 7.6, 6.0  # inches
LARGEST_ERROR = 64  # 8-bit levels at which the error map is brightest
BLUE, RED, GREY = "tab:blue", "tab:red", "0.6"


@dataclasses.dataclass(frozen=True)
class Example:
    """A clip beside its reconstruction.

    Attributes:
      label: title of the column.
      video: uint8 `[T, H, W, 3]`, the clip.
      decoded: uint8 `[T, H, W, 3]`, its reconstruction.
    """

    label: str
    video: np.ndarray
    decoded: np.ndarray


def draw(
    path: pathlib.Path, report: dict[str, Any], *, examples: Sequence[Example]
) -> None:
    """Write the PNG.

    Args:
      path: the PNG to write.
      report: contents of `report.json`.
      examples: clips, from left to right.
    """
    strips = [_strip(example) for example in examples]
    aspects = [strip.shape[1] / strip.shape[0] for strip in strips]
    bottom = min(WIDTH / sum(aspects), MAX_BOTTOM) + 0.8
    figure = matplotlib.figure.Figure((WIDTH, TOP + bottom), layout="constrained")
    figure.suptitle(_title(report), fontsize=12, fontweight="bold")
    parts = figure.subfigures(2, 1, height_ratios=[TOP, bottom], squeeze=False)
    above, below = parts[:, 0]
    panels = above.subplots(2, 3)
    channels = report["channels"]
    _deviations(panels[0, 0], channels)
    _shapes(panels[0, 1], channels)
    _correlation(panels[0, 2], channels)
    _neighbours(panels[1, 0], channels)
    _frames(panels[1, 1], report)
    _flicker(panels[1, 2], report)
    below.suptitle(
        "from above: clip, reconstruction, absolute error "
        f"(white: {LARGEST_ERROR} of 255 levels or more)",
        fontsize=10,
    )
    columns = below.subplots(1, len(strips), width_ratios=aspects, squeeze=False)[0]
    for panel, example, strip in zip(columns, examples, strips, strict=True):
        panel.set_axis_off()
        panel.imshow(strip, interpolation="nearest")
        panel.set_title(example.label, fontsize=10)
    figure.savefig(path, dpi=110)


def _title(report: dict[str, Any]) -> str:
    model, quality = report["autoencoder"], report["reconstruction"]
    clips, distance = report["clips"], quality["frechet"]
    side = model["spatial_ratio"]
    parts = [
        f"{model['digest'][:12]}, {model['temporal_ratio']}x{side}x{side}, "
        f"{model['latent_channels']} channels, {clips['count']} {clips['split']} clips:"
        f" PSNR {quality['psnr_db']:.2f} dB",
        f"SSIM {quality['ssim']:.4f}",
    ]
    if "lpips" in quality:
        parts.append(f"LPIPS {quality['lpips']:.4f}")
    if distance["distance"] is not None:
        few = "" if distance["enough_clips"] else " (few clips)"
        parts.append(f"Fréchet {distance['distance']:.2f}{few}")
    return ", ".join(parts)


def _deviations(panel: matplotlib.axes.Axes, channels: dict[str, Any]) -> None:
    indices = np.arange(len(channels["std"]))
    panel.bar(indices, channels["std"], color=_colours(channels), label="of the mean")
    panel.plot(
        indices,
        channels["posterior_std"],
        linestyle="",
        marker="_",
        markersize=9,
        markeredgewidth=2,
        color="black",
        label="of the posterior",
    )
    dead = len(channels["dead"])
    panel.set(
        title=f"channel deviation ({dead} dead, "
        f"{channels['effective_channels']:.1f} effective)",
        yscale="log",
        xlabel="channel",
    )
    panel.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    _style(panel)


def _shapes(panel: matplotlib.axes.Axes, channels: dict[str, Any]) -> None:
    indices = np.arange(len(channels["kurtosis"]))
    panel.bar(
        indices - 0.2, channels["kurtosis"], 0.4, color=BLUE, label="kurtosis - 3"
    )
    panel.bar(indices + 0.2, channels["skewness"], 0.4, color=RED, label="skewness")
    panel.axhline(0.0, color="black", linewidth=0.8)
    panel.set(title="shape (normal: 0)", xlabel="channel", yscale="symlog")
    panel.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    _style(panel)


def _correlation(panel: matplotlib.axes.Axes, channels: dict[str, Any]) -> None:
    matrix = np.array(channels["correlation"])
    image = panel.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    off_diagonal = matrix[~np.eye(len(matrix), dtype=bool)]
    largest = np.abs(off_diagonal).max() if off_diagonal.size else 0.0
    panel.set(title=f"correlation of channels (largest {largest:.2f})")
    panel.title.set_fontsize(10)
    panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    panel.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    panel.figure.colorbar(image, ax=panel, shrink=0.85)


def _neighbours(panel: matplotlib.axes.Axes, channels: dict[str, Any]) -> None:
    markers = zip(channels["neighbours"].items(), "os^", strict=True)
    for (axis, values), marker in markers:
        numbers = np.array([np.nan if v is None else v for v in values], float)
        label = axis
        if np.isfinite(numbers).any():
            label = f"{axis} (mean {np.nanmean(numbers):.2f})"
        panel.plot(numbers, marker=marker, linestyle="", label=label)
    panel.set(
        title="correlation with the next cell (noise: 0)",
        xlabel="channel",
        ylim=(-0.55, 1.05),
    )
    panel.axhline(0.0, color="black", linewidth=0.8)
    _style(panel)


def _frames(panel: matplotlib.axes.Axes, report: dict[str, Any]) -> None:
    frames, period = report["frames"], report["autoencoder"]["temporal_ratio"]
    values = [np.nan if v is None else v for v in frames["by_frame"]]
    panel.set(title=_frames_title(frames), xlabel="frame", ylabel="dB")
    if not values:
        _show_message(panel, "no clip of two frames or more")
        return
    for start in range(1, len(values) + 1, period):
        panel.axvline(start - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    panel.plot(values, marker="o", color=BLUE, label="clips; dotted: latent frames")
    if frames["images"] is not None:
        panel.axhline(
            frames["images"], color="tab:green", linestyle="--", label="images"
        )
    panel.margins(y=0.15)
    _style(panel)


def _frames_title(frames: dict[str, Any]) -> str:
    positions = [
        f"{name} {frames[name]:.1f}"
        for name in ("first", "middle", "last")
        if frames[name] is not None
    ]
    return ": ".join(["PSNR by frame", ", ".join(positions)] if positions else ["PSNR"])


def _flicker(panel: matplotlib.axes.Axes, report: dict[str, Any]) -> None:
    flicker = report["flicker"]
    panel.set(xlabel="step between frames", ylabel="8-bit levels")
    if not flicker["clips"]:
        panel.set(title="flicker of a still frame")
        _show_message(panel, "no clip of two frames or more")
        return
    steps = flicker["by_step_levels"]
    panel.bar(np.arange(len(steps)), steps, color=BLUE)
    panel.axhline(
        flicker["error_levels"],
        color=RED,
        linestyle="--",
        label=f"mean error {flicker['error_levels']:.2f}",
    )
    panel.set(
        title=f"flicker of a still frame: mean {flicker['mean_levels']:.2f} levels, "
        f"{flicker['relative']:.2f} of the error"
    )
    _style(panel)


def _strip(example: Example) -> np.ndarray:
    """Clip, reconstruction and error under each other, for evenly spaced frames."""
    count = len(example.video)
    chosen = np.unique(np.linspace(0, count - 1, COLUMNS).round().astype(int))
    video, decoded = example.video[chosen], example.decoded[chosen]
    error = np.abs(video.astype(np.int16) - decoded).max(axis=-1, keepdims=True)
    error = np.minimum(error * (255 / LARGEST_ERROR), 255).astype(np.uint8)
    rows = [video, decoded, np.repeat(error, 3, axis=-1)]
    edge = ((0, 0), (1, 1), (1, 1), (0, 0))
    rows = [np.pad(row, edge, constant_values=255) for row in rows]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def _colours(channels: dict[str, Any]) -> list[str]:
    dead = set(channels["dead"])
    return [RED if channel in dead else BLUE for channel in range(len(channels["std"]))]


def _show_message(panel: matplotlib.axes.Axes, message: str) -> None:
    panel.text(0.5, 0.5, message, ha="center", transform=panel.transAxes)


def _style(panel: matplotlib.axes.Axes) -> None:
    panel.title.set_fontsize(10)
    panel.grid(visible=True, linewidth=0.3)
    panel.set_axisbelow(True)
    panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    panel.legend(fontsize=8)
