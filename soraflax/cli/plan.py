"""`soraflax plan`: a train step on a TPU pod that nobody here owns."""

import argparse
import dataclasses
import os
import pathlib
import sys

from soraflax import config as config_lib


def run(args: argparse.Namespace) -> None:
    """Compile, print the table, and write JSON where asked."""
    if args.json:
        check_target(args.json)
    # The compiler is all that is asked of a TPU; arrays live on the CPU.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, "")  # a config file may import what lies beside the command
    from soraflax.planning import chips, program, report, search, step_plan
    from soraflax.planning import subject as subjects

    topology = chips.parse(args.topology, slices=args.slices)
    subject = subjects.read(config_lib.load_file(args.config))
    changes = {"clip": args.clip} if args.clip else {}
    subject = dataclasses.replace(subject, **changes)
    subject = step_plan.over_slices(subject, topology)
    devices = program.devices(topology)
    subject = step_plan.rows_of(subject, devices, rows=args.rows)
    made = step_plan.make(subject, topology, devices=devices, quick=args.quick)
    print(report.table(made))
    lines = [report.to_json(made)]
    if args.search or not made.fits:
        found = search.search(
            subject, topology, devices=devices, first=made, trials=args.trials
        )
        print(f"\n{report.choices(found)}")
        print(search.advice(made, found))
        lines += [report.to_json(other) for other in found if other is not made]
    if args.json:
        args.json.write_text("\n".join(lines) + "\n")


def check_target(path: pathlib.Path) -> None:
    """Refuse a place that no file can be written to, before minutes of compiling.

    Raises:
      ValueError: a directory, or a path in a directory that is missing.
    """
    if path.is_dir():
        raise ValueError(f"--json {path}: is a directory; name a file")
    if not path.parent.is_dir():
        raise ValueError(f"--json {path}: no directory {path.parent}; make it first")
