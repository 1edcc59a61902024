"""Write new captions of a dataset's clips, beside those that they have.

    python -m data_pipelines.recaption DATASET
    python -m data_pipelines.recaption DATASET --captioner DIR --beams 4
    python -m data_pipelines.recaption DATASET --function module:caption --name theirs
    python -m data_pipelines.recaption DATASET --jsonl captions.jsonl --name theirs

DATASET holds clips, or latents of the captioner's encoder, which need no encoding. Its
own captions stay: the new ones are a source by themselves (`added_captions`), between
which training chooses by rates (`data.captions.names` and `.weights`). What was written
is cached by the digests of the clip and of the captioner, or of the file that a
function stands in, so that a run that was stopped goes on where it was, and a second
one writes nothing anew.

A function takes a `soraflax.Video` and gives its caption. `--runner` names an Apache
Beam runner (the extra `beam`) instead of processes of this machine, such as
DirectRunner, with its options after it; DATASET and the captioner must then be on a
file system that all workers reach.
"""

import argparse
import collections
import dataclasses
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import (
    added_captions,
    caption_statistics,
    latents,
    mirrors,
    progress,
    records,
)
from data_pipelines.curate import runners
from soraflax import extensions, media
from soraflax.cli import parser as cli
from soraflax.generation import captioner as captioners
from soraflax.generation import prompts
from soraflax.pretrained import io as model_io
from soraflax.pretrained import shipped

GROUP = "soraflax.captioners"
CACHE = ".cache"


@dataclasses.dataclass(frozen=True)
class Writer:
    """Who writes captions.

    Attributes:
      captioner: folder of a captioner; used unless a function is given.
      beams: hypotheses that it keeps.
      function: `module:function`, or an entry point of `GROUP`; "" for none.
    """

    captioner: str = ""
    beams: int = 1
    function: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What its captions depend on; JSON values.

        Raises:
          FileNotFoundError, ModelError: no such captioner.
          ExtensionError: no such function.
        """
        if self.function:
            function = extensions.load(self.function, group=GROUP)
            return {"function": self.function, "source": _source_digest(function)}
        digest = model_io.model_digest(model_io.find_model(self.captioner))
        return {"captioner": digest, "beams": self.beams}


@dataclasses.dataclass(frozen=True)
class CaptionStep:
    """A step of a `Runner`: a run of clips to their captions.

    Attributes:
      dataset: of clips, or of latents.
      writer: of the captions.
      cache: folder with what was written before.
    """

    dataset: str
    writer: Writer
    cache: str

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Captions of clips `start` to `stop` of a split.

        Returns:
          `rows`, a list of `[id, digest of the clip, caption]`, and how many are `new`.
        """
        source = opened(self.dataset, item["split"])
        clips = [source[n] for n in range(item["start"], item["stop"])]
        digests = [_digest(clip) for clip in clips]
        path = Path(self.cache) / f"{_key(digests)}.json"
        known = _cached(path)
        wanted = [n for n, digest in enumerate(digests) if digest not in known]
        written = _write(self.writer, [clips[n] for n in wanted])
        for number, caption in zip(wanted, written, strict=True):
            known[digests[number]] = " ".join(prompts.readable(caption)[0].split())
        if wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{item['start']}.draft")
            draft.write_text(json.dumps(known), encoding="utf-8")
            draft.replace(path)
        rows = [
            [clip.id, digest, known[digest]]
            for clip, digest in zip(clips, digests, strict=True)
        ]
        return {"rows": rows, "new": len(wanted)}


@functools.lru_cache(maxsize=4)
def opened(dataset: str, split: str) -> Any:
    """A split of clips or of latents.

    Raises:
      DatasetError: no dataset there, or a damaged one.
    """
    if records.read_info(dataset).get("kind") == "latents":
        return latents.open_latents(dataset, split)
    return records.open_dataset(dataset, split)


@functools.lru_cache(maxsize=2)
def _captioner(folder: str) -> captioners.Captioner:
    return captioners.Captioner.load(folder)


def _digest(clip: Any) -> str:
    """SHA-256 of the clip's bytes, or of its latent."""
    data = clip.video if hasattr(clip, "video") else clip.to_example()["latent"]
    return hashlib.sha256(data).hexdigest()


