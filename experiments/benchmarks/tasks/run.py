"""Every way of prompting a trained model, measured, as JSON lines.

    python -m experiments.benchmarks.tasks --checkpoint VIDEO [--only joins edit]

    known      given pixels come back as they were
    joins      given and made frames meet without a jump: extend, loop, connect
    drift      four extensions in a row keep colour, shape, count and speed
    image      image-to-video keeps colour, shape and count
    edit       new attributes and old places over the strength of an edit
    order      samplers converge as fast as they claim
    caching    skipped steps: faster, and as good
    packed     mixed sizes in shared rows over one at a time
    seed       the same pixels in any company

A line has the target, `asked`, and whether it is `ok`; the modules beside this one say
how it is measured. The exit status does not depend on it. Times are of this machine,
taken in turns within one run. The model is sampled as its authors do, unless told
otherwise.
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.benchmarks import measurement
from experiments.benchmarks.tasks import clips as shared
from experiments.benchmarks.tasks import editing, extending, keeping, sampling
from soraflax.cli import parser as cli
from soraflax.diffusion import samplers
from soraflax.generation import canvas, generator

Part = Callable[[shared.Bench], Iterator[dict[str, Any]]]
PARTS: dict[str, Part] = {
    "known": keeping.known,
    "joins": keeping.joins,
    "drift": extending.drift,
    "image": keeping.image,
    "edit": editing.edit,
    "order": sampling.order,
    "caching": sampling.caching,
    "packed": sampling.packed,
    "seed": sampling.seed,
}


def measure(bench: shared.Bench, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The lines of these parts, in the order of the table, and one of the machine."""
    seconds = {}
    for name in (name for name in PARTS if name in parts):
        shared.note(name)
        start = time.perf_counter()
        yield from (shared.rounded(line) for line in PARTS[name](bench))
        seconds[name] = round(time.perf_counter() - start, 1)
    yield {
        "figure": "machine",
        **measurement.environment(),
        "model": bench.model.model.digest,
        "sampler": str(bench.sampling.sampler),
        "steps": bench.sampling.steps,
        "guidance": bench.sampling.guidance,
        "seed": bench.seed,
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
    }


def make_parser() -> cli.Parser:
    parser = measurement.make_parser("tasks", __doc__)
    add = parser.add_argument
    add("--checkpoint", type=pathlib.Path, required=True, help="a trained VIDEO folder")
    add("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    add(
        "--count",
        type=cli.positive_int,
        help="clips of every part; default: each part's own number",
    )
    add("--seed", type=int, default=0, help="seed of clips and of noise")
    own = "default: the model's own, else"
    add("--sampler", choices=samplers.SAMPLERS, help=f"({own} euler)")
    add("--steps", type=cli.positive_int, help=f"solver steps ({own} 20)")
    add("--guidance", type=float, help=f"guidance scale ({own} 2)")
    add(
        "--refine-strength",
        type=cli.fraction,
        nargs="+",
        default=[generator.Job.refine_strength],
        help="strengths of the second pass that joins are measured at; 0 for none",
    )
    add("--pictures", type=pathlib.Path, metavar="DIR", help="where pictures go")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(argv)

    def run() -> None:
        if not 0 <= options.seed <= canvas.MAX_SEED // 2:
            raise ValueError(f"--seed {options.seed}: use one from 0 to 2**31 - 1")
        model = generator.Generator.load(options.checkpoint)
        bench = shared.Bench(
            model,
            shared.sampling(
                model,
                sampler=options.sampler,
                steps=options.steps,
                guidance=options.guidance,
            ),
            count=options.count,
            seed=options.seed,
            refine_strengths=tuple(options.refine_strength),
            pictures=options.pictures,
        )
        for line in measure(bench, options.only):
            print(json.dumps(line), flush=True)

    return cli.run_command("tasks", run)


if __name__ == "__main__":
    sys.exit(main())
