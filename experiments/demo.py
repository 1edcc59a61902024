"""From nothing to generated videos, on two CPU cores: what `make demo` runs.

    python -m experiments.demo --output demo

Shows what the shipped model makes of prompts it never saw. Then, from nothing: renders
the world `bodies` into a dataset, trains the autoencoder, caches latents, trains the
packed transformer, generates from such prompts too, and has the judge read the results.
Each stage is the one that its own command runs; the sizes are those of
`configs/autoencoder_small.py` and `configs/video_small.py`.

The output folder holds `shipped/` with the sheet and the videos of the shipped model,
`report.json`, `contact_sheet.png`, `loss_curves.png`, `caption_gap.png`, `videos/`, and
what the stages left: `dataset/`, `autoencoder/`, `latents/`, `video/`.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from data_pipelines import latents, prepare
from data_pipelines import progress as progress_lib
from data_pipelines.worlds import bodies
from experiments.configs import autoencoder_small, video_small
from experiments.plots import figures
from experiments.reports import scoring
from experiments.stages import runtime
from experiments.stages.autoencoder import stage as autoencoder_stage
from experiments.stages.video import data as video_data
from experiments.stages.video import stage as video_stage
from soraflax import config as config_lib
from soraflax import media
from soraflax.cli import parser as cli
from soraflax.diffusion import guidance as guidance_lib
from soraflax.diffusion import samplers
from soraflax.generation import generator
from soraflax.pretrained import models, shipped

EXTRA = "train"
REPORT = "report.json"
SHEET = "contact_sheet.png"
MARKER = ".soraflax-demo"
HELD_OUT_SEED = 1_000_000
FRAMES = 17
ROW_TEXT = 256  # the world's captions are short: half of what the config keeps free
SHEET_VIDEOS, SHEET_IMAGES = 12, 8


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demo.

    Attributes:
      clips: number of training clips that are rendered.
      held_out_clips: number of clips for validation, of attribute combinations that are
        never trained on.
      videos: number of prompts for clips, spread over the world's aspect ratios, and of
        real renders that the ceiling is measured on.
      images: number of prompts for still images.
      steps: number of solver steps.
      sampler: a name in `diffusion.samplers.SAMPLERS`.
      guidance: scale of classifier-free guidance.
      skip: skip guidance; None for none.
      seed: PRNG seed of data, training and sampling.
      size: argument of both configs: 'small', or 'tiny' for tests.
    """

    clips: int = 4000
    held_out_clips: int = 64
    videos: int = 72
    images: int = 16
    steps: int = 20
    sampler: str = "euler"
    guidance: float = 2.0
    skip: guidance_lib.SkipGuidance | None = None
    seed: int = 0
    size: str = "small"


@dataclasses.dataclass(frozen=True)
class Sample:
    """One prompt, what it asks for, and the video made from it."""

    job: generator.Job
    expected: dict[str, Any]
    video: np.ndarray
    path: pathlib.Path


