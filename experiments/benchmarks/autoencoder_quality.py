"""Quality for equal training FLOPs: our small autoencoder and Wan's architecture.

    python -m experiments.benchmarks.autoencoder_quality --output DIR [--steps 700]

Both compress 4 x 8 x 8 to 16 channels, have the same number of parameters, see crops of
the same clips (the world `bodies` and the real clips of tests/data), minimise the same
loss with the same optimizer and spend the same training FLOPs; Wan's form trains once
for each of `--rates`. One JSON line each: PSNR and SSIM of held-out clips of the world
and of real ones.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from data_pipelines import prepare
from experiments.benchmarks import measurement
from experiments.configs import autoencoder_small
from experiments.stages.autoencoder import config as stage_config
from experiments.stages.autoencoder import data as stage_data
from experiments.stages.autoencoder import evaluation, stage
from soraflax import config as config_lib
from soraflax import flops
from soraflax.cli import parser as cli
from soraflax.nn import autoencoder
from soraflax.pretrained import models

CLIPS = pathlib.Path(__file__).parents[2] / "tests" / "data" / "clips"
WORLD_CLIPS = 2000
OURS = autoencoder.VARIANTS["small"]


def wan_of_as_many_parameters() -> autoencoder.AutoencoderConfig:
    """Wan 2.1's form at the width that comes nearest to our parameter count."""
    wanted = flops.autoencoder_parameters(OURS)
    forms = (
        dataclasses.replace(autoencoder.VARIANTS["wan2_1"], width=width)
        for width in range(4, 96, 2)
    )
    return min(forms, key=lambda form: abs(flops.autoencoder_parameters(form) - wanted))


def flops_of_a_step(values: Any, sizes: autoencoder.AutoencoderConfig) -> float:
    """Mean over the crops that a config draws, forward and backward."""
    crops = values.data.crops
    weights = np.asarray(crops.weights) / np.sum(crops.weights)
    each = [
        flops.training(flops.autoencoder_flops(sizes, video=tuple(shape)))
        for shape in crops.shapes
    ]
    return float(values.batch * np.dot(weights, each))


def values_of(
    sizes: autoencoder.AutoencoderConfig, data: Sequence[pathlib.Path], *, rate: float
) -> Any:
    """The shipped config of the small autoencoder, with another module in it."""
    values: Any = autoencoder_small.get_config()
    values.data.path, values.data.also = str(data[0]), tuple(map(str, data[1:]))
    values.model = config_lib.to_dict(sizes)
    values.optimizer.learning_rate = rate
    return values


def train(
    sizes: autoencoder.AutoencoderConfig,
    data: Sequence[pathlib.Path],
    *,
    workdir: pathlib.Path,
    steps: int,
    rate: float,
) -> dict[str, Any]:
    """Train one of them and measure it on the held-out clips of every dataset."""
    values = values_of(sizes, data, rate=rate)
    values.train.steps = steps
    values.optimizer.warmup = min(values.optimizer.warmup, steps // 5)
    stage.run(values, workdir)
    config = config_lib.to_dataclass(values, stage_config.AutoencoderRunConfig)
    model = models.load_autoencoder(workdir)
    mesh = config.mesh.make()
    module = autoencoder.Autoencoder(sizes)
    with jax.set_mesh(mesh):
        held_out = {
            path.name: evaluation.quality(
                module,
                model.params,
                batches=stage_data.EvaluationClips(
                    str(path), sizes, config.evaluation, mesh
                ).held_out(),
            )
            for path in data
        }
    return {
        "parameters": flops.autoencoder_parameters(sizes),
        "width": sizes.width,
        "steps": steps,
        "training_flops": steps * flops_of_a_step(values, sizes),
        "learning_rate": rate,
        "held_out": held_out,
    }


def datasets(output: pathlib.Path) -> list[pathlib.Path]:
    """Clips of the world, and real ones."""
    world, real = output / "world", output / "real"
    prepare.prepare_world(
        "bodies", world, count=WORLD_CLIPS, validation=prepare.ValidationSplit(count=32)
    )
    prepare.prepare_folder(
        CLIPS, real, validation=prepare.ValidationSplit(fraction=0.15)
    )
    return [world, real]


def compare(
    output: pathlib.Path, *, steps: int = 700, rates: Sequence[float] = (1e-3, 3e-3)
) -> Iterator[dict[str, Any]]:
    """A line for ours after `steps`, then one for each rate of Wan's form.

    Raises:
      ValueError: `output` exists.
    """
    if output.exists():
        raise ValueError(f"{output} exists; name a new folder")
    data = datasets(output)
    shipped: Any = autoencoder_small.get_config()
    rate: float = shipped.optimizer.learning_rate
    ours, wan = values_of(OURS, data, rate=rate), wan_of_as_many_parameters()
    budget = steps * flops_of_a_step(ours, OURS)
    wan_steps = round(budget / flops_of_a_step(ours, wan))
    runs = [("ours", OURS, steps, rate)]
    runs += [("wan", wan, wan_steps, rate) for rate in rates]
    for name, sizes, count, rate in runs:
        workdir = output / f"{name}-{rate:g}"
        line = train(sizes, data, workdir=workdir, steps=count, rate=rate)
        yield {"benchmark": "quality", "form": name} | line


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("autoencoder_quality", __doc__)
    add = parser.add_argument
    add("--output", type=pathlib.Path, required=True, metavar="DIR", help="to make")
    add(
        "--steps",
        type=cli.positive_int,
        default=700,
        help="steps of ours; those of Wan's form follow from the FLOPs",
    )
    add(
        "--rates",
        type=float,
        nargs="+",
        default=(1e-3, 3e-3),
        help="learning rates of Wan's form",
    )
    arguments = parser.parse_args(argv)
    about = measurement.environment()
    return measurement.run_benchmark(
        "autoencoder_quality",
        lambda: (
            line | about
            for line in compare(
                arguments.output, steps=arguments.steps, rates=arguments.rates
            )
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
