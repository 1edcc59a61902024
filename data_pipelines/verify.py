"""Hold every shard of a dataset against its manifest: sizes, counts and digests.

    python -m data_pipelines.verify DATASET

Opening a dataset looks at some of its shards; this looks at all of them, and reads
every byte. Exit status 2 and one line where something differs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines import progress, records
from soraflax.cli import parser as cli


def verify(path: str | Path) -> dict[str, int]:
    """Check every shard; returns the records of each split.

    Raises:
      DatasetError: no dataset there, or the first shard that differs.
    """
    splits = records.read_info(path)["splits"]
    listed = records.read_shards(path)
    for shard in progress.bar(listed, what="verifying", unit="shard"):
        records.check_shard(path, shard, verify=True)
    for split in splits:
        records.open_source(path, split)
    return splits


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m data_pipelines.verify",
        description="Hold every shard of a dataset against its manifest.",
    )
    parser.add_argument("dataset", help="a dataset directory of any kind")
    return parser


def _run(args: argparse.Namespace) -> None:
    splits = verify(args.dataset)
    told = ", ".join(f"{count:,} {name}" for name, count in splits.items())
    print(f"{args.dataset}: {told}: as the manifest says")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 after one line on stderr that says what was wrong."""
    args = _parser().parse_args(argv)
    return cli.run_command("verify", lambda: _run(args), extra="data")


if __name__ == "__main__":
    sys.exit(main())
