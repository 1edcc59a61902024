"""A folder of real video files with captions.

Bytes are stored as they are; nothing is resized or cut here. Captions come from one of

    captions.jsonl   {"file": "a.mp4", "caption": "...", "detailed": "...", ...}
    captions.csv     a header with `file`, every other column a caption
    a.txt            beside a.mp4 (or in a folder of its own): its one caption

Every text field beside `file` is a caption source under its own name.
"""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import records
from data_pipelines.builders import base
from soraflax import media

_NAMES = ("captions.jsonl", "captions.csv")


@dataclasses.dataclass(frozen=True)
class ClipFile:
    """A file that decodes to its end.

    Attributes:
      id: path relative to the folder.
      path: the file.
      info: its size, length and rate.
      captions: source name to text.
    """

    id: str
    path: Path
    info: media.VideoInfo
    captions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Captions:
    """Captions by file, and the caption lines that name no file.

    Attributes:
      source: the captions file or folder.
      texts: resolved path of a file to its captions, source name to text.
      failed: report lines of caption lines that could not be used.
    """

    source: Path
    texts: Mapping[Path, Mapping[str, str]]
    failed: Sequence[Mapping[str, Any]]


class FolderClips(base.RecordBuilder):
    """Real video files with their captions, bytes as they were.

    Args:
      data_dir: parent of the TFDS directory.
      clips: split name to the clips of the split.
      tick: called after every clip, for a progress bar.
    """

    def __init__(
        self,
        *,
        data_dir: str | Path,
        clips: Mapping[str, Sequence[ClipFile]],
        tick: Callable[[], Any] = lambda: None,
    ) -> None:
        self._clips = clips
        self._tick = tick
        super().__init__(data_dir=data_dir)

    def features(self) -> dict[str, Any]:
        return base.clip_features()

    def splits(self) -> dict[str, Iterator[Mapping[str, Any]]]:
        return {
            name: self._examples(clips) for name, clips in self._clips.items() if clips
        }

    def _examples(self, clips: Iterable[ClipFile]) -> Iterator[Mapping[str, Any]]:
        for clip in clips:
            yield records.ClipRecord(
                id=clip.id,
                video=media.read_bytes(clip.path),
                fps=clip.info.fps,
                frames=clip.info.frames,
                height=clip.info.height,
                width=clip.info.width,
                captions=clip.captions,
            ).to_example()
            self._tick()


