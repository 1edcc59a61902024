"""A folder of real video files with captions.

Bytes are stored as they are; nothing is resized or cut here. Captions come from one of

    captions.jsonl   {"file": "a.mp4", "caption": "...", "detailed": "...", ...}
    captions.csv     a header with `file`, every other column a caption
    a.txt            beside a.mp4 (or in a folder of its own): its one caption

Every text field beside `file` is a caption source under its own name
(`builders.captions`); which file a name means is up to `builders.files`.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import records
from data_pipelines.builders import base, captions, files
from soraflax import media
from soraflax.media import guard


@dataclasses.dataclass(frozen=True)
class ClipFile:
    """A file that decodes to its end.

    Attributes:
      id: its name: path relative to the folder.
      path: the file, or the bytes in a larger one (`builders.archives`).
      info: its size, length and rate.
      captions: source name to text.
    """

    id: str
    path: Any
    info: media.VideoInfo
    captions: Mapping[str, str]


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
                video=_read(clip.path),
                fps=clip.info.fps,
                frames=clip.info.frames,
                height=clip.info.height,
                width=clip.info.width,
                captions=clip.captions,
            ).to_example()
            self._tick()


def _read(path: Any) -> bytes:
    return media.read_bytes(path) if isinstance(path, Path) else path.read_bytes()


def probe_clips(
    found: files.FolderFiles,
    texts: captions.Captions,
    *,
    keep_uncaptioned: bool = False,
    max_pixels: int = media.MAX_PIXELS,
    progress: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> tuple[list[ClipFile], list[dict[str, Any]]]:
    """Decode every clip of a folder once; returns the good ones and a report.

    Files that captions name but that lie elsewhere or have another suffix are clips
    too. A file that is neither a clip nor a caption is reported as ignored.

    Args:
      found: the files of a folder of clips.
      texts: captions of its files.
      keep_uncaptioned: accept clips without a caption.
      max_pixels: most pixels of a frame.
      progress: wraps the list of names, for a progress bar.
    """
    paths = found.clips | {n: p for n, p in texts.paths.items() if n not in found.clips}
    clips: list[ClipFile] = []
    report: list[dict[str, Any]] = [
        *map(dict, texts.unused),
        *map(dict, found.unusable),
    ]
    for name in progress(list(paths)):
        line, info = probe_clip(
            name,
            paths[name],
            captions=texts.texts.get(name, {}),
            notes=[*texts.notes.get(name, ()), *_place(name)],
            keep_uncaptioned=keep_uncaptioned,
            max_pixels=max_pixels,
        )
        report.append(line)
        if info is not None:
            own = texts.texts.get(name, {})
            clips.append(ClipFile(name, paths[name], info, own))
    seen = {str(line["input"]) for line in report}
    return clips, report + _ignored(found, texts.source, seen=seen)


def _place(name: str) -> list[str]:
    """A note for a clip that captions took from elsewhere."""
    return ["lies outside the folder"] if os.path.isabs(name) else []


def probe_clip(
    name: str,
    path: Path,
    *,
    captions: Mapping[str, str],
    notes: Sequence[str] = (),
    keep_uncaptioned: bool = False,
    reason: str = "",
    max_pixels: int = media.MAX_PIXELS,
) -> tuple[dict[str, Any], media.VideoInfo | None]:
    """Decode a clip once; the line of the report, and its facts where it is good.

    Args:
      name: its name in the report.
      path: its bytes.
      captions: source name to text.
      notes: what was changed before.
      keep_uncaptioned: accept a clip without a caption.
      reason: why it is refused already.
      max_pixels: most pixels of a frame.
    """
    line: dict[str, Any] = {"input": name, "outcome": "failed"}
    if notes:
        line["notes"] = list(notes)
    if not captions and not keep_uncaptioned:
        reason = reason or "no caption"
    if reason:
        return line | {"reason": reason}, None
    try:
        info = guard.probe(path, name=name, max_pixels=max_pixels)
    except media.MediaError as error:
        return line | {"reason": str(error).removeprefix(f"{name}: ")}, None
    facts = dataclasses.asdict(info)
    if every := [*notes, *facts.pop("notes")]:
        line["notes"] = every
    return line | {"outcome": "kept", **facts}, info


def _ignored(
    found: files.FolderFiles, source: Path, *, seen: set[str]
) -> list[dict[str, Any]]:
    lines = []
    for name, path in found.paths.items():
        caption = path.suffix.lower() == ".txt" or path.resolve() == source.resolve()
        if name not in seen and not caption:
            reason = f"not a video or image suffix: {path.suffix or 'none'}"
            lines.append({"input": name, "outcome": "ignored", "reason": reason})
    return lines


def split(
    clips: Sequence[ClipFile], *, validation: int, seed: int = 0
) -> dict[str, list[ClipFile]]:
    """Hold out `validation` clips, chosen by a hash of seed and id.

    Clips that are one file, by links, are held out together or not at all, so that no
    clip is validated on that was trained on; then there may be fewer.
    """
    of_file: dict[Any, list[str]] = {}
    for clip in clips:
        of_file.setdefault(clip.path.resolve(), []).append(clip.id)

    def rank(names: Sequence[str]) -> str:
        return hashlib.sha256(f"{seed}:{min(names)}".encode()).hexdigest()

    held_out: set[str] = set()
    for names in sorted(of_file.values(), key=rank):
        if len(held_out) + len(names) <= validation:
            held_out.update(names)
    return {
        "train": [clip for clip in clips if clip.id not in held_out],
        "validation": [clip for clip in clips if clip.id in held_out],
    }
