"""Look into a dataset: a page with pictures, the same as one picture, and as JSON.

    python -m data_pipelines.inspect DATASET

writes index.html, report.png and report.json into DATASET.report, or `--output`. The
page holds durations, sizes, rates, motion and captions, frames of clips, what packing
makes of them, and what was left out and why.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines import mirrors, transforms
from data_pipelines.inspection import facts, page
from soraflax.cli import parser as cli
from soraflax.media import common
from soraflax.ops import grid as grids
from soraflax.ops import packing


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m data_pipelines.inspect",
        description="Look into a dataset: a page with pictures, a picture, and JSON.",
    )
    add = parser.add_argument
    add("dataset", help="a DATASET directory of clips, which may be in a bucket")
    add("--output", type=Path, help="folder of the report (default: DATASET.report)")
    add("--pictures", type=cli.positive_int, default=48, help="frames of clips to show")
    add("--row", type=cli.positive_int, default=8192, help="tokens of a packed row")
    add("--max-tokens", type=cli.positive_int, default=2048, help="tokens of a clip")
    add("--max-frames", type=cli.positive_int, default=81, help="frames of a clip")
    add("--fps", type=float, default=0.0, help="frame rate to subsample to; 0: native")
    add("--align", type=cli.positive_int, default=1, help="tokens that clips start at")
    add("--temporal-ratio", type=cli.positive_int, default=4, help="of the autoencoder")
    add("--spatial-ratio", type=cli.positive_int, default=8, help="of the autoencoder")
    add("--patch", type=cli.size, default=(2, 2), help="columns x rows of a token")
    return parser


def _run(args: argparse.Namespace) -> None:
    columns, rows = args.patch
    plan = facts.PackingPlan(
        grids.Grid(args.temporal_ratio, args.spatial_ratio, patch=(1, rows, columns)),
        transforms.FitConfig(args.max_tokens, args.max_frames, fps=args.fps),
        packing.RowShape(args.row, text=args.row, segments=args.row, align=args.align),
    )
    if args.max_tokens > args.row:
        raise ValueError(
            f"--max-tokens {args.max_tokens} is more than --row {args.row}: use "
            f"{args.row} or fewer"
        )
    found = facts.read_facts(args.dataset, plan)
    shown = facts.contact_sheet(args.dataset, found["splits"], count=args.pictures)
    rejected = facts.rejected_pictures(args.dataset, found["rejections"])
    output = args.output or _beside(args.dataset)
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    written = {
        "report.json": text.encode("utf-8", "backslashreplace"),
        "index.html": page.write_html(found, shown, rejected=rejected).encode(),
    }
    for name, data in written.items():
        with common.atomic_file(output / name) as part:
            part.write_bytes(data)
    with common.atomic_file(output / "report.png") as part:
        page.draw_page(found, shown, rejected=rejected).save(part)
    print(*page.headline(found), f"look at {output / 'index.html'}", sep="\n")


def _beside(dataset: str) -> Path:
    """DATASET.report; of one in a bucket here, where the command is typed."""
    path = Path(dataset.rstrip("/"))
    if mirrors.address(dataset) is not None:
        path = Path(path.name)
    return path.with_name(f"{path.name}.report")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 after one line on stderr that says what was wrong."""
    args = _parser().parse_args(argv)
    return cli.run_command("inspect", lambda: _run(args), extra="data")


if __name__ == "__main__":
    sys.exit(main())