class Clock:
    """Seconds per stage, with a line when one begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"== {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


def make_demo(output: pathlib.Path, config: DemoConfig) -> dict[str, Any]:
    """The demo from data to report; returns the contents of `report.json`."""
    clock = Clock()
    world = bodies.VARIANTS["demo"]
    with clock.stage("generate with the shipped model"):
        show_shipped(output / "shipped", world, config=config)
    quality = train(output, config, clock=clock)
    with clock.stage("generate"):
        model = generator.Generator.load(output / "video")
        samples = generate(model, world, folder=output / "videos", config=config)
    with clock.stage("judge"):
        scores = judge(model.model.autoencoder, samples, world=world)
    with clock.stage("draw"):
        draw(output, samples)
    report = {
        "autoencoder_psnr_db": round(quality["validation/psnr_db"], 2),
        "autoencoder_ssim": round(quality["validation/ssim"], 4),
        **scores,
        "packing_efficiency": packing_efficiency(output / "video"),
        "seconds": clock.seconds | {"total": round(sum(clock.seconds.values()), 1)},
        "checkpoint": str(output / "video"),
        "videos": [
            {"path": str(sample.path), "prompt": sample.job.text} for sample in samples
        ],
        "settings": dataclasses.asdict(config),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"jax {jax.__version__} on {jax.default_backend()}",
    }
    (output / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    return report


def show_shipped(
    folder: pathlib.Path, world: bodies.WorldConfig, *, config: DemoConfig
) -> None:
    """Videos of the shipped model and their sheet, where the package has a model."""
    try:
        model = generator.Generator.load(shipped.folder())
    except FileNotFoundError as error:
        print(f"note: {error}", file=sys.stderr)
        return
    few = dataclasses.replace(
        as_its_authors(config, model),
        videos=min(config.videos, SHEET_VIDEOS),
        images=min(config.images, SHEET_IMAGES),
    )
    folder.mkdir(exist_ok=True)
    draw_sheet(folder, generate(model, world, folder=folder / "videos", config=few))
    print(f"made by the shipped model: {folder / SHEET}", flush=True)


def as_its_authors(config: DemoConfig, model: generator.Generator) -> DemoConfig:
    """Sampling as a model says that it is sampled, where it does."""
    own = model.model.config.sampling
    if own is None:
        return config
    return dataclasses.replace(
        config,
        steps=own.steps,
        sampler=own.sampler,
        guidance=own.guidance,
        skip=own.skip,
    )


def train(
    output: pathlib.Path, config: DemoConfig, *, clock: Clock
) -> dict[str, float]:
    """World, autoencoder, latents, transformer; returns the autoencoder's quality."""
    dataset, encoder = output / "dataset", output / "autoencoder"
    with clock.stage("render the world"):
        prepare.prepare_world(
            "bodies",
            dataset,
            variant="demo",
            count=config.clips + config.held_out_clips,
            validation=prepare.ValidationSplit(count=config.held_out_clips),
            seed=config.seed,
            workers=len(os.sched_getaffinity(0)),
        )
    with clock.stage("train the autoencoder"):
        values: Any = autoencoder_small.get_config(config.size)
        values.seed = config.seed
        values.data.path = str(dataset)
        quality = autoencoder_stage.run(values, encoder)
    values: Any = video_small.get_config(config.size)
    values.seed = config.seed
    with clock.stage("cache latents"):
        latents.cache_latents(
            dataset,
            output / "latents",
            encoder=video_data.TrainedEncoder.load(str(encoder)).for_cache(),
            config=config_lib.to_dataclass(values.cache, latents.LatentCacheConfig),
        )
    with clock.stage("train the transformer"):
        values.data.path = str(output / "latents")
        values.autoencoder = str(encoder)
        values.data.row.text = ROW_TEXT
        video_stage.run(values, output / "video")
    return quality


def generate(
    model: generator.Generator,
    world: bodies.WorldConfig,
    *,
    folder: pathlib.Path,
    config: DemoConfig,
) -> list[Sample]:
    """Videos and images of held-out prompts, all sizes sampled together, written."""
    unseen = dataclasses.replace(world, holdout="only")
    requests = [
        (text, expected, FRAMES)
        for text, expected in bodies.prompts(
            HELD_OUT_SEED, config.videos, config=unseen
        )
    ] + [
        (text, expected, 1)
        for text, expected in bodies.prompts(
            HELD_OUT_SEED + 1, config.images, config=unseen, images=True
        )
    ]
    jobs = [
        model.prompt(
            text,
            size=world.sizes[index % len(world.sizes)],
            frames=frames,
            seed=config.seed + index,
        )
        for index, (text, _, frames) in enumerate(requests)
    ]
    sampling = generator.SamplingConfig(
        steps=config.steps,
        guidance=config.guidance,
        sampler=samplers.SAMPLERS[config.sampler],
        skip=config.skip,
    )
    with progress_lib.bar(what="sample", unit="step") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        videos = model(jobs, sampling, progress=progress)
    folder.mkdir(exist_ok=True)
    samples = []
    for index, (job, video) in enumerate(zip(jobs, videos, strict=True)):
        slug = re.sub(r"[^a-z0-9]+", "-", job.text.lower())[:60].strip("-")
        suffix = ".png" if len(video) == 1 else ".mp4"
        path = folder / f"{index:03d}-{slug}{suffix}"
        details = {"prompt": job.text, "seed": job.seed}
        media.write_video(path, video, fps=job.conditioning.fps, metadata=details)
        samples.append(Sample(job, requests[index][1], video, path))
    return samples


def judge(
    encoder: models.AutoencoderModel,
    samples: Sequence[Sample],
    *,
    world: bodies.WorldConfig,
) -> dict[str, Any]:
    """Scores of the clips (`judge`) and of the still images (`judge_images`).

    Where a prompt names several bodies, those of each body of the clips beside them
    (`judge_bodies`, `scoring.by_body`).
    """
    scores = {}
    for name, frames in (("judge", FRAMES), ("judge_images", 1)):
        chosen = [s for s in samples if len(s.video) == frames]
        shown = scoring.accuracy(
            [s.video for s in chosen], [s.expected for s in chosen]
        )
        renders = real_renders(world, len(chosen), frames=frames)
        decoded = [reconstruct(encoder, clip.video) for clip in renders]
        truths = [
            {k: v for k, v in clip.truth["attributes"].items() if k in shown}
            for clip in renders
        ]
        scores[name] = scoring.with_ceiling(shown, scoring.accuracy(decoded, truths))
        if frames > 1 and any(len(s.expected["objects"]) > 1 for s in chosen):
            scores["judge_bodies"] = scoring.with_ceiling(
                scoring.by_body(
                    [s.video for s in chosen], [s.expected for s in chosen]
                ),
                scoring.by_body(decoded, [c.truth["attributes"] for c in renders]),
            )
    return scores


