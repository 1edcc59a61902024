"""Make a dataset: from video files with captions, curated or not, or from a world.

    python -m data_pipelines.prepare --input CLIPS --captions captions.jsonl \\
        --output DATASET
    python -m data_pipelines.prepare --input 'gs://bucket/raw/*.mp4' \\
        --output gs://bucket/dataset
    python -m data_pipelines.prepare --world bodies --variant demo --count 2000 \\
        --seed 0 --output DATASET

DATASET/report.jsonl has a line for every file and every caption line. Files keep
their bytes, size and length: fitting them to a model is the input pipeline's work. An
input with a wildcard, or in a bucket, is curated (`data_pipelines.curate`).
"""

import argparse
import collections
import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import account, progress, records
from data_pipelines.builders import archives, files, folder, world
from data_pipelines.builders import captions as caption_files
from data_pipelines.curate import command as curation
from data_pipelines.worlds import bodies
from soraflax import media
from soraflax.cli import parser as cli

_EXAMPLES = """examples:
  a folder of clips with captions.jsonl ({"file": ..., "caption": ..., ...} per line):
    python -m data_pipelines.prepare --input CLIPS --captions captions.jsonl \\
        --output DATASET
  a folder in which a.txt captions a.mp4, one clip in five held out:
    python -m data_pipelines.prepare --input CLIPS --output DATASET \\
        --validation-fraction 0.2
  files curated: cut into shots, scored, without duplicates (DATASET/quarantine.jsonl):
    python -m data_pipelines.prepare --input 'raw/**/*.mp4' --output DATASET \\
        --min motion=0.01 --max borders=none
  two thousand clips of the embedded world:
    python -m data_pipelines.prepare --world bodies --variant demo --count 2000 \\
        --seed 0 --output DATASET
"""


@dataclasses.dataclass(frozen=True)
class ValidationSplit:
    """Size of the validation split.

    Attributes:
      fraction: part of the clips, in [0, 1); at least one clip of two or more.
      count: number of clips, instead of `fraction`.
    """

    fraction: float = 0.1
    count: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(
                f"validation fraction {self.fraction}: use 0 or more, below 1, as 0.1"
            )
        if self.count is not None and self.count < 0:
            raise ValueError(f"validation count {self.count}: use 0 or more")

    def size(self, clips: int) -> int:
        """Number of validation clips among `clips`; at least one is left for training.

        Raises:
          ValueError: `count` leaves none.
        """
        if self.count is None:
            if clips < 2 or self.fraction == 0:
                return 0
            return min(clips - 1, max(1, round(clips * self.fraction)))
        if self.count >= clips:
            raise ValueError(
                f"validation count {self.count} leaves none of {clips} clips to train "
                f"on; use {max(clips - 1, 0)} or less"
            )
        return self.count