def _source_digest(function: Any) -> str:
    """SHA-256 of the file that a function stands in; "" where there is none."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # an object that can be called
        path = inspect.getsourcefile(type(function))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def _key(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:32]


def _cached(path: Path) -> dict[str, str]:
    """Digest of a clip to its caption; nothing where the file is missing or damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(writer: Writer, clips: Sequence[Any]) -> list[str]:
    """The captions of clips, in order.

    Raises:
      DatasetError: latents of another encoder, or given to a function.
      ValueError: a function that fails, or gives no text.
    """
    if not clips:
        return []
    encoded = not hasattr(clips[0], "video")
    if writer.function:
        if encoded:
            raise records.DatasetError(
                "a function captions videos, and this dataset holds latents: give it "
                "the clips that they are of"
            )
        return [_call(writer.function, clip) for clip in clips]
    model = _captioner(writer.captioner)
    config = model.decoding_config(beams=writer.beams)
    if encoded:
        segments = (model.segment_of(clip.latent, fps=clip.fps) for clip in clips)
        return list(model.of_segments(segments, config))
    videos = (media.decode(clip.video, name=clip.id) for clip in clips)
    return list(model.captions(videos, config))


def _call(name: str, clip: Any) -> str:
    function = extensions.load(name, group=GROUP)
    try:
        caption = function(media.decode(clip.video, name=clip.id))
    except Exception as error:
        raise ValueError(
            f"{name} failed on {clip.id}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(caption, str) or not prompts.readable(caption)[0]:
        raise ValueError(
            f"{name} gave {caption!r} of {clip.id}: it must give a text that is not "
            "empty"
        )
    return caption


def recaption(
    dataset: str | Path,
    *,
    writer: Writer,
    name: str,
    runner: runners.Runner | None = None,
    chunk: int = 256,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Caption every clip of a dataset; returns the statistics.

    Args:
      dataset: of clips, or of latents of the captioner's encoder.
      writer: of the captions.
      name: of the source that the captions become.
      runner: maps the step over runs of clips; this process by default.
      chunk: clips that are captioned, and cached, at a time.
      cache: folder of what was written before; the dataset's own by default.

    Raises:
      DatasetError: no dataset, latents of another encoder, or a name that its clips
        have a source of already.
      FileNotFoundError, ModelError: no such captioner.
    """
    info, identity = _checked(dataset, name), writer.identity
    _check_encoder(dataset, info, writer=writer)
    folder = cache or mirrors.folder(dataset) / added_captions.FOLDER / CACHE
    folder = folder / _key([json.dumps(identity, sort_keys=True)])
    step = CaptionStep(str(dataset), writer, str(folder))
    items = _items(info, chunk)
    mapped = (runner or runners.Local()).map("recaption", step, items=items)
    rows, new = [], 0
    for made in progress.bar(mapped, total=len(items), what="recaption", unit="chunk"):
        rows += made["rows"]
        new += made["new"]
    statistics = {
        "source": name,
        "writer": identity,
        "written": new,
        "cached": len(rows) - new,
        **measured(dataset, [caption for _, _, caption in rows], info=info),
    }
    added_captions.write(
        dataset,
        name,
        captions=((clip, caption) for clip, _, caption in rows),
        statistics=statistics,
    )
    return statistics


def _items(info: Mapping[str, Any], chunk: int) -> list[dict[str, Any]]:
    """Runs of at most `chunk` clips, in the order of `_clips`."""
    return [
        {"split": split, "start": start, "stop": min(start + chunk, count)}
        for split, count in sorted(info["splits"].items())
        for start in range(0, count, chunk)
    ]


def take(dataset: str | Path, jsonl: Path, *, name: str) -> dict[str, Any]:
    """Captions that others wrote, `{"id": ..., "caption": ...}` a line, as a source.

    Raises:
      DatasetError: a clip without a caption, with an empty one or with several, or a
        caption without a clip.
    """
    info = _checked(dataset, name)
    counts: collections.Counter[str] = collections.Counter()
    captions = {}
    for clip, caption in added_captions.read_lines(jsonl):
        captions[clip] = " ".join(prompts.readable(caption)[0].split())
        counts[clip] += 1
    ids = [clip.id for clip in _clips(dataset, info)]
    for clips, what in (
        ([clip for clip in ids if clip not in captions], "no caption of"),
        (sorted(captions.keys() - {*ids}), "no clip of the id"),
        ([clip for clip, count in counts.items() if count > 1], "several captions of"),
        ([clip for clip in ids if not captions.get(clip)], "an empty caption of"),
    ):
        if clips:
            more = f" and {len(clips) - 1} more" if len(clips) > 1 else ""
            raise records.DatasetError(f"{jsonl}: {what} {clips[0]!r}{more}")
    texts = [captions[clip] for clip in ids]
    statistics = {
        "source": name,
        "writer": {"jsonl": jsonl.name},
        **measured(dataset, texts, info=info),
    }
    added_captions.write(
        dataset, name, captions=zip(ids, texts, strict=True), statistics=statistics
    )
    return statistics


def measured(
    dataset: str | Path, captions: Sequence[str], *, info: Mapping[str, Any]
) -> dict[str, Any]:
    """`caption_statistics.measure` of all clips, in the order of `_clips`."""
    truths: Iterable[Mapping[str, Any]] = (clip.truth for clip in _clips(dataset, info))
    return caption_statistics.measure(captions, truths)


def _clips(dataset: str | Path, info: Mapping[str, Any]) -> Iterator[Any]:
    for split, count in sorted(info["splits"].items()):
        if count:
            source = opened(str(dataset), split)
            yield from (source[n] for n in range(count))


def _checked(dataset: str | Path, name: str) -> dict[str, Any]:
    added_captions.check_name(name)
    info = records.read_info(dataset)
    first = next(_clips(dataset, info))
    if name in first.captions and name not in added_captions.read(dataset):
        raise records.DatasetError(
            f"{dataset}: its clips have captions {name!r} of their own: choose another "
            "--name"
        )
    return info


def _check_encoder(
    dataset: str | Path, info: Mapping[str, Any], *, writer: Writer
) -> None:
    if info.get("kind") != "latents" or writer.function:
        return
    reads = _captioner(writer.captioner).model.config.autoencoder
    if info["encoder"]["digest"] != reads:
        raise records.DatasetError(
            f"{dataset}: latents of encoder {info['encoder']['digest'][:12]}, but this "
            f"captioner reads those of {reads[:12]}: give it the clips"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 after one line on stderr that says what was wrong."""
    parser = cli.Parser(prog="python -m data_pipelines.recaption", description=__doc__)
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="of clips, or of latents")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--captioner", type=Path, help="folder (default: the shipped)")
    who.add_argument("--function", default="", help="MODULE:FUNCTION, or entry point")
    who.add_argument("--jsonl", type=Path, help="captions that others wrote")
    add("--beams", type=cli.positive_int, default=1, help="hypotheses kept")
    add("--name", default="captioner", help="of the source that the captions become")
    add("--chunk", type=cli.positive_int, default=256, help="clips cached together")
    add("--cache", type=Path, help="folder (default: in the dataset)")
    add("--workers", type=cli.positive_int, default=1, help="processes")
    add("--runner", help="an Apache Beam runner, such as DirectRunner")
    parser.overrides = "beam_options"
    args = parser.parse_args(argv)
    return cli.run_command(
        "recaption",
        lambda: _run(args),
        extra="data",
        interrupted="the same command goes on where this one stopped",
    )


def _run(args: argparse.Namespace) -> None:
    if args.beam_options and not args.runner:
        raise ValueError(f"unknown argument {args.beam_options[0]!r} (see --help)")
    if args.jsonl is not None:
        statistics = take(args.dataset, args.jsonl, name=args.name)
    else:
        folder = (
            "" if args.function else str(shipped.captioner_or_given(args.captioner))
        )
        runner: runners.Runner = runners.Local(args.workers)
        if args.runner:
            options = [f"--runner={args.runner}", *args.beam_options]
            runner = runners.Beam(options, args.cache and str(args.cache))
        statistics = recaption(
            args.dataset,
            writer=Writer(folder, args.beams, args.function),
            name=args.name,
            runner=runner,
            chunk=args.chunk,
            cache=args.cache,
        )
    print(json.dumps(statistics))
    if statistics["empty"]:
        note = f"{statistics['empty']} of {statistics['captions']} captions are empty"
        print(f"recaption: {note}: see {args.name}.jsonl", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
