"""Write a dataset of clips as others read it: WebDataset tars, or a folder of files.

    python -m data_pipelines.export DATASET --format webdataset --output TARS
    python -m data_pipelines.export DATASET --format hf --output FOLDER

    webdataset   TARS/SPLIT-000000.tar, ...: of every clip its file and a .json
    hf           FOLDER/SPLIT/000000/...: the files, and SPLIT/metadata.jsonl with
                 `file_name`, as `load_dataset("videofolder")` of the Hugging Face hub
                 reads it

Clips keep their bytes. Beside them stand `id`, `fps`, `frames`, `height`, `width` and
every caption under its own name; `soraflax prepare --input` reads both back.
"""

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import progress, records
from soraflax.cli import parser as cli
from soraflax.media import formats

FORMATS = ("webdataset", "hf")
IN_A_FOLDER = 1000  # files; more make file systems slow
_SUFFIXES = {
    "mov": ".mp4",
    "matroska": ".mkv",
    "avi": ".avi",
    "gif": ".gif",
    "jpeg": ".jpg",
    "png": ".png",
    "webp": ".webp",
    "heif": ".heic",
}
_OWN = ("id", "fps", "frames", "height", "width", "truth", "file_name")


def export(
    dataset: str | Path,
    output: Path,
    *,
    layout: str,
    shard_bytes: int = 2**30,
) -> dict[str, int]:
    """Write every split; returns the number of clips of each.

    Args:
      dataset: a DATASET directory of clips, which may be in a bucket.
      output: the new directory; it appears whole or not at all.
      layout: one of `FORMATS`.
      shard_bytes: bytes at which a tar is closed.

    Raises:
      DatasetError: no clips there, or `output` is in the way.
    """
    if layout not in FORMATS:
        raise records.DatasetError(f"format {layout!r}: use {' or '.join(FORMATS)}")
    if shard_bytes < 1:
        raise records.DatasetError(f"shards of {shard_bytes} bytes: use 1 or more")
    splits = records.read_info(dataset)["splits"]
    sources = {name: records.open_dataset(dataset, name) for name in splits}
    with records.publish(output) as root:
        for split, clips in sources.items():
            bar = progress.bar(clips, total=len(clips), what=f"writing {split}")
            if layout == "webdataset":
                _write_tars(root, split, clips=bar, most=shard_bytes)
            else:
                _write_folder(root / split, bar)
    return splits


def _write_tars(root: Path, split: str, *, clips: Any, most: int) -> None:
    for number, members in enumerate(_shards(clips, most)):
        with tarfile.open(root / f"{split}-{number:06d}.tar", "w") as tar:
            for name, data in members:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _shards(clips: Any, most: int) -> Iterator[list[tuple[str, bytes]]]:
    """Members of each tar: of every clip its file, then its .json."""
    members: list[tuple[str, bytes]] = []
    size = 0
    for number, clip in enumerate(clips):
        facts = json.dumps(_facts(clip), ensure_ascii=False).encode()
        members.append((f"{number:08d}{_suffix(clip)}", clip.video))
        members.append((f"{number:08d}.json", facts))
        size += len(clip.video) + len(facts)
        if size >= most:
            yield members
            members, size = [], 0
    if members:
        yield members


def _write_folder(root: Path, clips: Any) -> None:
    root.mkdir()
    with (root / "metadata.jsonl").open("w", encoding="utf-8") as table:
        for number, clip in enumerate(clips):
            name = f"{number // IN_A_FOLDER:06d}/{number:08d}{_suffix(clip)}"
            path = root / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(clip.video)
            line = {"file_name": name, **_facts(clip)}
            table.write(json.dumps(line, ensure_ascii=False) + "\n")


def _facts(clip: records.ClipRecord) -> dict[str, Any]:
    """What stands beside a clip; a caption of a name of ours has a `_` behind it."""
    facts: dict[str, Any] = {name: getattr(clip, name) for name in _OWN[:5]}
    if clip.truth:
        facts["truth"] = dict(clip.truth)
    captions = {
        f"{name}_" if name in _OWN else name: text
        for name, text in clip.captions.items()
    }
    return facts | captions


def _suffix(clip: records.ClipRecord) -> str:
    return _SUFFIXES.get(formats.kind(io.BytesIO(clip.video), clip.id), ".mp4")


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m data_pipelines.export",
        description="Write a dataset of clips as WebDataset tars or a folder of files.",
    )
    add = parser.add_argument
    add("dataset", help="a dataset directory of clips, which may be in a bucket")
    add("--format", required=True, choices=FORMATS, help="layout to write")
    add("--output", type=Path, required=True, help="the directory to make")
    add("--shard-mib", type=cli.positive_int, default=1024, help="size of a tar")
    return parser


def _run(args: argparse.Namespace) -> None:
    splits = export(
        args.dataset,
        args.output,
        layout=args.format,
        shard_bytes=args.shard_mib * 2**20,
    )
    told = ", ".join(f"{count:,} {name}" for name, count in splits.items())
    print(f"{args.output}: {told}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 after one line on stderr that says what was wrong."""
    args = _parser().parse_args(argv)
    return cli.run_command("export", lambda: _run(args), extra="data")


if __name__ == "__main__":
    sys.exit(main())