def real_renders(
    world: bodies.WorldConfig, count: int, *, frames: int
) -> list[bodies.RenderedClip]:
    """Held-out clips (or images) as the world renders them, plain as the prompts."""
    plain = dataclasses.replace(
        world,
        holdout="only",
        frames=(frames,),
        image_share=0.0,
        occluder=0.0,
        pan=0.0,
    )
    return [
        bodies.render_clip(HELD_OUT_SEED + 2, index, config=plain)
        for index in range(count)
    ]


def reconstruct(encoder: models.AutoencoderModel, video: np.ndarray) -> np.ndarray:
    """A uint8 video through the autoencoder and back."""
    latent = encoder.encode(video[None].astype(np.float32) / 127.5 - 1.0)
    return np.asarray(encoder.decode(latent))[0]


def packing_efficiency(run: pathlib.Path) -> float:
    """Useful tokens over row capacity, mean over the training run."""
    key = "packing_efficiency"
    values = [r[key] for r in figures.read_log(run / "metrics.jsonl") if key in r]
    return round(float(np.mean(values)), 4)


def draw(output: pathlib.Path, samples: Sequence[Sample]) -> None:
    """The contact sheet, the loss curves and the caption gap."""
    draw_sheet(output, samples)
    runs = {name: output / name / "metrics.jsonl" for name in ("autoencoder", "video")}
    figures.loss_curves(output / "loss_curves.png", runs)
    figures.caption_gaps(output / "caption_gap.png", runs["video"])


def draw_sheet(output: pathlib.Path, samples: Sequence[Sample]) -> None:
    """The contact sheet of the first clips and images."""
    clips = [s for s in samples if len(s.video) > 1][:SHEET_VIDEOS]
    images = [s for s in samples if len(s.video) == 1][:SHEET_IMAGES]
    shown = clips + images
    figures.contact_sheet(
        output / SHEET,
        [s.video for s in shown],
        labels=[s.job.text for s in shown],
    )


def start_afresh(output: pathlib.Path) -> None:
    """An empty folder with a marker; only a folder with that marker is replaced.

    Raises:
      ValueError: something else is there.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not (output / MARKER).is_file():
            raise ValueError(f"{output} holds something else; name another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()


def summary(report: dict[str, Any], output: pathlib.Path) -> str:
    """The summary printed at the end."""
    lines = [
        f"autoencoder PSNR {report['autoencoder_psnr_db']} dB, "
        f"packing efficiency {report['packing_efficiency']}, "
        f"{report['seconds']['total'] / 60:.1f} minutes",
        f"{'attribute':12s} accuracy  chance  ceiling",
    ]
    for name, score in report["judge"].items():
        lines.append(
            f"{name:12s} {score['accuracy']:8.2f} {score['chance']:7.2f} "
            f"{score['ceiling']:8.2f}"
        )
    lines.append(f"videos: {output}/videos   sheet: {output}/{SHEET}")
    lines.append(
        'try: .venv/bin/soraflax generate "a large red circle moves right" '
        f"--checkpoint {report['checkpoint']} --size 96x64 --frames 17 --out out.mp4"
    )
    return "\n".join(lines)


def add_parser(subparsers: Any) -> cli.Parser:
    """The parser of the command."""
    parser = subparsers.add_parser(
        "demo",
        help="from nothing to generated videos",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("--output", type=pathlib.Path, default=pathlib.Path("demo"), help="to make")
    add("--seed", type=int, default=0, help="seed of data, training and sampling")
    return parser


def run(args: argparse.Namespace) -> None:
    """Make the demo, and print where it is."""
    start_afresh(args.output)
    try:
        report = make_demo(args.output, DemoConfig(seed=args.seed))
    except (runtime.Interrupted, KeyboardInterrupt):
        raise KeyboardInterrupt("the next run starts afresh") from None
    print(summary(report, args.output))


def main(argv: Sequence[str] | None = None) -> int:
    this: Any = sys.modules[__name__]
    words = sys.argv[1:] if argv is None else argv
    return cli.dispatch([this], ["demo", *words])


if __name__ == "__main__":
    sys.exit(main())
