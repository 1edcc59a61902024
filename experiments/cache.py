"""Encode clips to latents before training, by as many workers as there are:

    python -m experiments.cache --config=video_small --config.data.path=CLIPS \\
        --config.autoencoder=AE --out LATENTS --workers 4

It takes the --config of `soraflax train`, to which LATENTS is then given as
--config.data.path. The work is divided into parts, each of which is kept once it is
done: the same command goes on where it was stopped. `--part I/N` does the part of
worker I of N (from 0) alone, on a host of its own that sees LATENTS; when all have
ended, the command without it puts the parts together. A clip that cannot be decoded is
left out, with its reason in LATENTS/report.jsonl.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from data_pipelines import account, latent_parts, latents, records
from experiments import configs
from experiments.stages.video import data as video_data
from soraflax import buckets
from soraflax import config as config_lib
from soraflax.cli import parser as cli
from soraflax.train import stopping

EXTRA = "train"
MODULE = "experiments.cache"


def add_parser(subparsers: Any) -> cli.Parser:
    """The parser of the command; unknown arguments are overrides of the config."""
    parser = subparsers.add_parser(
        "cache",
        help="encode clips to latents",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.overrides = "overrides"
    add = parser.add_argument
    add("--config", required=True, metavar="NAME", help="as of soraflax train")
    add("--out", required=True, type=pathlib.Path, metavar="LATENTS", help="to make")
    add("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    add("--part", metavar="I/N", help="encode the share of worker I of N, no more")
    add("--max-failed", type=int, metavar="N", help="clips that may fail (1 in 100)")
    add("--overwrite", action="store_true", help="replace the latents at --out")
    return parser


def run(args: argparse.Namespace) -> None:
    """Encode what is left, and put it together.

    Raises:
      ValueError, OSError: bad input, or a worker failed.
      Interrupted: SIGTERM, to this process or to a worker; parts that are done stay.
    """
    index, count = worker(args.part)
    if args.workers < 1:
        raise ValueError(f"workers {args.workers}: use 1 or more")
    if args.part and args.workers > 1:
        raise ValueError("--part is one worker: leave --workers out")
    if buckets.is_bucket(args.out):
        raise ValueError("--out is a bucket; give a folder, which may be mounted")
    records.check_output(args.out, overwrite=args.overwrite)
    job = make_job(args)
    with stopping.raised():
        if args.workers > 1 and job.missing():
            encode_by_processes(args)
        else:
            job.encode(index, count=count)
    if args.part:
        left = len(job.missing())
        print(f"worker {index} of {count} is done; {left} parts of others are left")
        return
    info = job.finish(overwrite=args.overwrite, max_failed=args.max_failed)
    print(*account.block(args.out, info), sep="\n")


def worker(part: str | None) -> tuple[int, int]:
    """The index of a worker, and how many there are, of `I/N`.

    Raises:
      ValueError: it is no such thing.
    """
    if part is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"--part {part}: use I/N with I from 0 to N - 1, such as 0/4")
    return int(match[1]), int(match[2])


def make_job(args: argparse.Namespace) -> latent_parts.CacheJob:
    """The caching that a configuration asks for.

    Raises:
      ValueError, OSError: the configuration has no cache, or names no clips or
        autoencoder.
    """
    values = configs.load(args.config)
    configs.override(values, args.overrides)
    if "cache" not in values:
        raise config_lib.ConfigError(
            f"config.stage {values.stage}: trains on clips, and caches no latents; use "
            "a config of the stage video"
        )
    for key, value, what in (
        ("data.path", values.data.path, "CLIPS"),
        ("autoencoder", values.autoencoder, "AE"),
    ):
        if not value:
            raise config_lib.ConfigError(
                f"config.{key} is empty: give --config.{key}={what}"
            )
    config = config_lib.to_dataclass(values.cache, latents.LatentCacheConfig)
    encoder = video_data.TrainedEncoder.load(values.autoencoder)
    return latent_parts.CacheJob(
        values.data.path,
        args.out,
        encoder=encoder.for_cache(config.batch),
        config=config,
    )


def encode_by_processes(args: argparse.Namespace) -> None:
    """Encode the parts by `args.workers` processes; what they did is kept.

    Raises:
      ValueError: one of them failed; the others have ended.
      Interrupted: this process or one of them was asked to stop; all have ended.
    """
    words = [sys.executable, "-m", MODULE, f"--config={args.config}", *args.overrides]
    words += ["--out", str(args.out), *(["--overwrite"] if args.overwrite else [])]
    shares = [f"{index}/{args.workers}" for index in range(args.workers)]
    processes = [
        subprocess.Popen(
            [*words, "--part", share],
            stdout=subprocess.DEVNULL,
            # One bar shows how far they are; each has about as much to do.
            env=os.environ | ({} if share.startswith("0/") else {"TQDM_DISABLE": "1"}),
        )
        for share in shares
    ]
    try:
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:  # which remove what they have half done
            process.wait()
    if cli.EXIT_INTERRUPTED in statuses:
        raise stopping.Interrupted(
            "a worker was asked to stop; the same command goes on"
        )
    failed = [share for share, s in zip(shares, statuses, strict=True) if s]
    if failed:
        raise ValueError(
            f"workers {', '.join(failed)} failed; what is encoded is kept, the same "
            "command goes on"
        )


def main(argv: Sequence[str] | None = None) -> int:
    this: Any = sys.modules[__name__]
    words = sys.argv[1:] if argv is None else argv
    return cli.dispatch([this], ["cache", *words])


if __name__ == "__main__":
    sys.exit(main())