def read_captions(
    folder: Path, path: Path | None = None, *, needed: bool = True
) -> Captions:
    """Read the captions of a folder of clips.

    Args:
      folder: the folder that file names in the captions are relative to.
      path: a jsonl or csv file, or a folder of .txt files; a relative path that is not
        there is looked for in `folder`. By default captions.jsonl or captions.csv in
        `folder`, else a .txt beside each clip.
      needed: refuse a folder without any .txt.

    Raises:
      DatasetError: there is no captions file, it cannot be read, or none of its lines
        names a file that exists.
    """
    defaults = [folder / name for name in _NAMES if (folder / name).is_file()]
    source = path or (defaults[0] if defaults else folder)
    if not source.exists() and (folder / source).exists():
        source = folder / source
    if source.is_dir():
        return _sidecars(folder, source, needed=needed)
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv}
    if source.suffix.lower() not in readers:
        raise records.DatasetError(
            f"{source}: captions come as .jsonl, .csv, or a folder of .txt files"
        )
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            return _match(
                folder, source, lines=list(readers[source.suffix.lower()](file))
            )
    except FileNotFoundError as error:
        raise records.DatasetError(
            f"{source}: no such captions file, nor one in {folder}"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise records.DatasetError(f"{source}: {error}") from error


def _read_jsonl(file: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                yield number, f"not JSON: {error.msg}"


def _read_csv(file: Iterable[str]) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(file)
    for row in reader:
        yield reader.line_num, {k: v for k, v in row.items() if k is not None}


def _match(folder: Path, source: Path, *, lines: Sequence[tuple[int, Any]]) -> Captions:
    """Captions of the file that each line names; other lines go to the report."""
    texts: dict[Path, Mapping[str, str]] = {}
    failed: list[dict[str, Any]] = []
    for number, row in lines:
        location = f"{source.name}:{number}"
        if not isinstance(row, dict) or not isinstance(row.get("file"), str):
            reason = row if isinstance(row, str) else "caption line without a `file`"
            failed.append({"input": location, "outcome": "failed", "reason": reason})
            continue
        path, reason = _named(folder, row["file"])
        if path in texts:
            reason = f"file captioned before: {row['file']}"
        if reason:
            failed.append({"input": location, "outcome": "failed", "reason": reason})
            continue
        texts[path] = {
            name: " ".join(text.split())
            for name, text in row.items()
            if name != "file" and isinstance(text, str) and text.strip()
        }
    if not texts:
        first = f" (first: {failed[0]['reason']})" if failed else ""
        raise records.DatasetError(
            f"{source}: none of its {len(lines)} lines names a file in {folder}{first}"
        )
    return Captions(source, texts, failed)


def _named(folder: Path, name: str) -> tuple[Path, str | None]:
    """The file that a caption names, and the reason why it cannot be used, if any."""
    try:
        path = (folder / name).resolve()
        missing = not path.is_file()
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        return folder, f"caption names an impossible file {name[:80]!r}: {cause}"
    return path, f"caption names a missing file: {name}" if missing else None


def _sidecars(folder: Path, source: Path, *, needed: bool) -> Captions:
    texts: dict[Path, Mapping[str, str]] = {}
    for path in clip_files(folder):
        relative = path.relative_to(folder).with_suffix(".txt")
        sidecar = source / relative
        if not sidecar.is_file():
            continue
        try:
            text = " ".join(sidecar.read_text(encoding="utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            raise records.DatasetError(f"{sidecar}: {error}") from error
        if text:
            texts[path.resolve()] = {"caption": text}
    if needed and not texts:
        raise records.DatasetError(
            f"{folder}: no captions.jsonl, captions.csv or .txt beside a clip; name a "
            "captions file with --captions"
        )
    return Captions(source, texts, [])


def clip_files(folder: Path) -> list[Path]:
    """Every file in a folder and below that has a video or image suffix, sorted."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return [p for p in files if p.suffix.lower() in media.SUFFIXES]


def probe_clips(
    folder: Path,
    captions: Captions,
    *,
    keep_uncaptioned: bool = False,
    max_pixels: int = media.MAX_PIXELS,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> tuple[list[ClipFile], list[dict[str, Any]]]:
    """Decode every clip of a folder once; returns the good ones and a report.

    Files that captions name but that lie elsewhere or have another suffix are clips
    too. A file that is neither a clip nor a caption is reported as ignored.

    Args:
      folder: the folder of clips.
      captions: captions of its files.
      keep_uncaptioned: accept clips without a caption.
      max_pixels: most pixels of a frame.
      progress: wraps the list of files, for a progress bar.
    """
    files = {path.resolve(): None for path in clip_files(folder)}
    clips: list[ClipFile] = []
    report = [dict(line) for line in captions.failed]
    for path in progress(list(files | {path: None for path in captions.texts})):
        texts = captions.texts.get(path, {})
        name = _relative(path, folder)
        line: dict[str, Any] = {"input": name, "outcome": "failed"}
        report.append(line)
        if not texts and not keep_uncaptioned:
            line["reason"] = "no caption"
            continue
        try:
            info = media.probe(path, name=name, max_pixels=max_pixels)
        except media.MediaError as error:
            line["reason"] = str(error).removeprefix(f"{name}: ")
            continue
        clips.append(ClipFile(name, path, info, texts))
        line |= {"outcome": "kept", **dataclasses.asdict(info)}
    return clips, report + _ignored(
        folder, captions, seen={str(r["input"]) for r in report}
    )


def _ignored(
    folder: Path, captions: Captions, *, seen: set[str]
) -> list[dict[str, Any]]:
    lines = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = _relative(path, folder)
        caption = path.suffix == ".txt" or path.resolve() == captions.source.resolve()
        if name not in seen and not caption:
            reason = f"not a video or image suffix: {path.suffix or 'none'}"
            lines.append({"input": name, "outcome": "ignored", "reason": reason})
    return lines


def _relative(path: Path, folder: Path) -> str:
    with_root = path.resolve()
    root = folder.resolve()
    if with_root.is_relative_to(root):
        return with_root.relative_to(root).as_posix()
    return with_root.as_posix()


def split(
    clips: Sequence[ClipFile], *, validation: int, seed: int = 0
) -> dict[str, list[ClipFile]]:
    """Hold out `validation` clips, chosen by a hash of seed and id."""

    def rank(clip: ClipFile) -> str:
        return hashlib.sha256(f"{seed}:{clip.id}".encode()).hexdigest()

    held_out = {clip.id for clip in sorted(clips, key=rank)[:validation]}
    return {
        "train": [clip for clip in clips if clip.id not in held_out],
        "validation": [clip for clip in clips if clip.id in held_out],
    }
