"""Does a model draw what it is told: the judge's reading of held-out prompts.

    python -m experiments.reports.obedience [--checkpoint VIDEO] [--seeds 3]

Makes clips and images from prompts of the demo's world whose combinations of attributes
were never trained on, and has the judge read them back from pixels. Prints a JSON line
for clips and one for images: each attribute's accuracy, mean and least over the seeds,
with what chance and a perfect model would score (`reports.scoring`). `--world` asks for
the prompts of another variant of the world; of several bodies there is a line of each
body by itself, too. `--output` holds the videos of the first seed and a sheet of them,
to be looked at.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies
from experiments import demo
from experiments.benchmarks import measurement
from soraflax.cli import parser as cli
from soraflax.diffusion import guidance, samplers
from soraflax.generation import generator
from soraflax.pretrained import shipped

Scores = dict[str, dict[str, dict[str, float]]]


def measure(
    model: generator.Generator,
    *,
    config: demo.DemoConfig,
    seeds: int,
    output: pathlib.Path,
    variant: str = "demo",
) -> Scores:
    """Scores of clips and images; the sheet and videos of the first seed in `output`.

    Args:
      model: the model.
      config: numbers of clips and images, sampler, its steps, guidance; the first seed.
      seeds: number of seeds; each has its own noise for the same prompts.
      output: directory to write.
      variant: of the world `bodies`, whose prompts are asked for.

    Returns:
      `judge` and `judge_images`, and of a variant of several bodies `judge_bodies`:
      attribute to accuracy, least, chance and ceiling.
    """
    world = bodies.VARIANTS[variant]
    runs = []
    for seed in range(seeds):
        folder = output / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        samples = demo.generate(
            model,
            world,
            folder=folder / "videos",
            config=dataclasses.replace(config, seed=config.seed + 1000 * seed),
        )
        demo.draw_sheet(folder, samples)
        runs.append(demo.judge(model.model.autoencoder, samples, world=world))
    return {name: _mean([run[name] for run in runs]) for name in runs[0]}


def _mean(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Each attribute's figures over the seeds."""
    result: dict[str, dict[str, float]] = {}
    for name in runs[0]:
        accuracies = [run[name]["accuracy"] for run in runs]
        result[name] = {
            "accuracy": round(float(np.mean(accuracies)), 4),
            "least": min(accuracies),
            "chance": round(float(np.mean([run[name]["chance"] for run in runs])), 4),
            "ceiling": runs[0][name]["ceiling"],
        }
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.reports.obedience", description=__doc__
    )
    defaults = demo.DemoConfig()
    add = parser.add_argument
    add("--checkpoint", type=pathlib.Path, help="VIDEO folder (default: the shipped)")
    add("--output", type=pathlib.Path, default=pathlib.Path("obedience"))
    add("--world", choices=bodies.VARIANTS, default="demo", help="(default: demo)")
    add("--seeds", type=cli.positive_int, default=3, help="(default: 3)")
    add("--videos", type=cli.positive_int, default=defaults.videos, help="clips")
    add("--images", type=cli.positive_int, default=defaults.images, help="images")
    add(
        "--steps", type=cli.positive_int, help="solver steps (default: the model's own)"
    )
    add("--sampler", choices=samplers.SAMPLERS, help="(default: the model's own)")
    add("--guidance", type=float, help="guidance scale (default: the model's own)")
    add("--skip-blocks", type=cli.block_numbers, help="(default: the model's own)")
    add("--skip-guidance", type=cli.positive_float, default=1.0, help="its scale")
    options = parser.parse_args(argv)
    return cli.run_command("obedience", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    model = generator.Generator.load(shipped.or_given(options.checkpoint))
    counts = demo.DemoConfig(videos=options.videos, images=options.images)
    given = {name: getattr(options, name) for name in ("sampler", "steps", "guidance")}
    given["skip"] = None
    if options.skip_blocks is not None:
        given["skip"] = guidance.SkipGuidance(
            options.skip_blocks, options.skip_guidance
        )
    config = dataclasses.replace(
        demo.as_its_authors(counts, model),
        **{name: value for name, value in given.items() if value is not None},
    )
    scores: Any = measure(
        model,
        config=config,
        seeds=options.seeds,
        output=options.output,
        variant=options.world,
    )
    for name, values in scores.items():
        about = {"seeds": options.seeds, "world": options.world}
        about |= {name: getattr(config, name) for name in given if name != "skip"}
        if config.skip is not None:
            about |= {"skip": dataclasses.asdict(config.skip)}
        print(
            json.dumps({"figure": name, **values, **about, **measurement.environment()})
        )
    print(f"sheet: {options.output / 'seed0' / demo.SHEET}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