def prepare_folder(
    source: Path,
    output: Path,
    *,
    captions: Path | None = None,
    validation: ValidationSplit = ValidationSplit(),
    seed: int = 0,
    keep_uncaptioned: bool = False,
    strict: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """A dataset from video files; returns its dataset.json.

    Args:
      source: the folder, searched with all its subfolders; or a file of captions with
        the clips that it names; or one or several WebDataset tars or parquet tables.
      output: the DATASET directory; it appears whole or not at all.
      captions: captions file or folder; see `captions.read_captions`.
      validation: size of the validation split.
      seed: seed of the choice of validation clips.
      keep_uncaptioned: keep clips without a caption (for an autoencoder).
      strict: write nothing if a file or a caption line fails.
      overwrite: replace the dataset at `output`.

    Raises:
      DatasetError: no usable clip or captions, or `output` is in the way.
    """
    records.check_output(output, overwrite=overwrite)
    rules = {"keep_uncaptioned": keep_uncaptioned, "strict": strict}
    clips, report = _usable(source, captions, **rules)
    splits = folder.split(clips, validation=validation.size(len(clips)), seed=seed)
    split_of = {clip.id: name for name, members in splits.items() for clip in members}
    for line in report:
        if line["outcome"] == "kept":
            line["split"] = split_of[line["input"]]
    with records.publish(output, overwrite=overwrite) as root:
        with progress.bar(total=len(clips), what="writing") as bar:
            builder = folder.FolderClips(data_dir=root, clips=splits, tick=bar.update)
            directory = builder.write()
        info = {"kind": "clips", "name": "folder", "seed": seed}
        return records.write_metadata(
            root,
            directory,
            info=info | _contents(report, [clip.captions for clip in clips]),
            report=report,
        )


def _usable(
    source: Path,
    captions: Path | None,
    *,
    keep_uncaptioned: bool,
    strict: bool,
) -> tuple[list[folder.ClipFile], list[dict[str, Any]]]:
    """The clips of a folder that can be records, at least one, and the report."""
    if archives_found := archives.find_archives(source, texts=captions):
        clips, report = archives.probe_samples(
            archives_found,
            keep_uncaptioned=keep_uncaptioned,
            progress=functools.partial(progress.bar, what="probing"),
        )
    else:
        clips, report = _folder_clips(source, captions, keep=keep_uncaptioned)
    failed = [line for line in report if line["outcome"] == "failed"]
    if not clips or (strict and failed):
        reason = _told(failed[0]) if failed else "no clips"
        problem = (
            "no clip can be used" if not clips else f"{len(failed)} failed (strict)"
        )
        raise records.DatasetError(f"{source}: {problem}; first: {reason}")
    return clips, report


def _folder_clips(
    source: Path, captions: Path | None, *, keep: bool
) -> tuple[list[folder.ClipFile], list[dict[str, Any]]]:
    """The clips of a folder, or those that a file of captions names."""
    if source.is_file() and source.suffix.lower() in caption_files.TABLES:
        source, captions = source.parent, captions or source
    if source.is_file():
        raise records.DatasetError(f"{source}: is a file, not a folder of clips")
    if not source.is_dir():
        raise records.DatasetError(f"{source}: no such folder of clips")
    found = files.find_files(source)
    if not found.clips and captions is None:
        first = f"; first: {_told(found.unusable[0])}" if found.unusable else ""
        raise records.DatasetError(
            f"{source}: no video or image files in it "
            f"({' '.join(media.SUFFIXES)}){first}"
        )
    return folder.probe_clips(
        found,
        caption_files.read_captions(found, captions, needed=not keep),
        keep_uncaptioned=keep,
        progress=functools.partial(progress.bar, what="probing"),
    )


def prepare_world(
    name: str,
    output: Path,
    *,
    variant: str = "demo",
    count: int = 1000,
    seed: int = 0,
    validation: ValidationSplit = ValidationSplit(),
    workers: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """A dataset rendered from a world; returns its dataset.json.

    The same name, variant, count and seed give the same bytes, whatever `workers` is.

    Args:
      name: name of the world, of `builders.world.WORLDS`.
      output: the DATASET directory; it appears whole or not at all.
      variant: a key of the world's `VARIANTS`.
      count: number of clips, in both splits.
      seed: PRNG seed of the world.
      validation: size of the validation split.
      workers: number of processes that render.
      overwrite: replace the dataset at `output`.

    Raises:
      ValueError: unknown world or variant, or a count or seed out of range.
      DatasetError: `output` is in the way.
    """
    _check_world(name, variant=variant, count=count, seed=seed, workers=workers)
    config = world.WORLDS[name].VARIANTS[variant]
    held_out = validation.size(count)
    shots = world.plan_splits(config, count=count, validation=held_out, seed=seed)
    with records.publish(output, overwrite=overwrite) as root:
        with progress.bar(total=count, what="rendering") as bar:
            builder = world.WorldClips(
                data_dir=root, shots=shots, workers=workers, tick=bar.update
            )
            directory = builder.write()
        info = {
            "kind": "clips",
            "name": name,
            "variant": variant,
            "seed": seed,
            "world": dataclasses.asdict(config),
        }
        return records.write_metadata(
            root,
            directory,
            info=info | _contents(builder.lines, builder.captions),
            report=builder.lines,
        )


def prepare_rendered(
    name: str,
    output: Path,
    *,
    clips: Mapping[str, Iterable[bodies.RenderedClip]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """A dataset of clips that the caller renders; returns its dataset.json.

    Args:
      name: of the dataset; ids begin with it.
      output: the DATASET directory; it appears whole or not at all.
      clips: split name to its clips, one or more, taken one by one.
      about: what decides the clips, for dataset.json; plain JSON values.

    Raises:
      DatasetError: `output` is in the way.
    """
    records.check_output(output)
    with records.publish(output) as root:
        with progress.bar(what="rendering", unit="clip") as bar:
            builder = world.RenderedClips(
                data_dir=root, name=name, clips=clips, tick=bar.update
            )
            directory = builder.write()
        info = {"kind": "clips", "name": name, "about": dict(about)}
        return records.write_metadata(
            root,
            directory,
            info=info | _contents(builder.lines, builder.captions),
            report=builder.lines,
        )


def _check_world(
    name: str, *, variant: str, count: int, seed: int, workers: int
) -> None:
    if name not in world.WORLDS:
        names = ", ".join(world.WORLDS)
        raise ValueError(f"unknown world {name!r}; there are: {names}")
    variants = world.WORLDS[name].VARIANTS
    if variant not in variants:
        names = ", ".join(variants)
        raise ValueError(f"unknown variant {variant!r} of {name}; there are: {names}")
    if count < 1 or seed < 0 or workers < 1:
        raise ValueError(
            f"count={count}, seed={seed}, workers={workers}: use a count and workers "
            "of at least 1 and a seed of at least 0"
        )


def _contents(
    report: Sequence[Mapping[str, Any]], captions: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Outcomes, sizes, lengths, rates and caption sources, each with its count."""
    usable = [line for line in report if line["outcome"] == "kept"]
    sizes = collections.Counter(f"{k['width']}x{k['height']}" for k in usable)
    return {
        "outcomes": dict(collections.Counter(line["outcome"] for line in report)),
        "sizes": dict(sizes.most_common()),
        "frames": [min(k["frames"] for k in usable), max(k["frames"] for k in usable)],
        "fps": [min(k["fps"] for k in usable), max(k["fps"] for k in usable)],
        "captions": dict(collections.Counter(n for texts in captions for n in texts)),
        "account": account.summary(report),
    }


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m data_pipelines.prepare",
        description="Make a dataset from video files with captions, or from a world.",
        epilog=_EXAMPLES,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", help="folder of video and image files, or a pattern")
    worlds = ", ".join(world.WORLDS)
    source.add_argument("--world", help=f"procedural world to render: {worlds}")
    add("--output", required=True, help="the dataset directory to make")
    add(
        "--captions",
        help="jsonl, csv or parquet with a `file` field, a WebDataset tar, or a folder "
        "of .txt files, here or in the input folder; default: captions.jsonl or "
        "captions.csv there, else .txt beside clips",
    )
    add("--variant", default="demo", help="of the world (default: demo)")
    add("--count", type=int, default=1000, help="clips to render, in all splits")
    add("--seed", type=int, default=0, help="of the world, or of the held-out choice")
    add("--validation-fraction", type=float, default=0.1, help="part held out")
    add("--validation-count", type=int, help="clips held out, instead of a fraction")
    add("--keep-uncaptioned", action="store_true", help="keep clips without caption")
    add("--strict", action="store_true", help="write nothing if any input fails")
    add("--overwrite", action="store_true", help="replace the dataset at --output")
    workers = min(4, os.cpu_count() or 1)
    add("--workers", type=int, default=workers, help="processes that render or decode")
    curation.add_arguments(parser)
    parser.overrides = "beam_options"
    return parser


def _run(args: argparse.Namespace) -> None:
    validation = ValidationSplit(args.validation_fraction, args.validation_count)
    if args.input and curation.is_pattern(args.input):
        made = curation.run(args, held_out=validation.size)
        print(*account.block(args.output, made), *curation.summary(made), sep="\n")
        return
    output = Path(args.output)
    if args.world:
        info = prepare_world(
            args.world,
            output,
            variant=args.variant,
            count=args.count,
            seed=args.seed,
            validation=validation,
            workers=args.workers,
            overwrite=args.overwrite,
        )
    else:
        info = prepare_folder(
            Path(args.input),
            output,
            captions=Path(args.captions) if args.captions else None,
            validation=validation,
            seed=args.seed,
            keep_uncaptioned=args.keep_uncaptioned,
            strict=args.strict,
            overwrite=args.overwrite,
        )
    print(*account.block(output, info), sep="\n")


def _told(line: Mapping[str, Any]) -> str:
    """An input and what became of it."""
    return f"{line['input']}: {line['reason']}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 after one line on stderr that says what was wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.beam_options and not args.runner:
        parser.error(f"unrecognized arguments: {' '.join(args.beam_options)}")
    return cli.run_command("prepare", lambda: _run(args), extra="data")


if __name__ == "__main__":
    sys.exit(main())
