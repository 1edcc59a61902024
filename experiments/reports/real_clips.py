"""The whole chain on real video files: a folder in, a generated video out.

    python -m experiments.reports.real_clips --output real

Runs on the clips of `tests/data/clips` what any user would run on a folder: `prepare`,
the two training stages, generation. Then it measures

    held_out      PSNR of held-out clips through the autoencoder                  (1)
    memorised     PSNR of a generated video against the decoded latent of the clip
                  whose caption prompted it, for a transformer trained on four    (2)

(2) is the check that nothing between a file and a sample loses information: a model
that saw only four clips must be able to give them back. Writes `real_clips.json` and
`real_clips.png` (above, decoded latents; below, generated).
"""

import dataclasses
import json
import pathlib
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from data_pipelines import latents, prepare
from experiments.configs import autoencoder_small, video_small
from experiments.plots import figures
from experiments.stages import runtime
from experiments.stages.autoencoder import stage as autoencoder_stage
from experiments.stages.video import stage as video_stage
from soraflax.cli import parser as cli
from soraflax.evaluation import metrics
from soraflax.generation import generator

CLIPS = pathlib.Path(__file__).parents[2] / "tests" / "data" / "clips"
MEMORISED = ("asl-bird.mkv", "friday.mp4", "movi_a_1.gif", "testsrc2_vp9.webm")
GRID_TOKENS = 72
FRAMES = 9


@dataclasses.dataclass(frozen=True)
class Steps:
    """Number of training steps.

    Attributes:
      autoencoder: steps on all clips but the held-out ones.
      video: steps on the four.
    """

    autoencoder: int = 700
    video: int = 500


def run(output: pathlib.Path, clips: pathlib.Path, *, steps: Steps) -> dict[str, Any]:
    """Prepare, train, generate; returns the contents of `real_clips.json`."""
    start = time.perf_counter()
    check_clips(clips)
    dataset, encoder = output / "dataset", output / "autoencoder"
    prepare.prepare_folder(
        clips, dataset, validation=prepare.ValidationSplit(fraction=0.15)
    )
    values: Any = autoencoder_small.get_config()
    values.data.path = str(dataset)
    values.train.steps = steps.autoencoder
    quality = autoencoder_stage.run(values, encoder)
    memorised = memorise(output, clips, encoder=encoder, steps=steps.video)
    report = {
        "held_out": quality,
        "memorised": memorised,
        "seconds": round(time.perf_counter() - start, 1),
        "steps": dataclasses.asdict(steps),
        "machine": platform.machine(),
    }
    (output / "real_clips.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def check_clips(clips: pathlib.Path) -> None:
    """Refuse a folder without the four clips, before anything is trained.

    Raises:
      FileNotFoundError: naming the first that is missing.
    """
    for name in ("captions.jsonl", *MEMORISED):
        if not (clips / name).is_file():
            raise FileNotFoundError(
                f"{clips / name}: missing; --input needs captions.jsonl and "
                f"{', '.join(MEMORISED)}, as {CLIPS} has them"
            )


def memorise(
    output: pathlib.Path, clips: pathlib.Path, *, encoder: pathlib.Path, steps: int
) -> dict[str, float]:
    """Equation (2) for each of the four clips."""
    four = output / "four-clips"
    four.mkdir()
    lines = (clips / "captions.jsonl").read_text().splitlines()
    chosen = [line for line in lines if json.loads(line)["file"] in MEMORISED]
    for name in MEMORISED:
        shutil.copy(clips / name, four / name)
    (four / "captions.jsonl").write_text("\n".join(chosen) + "\n")
    dataset = output / "four-dataset"
    prepare.prepare_folder(
        four, dataset, validation=prepare.ValidationSplit(fraction=0.0)
    )
    values = config(dataset, encoder, steps=steps)
    video_stage.run(values, output / "video")
    model = generator.Generator.load(output / "video")
    records = list(latents.open_latents(output / "video" / "latents"))
    jobs = [prompt(model, record) for record in records]
    generated = model(jobs, generator.SamplingConfig(steps=30, guidance=1.0))
    decoded = model.decode([record.latent.astype(np.float32) for record in records])
    pairs = [video for both in zip(decoded, generated, strict=True) for video in both]
    names = [n for r in records for n in (f"{r.id}: latent", f"{r.id}: generated")]
    figures.contact_sheet(output / "real_clips.png", pairs, labels=names)
    return {
        record.id: round(psnr_db(a, b), 2)
        for record, a, b in zip(records, generated, decoded, strict=True)
    }


def config(dataset: pathlib.Path, encoder: pathlib.Path, *, steps: int) -> Any:
    """`video_small`, on four small clips that are always given the same caption."""
    values: Any = video_small.get_config()
    values.data.path, values.autoencoder = str(dataset), str(encoder)
    values.cache.fit.max_tokens = GRID_TOKENS
    values.cache.fit.max_frames = FRAMES
    values.data.captions.names = ("detailed",)
    values.data.captions.dropout = 0.0
    values.data.row.tokens, values.data.rows = 4 * GRID_TOKENS, 4
    values.train.steps = steps
    return values


def prompt(model: generator.Generator, record: latents.LatentRecord) -> generator.Job:
    """The job whose video should be this record: its caption, size and rate."""
    t, h, w, _ = record.latent.shape
    frames, height, width = model.model.autoencoder.config.video_shape(t, h, w)
    return model.prompt(
        record.captions["detailed"],
        size=(width, height),
        frames=frames,
        fps=record.fps,
    )


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of two uint8 videos."""
    first, second = (jnp.asarray(x[None], jnp.float32) / 127.5 - 1.0 for x in (a, b))
    return float(metrics.psnr(first, second)[0])


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.reports.real_clips",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("--output", type=pathlib.Path, default=pathlib.Path("real"))
    add("--input", type=pathlib.Path, default=CLIPS, help="folder with captions.jsonl")
    add("--autoencoder-steps", type=cli.positive_int, default=Steps.autoencoder)
    add("--video-steps", type=cli.positive_int, default=Steps.video)
    arguments = parser.parse_args(argv)
    steps = Steps(arguments.autoencoder_steps, arguments.video_steps)

    def make() -> None:
        if arguments.output.exists():
            raise ValueError(f"{arguments.output} exists; name a new folder")
        try:
            report = run(arguments.output, arguments.input, steps=steps)
        except runtime.Interrupted as stop:
            step = str(stop).split(";")[0]
            raise KeyboardInterrupt(f"{step}; name a new folder") from None
        print(json.dumps(report, indent=2))

    return cli.run_command(
        "real_clips", make, interrupted="name a new folder to start again"
    )


if __name__ == "__main__":
    sys.exit(main())
