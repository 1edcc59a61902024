"""`soraflax plan`: a train step, or a video, on devices that are not attached."""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import sys
from typing import Any

from soraflax.cli import parser as cli

EXTRA = "plan"


def add_parser(subparsers: Any) -> cli.Parser:
    parser = subparsers.add_parser(
        "plan",
        help="what a train step, or a video, takes on devices that are not here",
        description="Compile the train step of a config for a TPU topology and print "
        "memory, traffic between chips, and a roofline of its time. Needs the extra "
        "'plan', no TPU. With --generate, say what making a video with a model takes "
        "in memory, from its sizes alone, and what to change where it does not fit.",
        epilog="examples: soraflax plan --config=wan2_1_t2v_14b --topology v5p:8x8x8 "
        "--slices 2; soraflax plan --generate --checkpoint WAN --size 832x480 "
        "--frames 81 --topology v5e:2x2",
    )
    add, number = parser.add_argument, cli.positive_int
    add(
        "--config",
        metavar="NAME[:preset]",
        help="a shipped config or FILE.py of a training run of a video model (default: "
        "none; needed without --generate)",
    )
    add(
        "--topology",
        required=True,
        metavar="CHIP:SIDES",
        help="such as v5p:8x8x8 or v6e:16x16; with --generate also h100 or h100:4",
    )
    add("--generate", action="store_true", help="plan a video instead of training")
    add(
        "--checkpoint",
        type=pathlib.Path,
        metavar="DIR",
        help="of --generate: a video model (default: the one shipped with soraflax)",
    )
    add(
        "--size",
        type=cli.size,
        metavar="WxH",
        help="of --generate: width and height in pixels (default: the model's own)",
    )
    add(
        "--frames",
        type=number,
        metavar="N",
        help="of --generate: frames of the video (default: the model's own)",
    )
    add("--slices", default=1, type=number, metavar="N", help="joined by DCN")
    add("--rows", type=number, metavar="N", help="of a batch (default: the config's)")
    add(
        "--clip",
        type=number,
        metavar="N",
        help="tokens of the longest clip (default: what a row holds)",
    )
    add("--quick", action="store_true", help="end before machine code is written")
    add("--search", action="store_true", help="try other meshes, remat policies, rows")
    add("--trials", default=6, type=number, metavar="N", help="compiled in a search")
    add(
        "--json",
        type=pathlib.Path,
        metavar="FILE",
        help="a line for each plan (default: none is written)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Compile, print the table, and write JSON where asked."""
    if args.json:
        check_target(args.json)
    if args.generate:
        _plan_generation(args)
        return
    if args.config is None:
        raise ValueError("--config NAME is needed, or --generate for making a video")
    # The compiler is all that is asked of a TPU; arrays live on the CPU.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, "")  # a config file may import what lies beside the command
    from soraflax import config as config_lib
    from soraflax.planning import chips, program, report, search, step_plan
    from soraflax.planning import workload as workload_lib

    topology = chips.parse(args.topology, slices=args.slices)
    workload = workload_lib.from_config(
        config_lib.load_file(args.config, directory=shipped_configs())
    )
    changes = {"clip": args.clip} if args.clip else {}
    workload = dataclasses.replace(workload, **changes)
    workload = step_plan.replicate_over_slices(workload, topology)
    devices = program.topology_devices(topology)
    workload = step_plan.with_global_rows(workload, devices, rows=args.rows)
    plan = step_plan.plan_step(workload, topology, devices=devices, quick=args.quick)
    print(report.table(plan))
    lines = [report.to_json(plan)]
    if args.search or not plan.fits:
        plans = search.search(
            workload, topology, devices=devices, first=plan, trials=args.trials
        )
        print(f"\n{report.comparison(plans)}")
        print(search.advice(plan, plans))
        lines += [report.to_json(other) for other in plans if other is not plan]
    if args.json:
        args.json.write_text("\n".join(lines) + "\n")


def _plan_generation(args: argparse.Namespace) -> None:
    from soraflax.planning import generation
    from soraflax.pretrained import shipped

    if args.config is not None:
        raise ValueError("--generate plans a model: leave --config out")
    devices = generation.parse_devices(args.topology)
    sizes = generation.Sizes.of_checkpoint(shipped.or_given(args.checkpoint))
    found = generation.plan(sizes, devices, size=args.size, frames=args.frames)
    print(generation.table(found))
    if args.json:
        fields = dataclasses.asdict(found) | {"fits": found.fits}
        args.json.write_text(json.dumps(fields) + "\n")


def shipped_configs() -> pathlib.Path | None:
    """The directory of the shipped configs; None where they are not installed."""
    # By name: the library does not import what is built on it.
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec("experiments.configs")
        if spec is not None and spec.origin is not None:
            return pathlib.Path(spec.origin).parent
    return None


def check_target(path: pathlib.Path) -> None:
    """Refuse a place that no file can be written to, before minutes of compiling.

    Raises:
      ValueError: a directory, or a path in a directory that is missing.
    """
    if path.is_dir():
        raise ValueError(f"--json {path}: is a directory; name a file")
    if not path.parent.is_dir():
        raise ValueError(f"--json {path}: no directory {path.parent}; make it first")
