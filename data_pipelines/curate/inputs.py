"""The clips that a pattern finds: files, and samples of WebDataset tars.

A tar is read by its headers and texts alone; a clip in it is a range of its bytes
(`storage.member`), which is copied out when the clip is probed, and no earlier. Its
captions are those of its sample.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import records, storage
from data_pipelines.builders import archives, files
from data_pipelines.builders import captions as caption_files
from data_pipelines.curate import lines


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What was found.

    Attributes:
      clips: `name` and `path` of every clip.
      others: the same of files that are none.
      failed: rows of samples that hold no clip (`probing.FileStep`).
      texts: name of a clip in a tar to its captions, source name to text.
      notes: name of such a clip to what was changed in its captions.
    """

    clips: Sequence[Mapping[str, str]]
    others: Sequence[Mapping[str, str]]
    failed: Sequence[Mapping[str, Any]]
    texts: Mapping[str, Mapping[str, str]]
    notes: Mapping[str, Sequence[str]]

    def joined(self, own: caption_files.Captions) -> caption_files.Captions:
        """The captions of files, with those of samples."""
        texts: Any = (own.texts, self.texts)
        notes: Any = (own.notes, self.notes)
        return dataclasses.replace(
            own,
            texts=collections.ChainMap(*texts),
            notes=collections.ChainMap(*notes),
        )


class FilePaths(Mapping[str, Path]):
    """Paths of files by name, made as they are asked for.

    Args:
      found: `name` and `path` of every file.
      key: of the two, the one that is the path.
    """

    def __init__(self, found: Sequence[Mapping[str, str]], key: str = "path") -> None:
        self._found, self._key = found, key

    def __getitem__(self, name: str) -> Path:
        return Path(self._found[self._numbers[name]][self._key])

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __iter__(self) -> Iterator[str]:
        return (file["name"] for file in self._found)

    def __len__(self) -> int:
        return len(self._found)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self)}


def find(
    pattern: str, *, captions: str | None = None, folder: Path | None = None
) -> Inputs:
    """The clips of a pattern, sorted by the names of their files.

    Args:
      pattern: of the files, here or in a bucket.
      captions: a file of captions, which holds no clips.
      folder: for lines of what was found; None keeps it in memory.

    Raises:
      DatasetError: there are none, or a bucket does not answer.
    """
    clips, others, failed = (
        lines.values(folder, name) for name in ("clips", "others", "failed")
    )
    texts, notes = lines.mapping(folder, "texts"), lines.mapping(folder, "notes")
    for name, path in storage.find(pattern):
        file = {"name": name, "path": path}
        if files.is_clip(Path(name)):
            clips.append(file)
        elif name.lower().endswith(".tar") and not _is_same(path, captions):
            for sample in archives.tar_samples(path, name):
                if sample.reason:
                    failed.append(_failure(sample))
                    continue
                clips.append(_clip(sample, path))
                texts[sample.id] = sample.captions
                if sample.notes:
                    notes[sample.id] = sample.notes
        else:
            others.append(file)
    if not clips:
        why = f"; the first sample: {failed[0]['error']}" if failed else ""
        raise records.DatasetError(f"{pattern}: finds no video or image files{why}")
    return Inputs(clips, others, failed, texts, notes)


def _is_same(path: str, captions: str | None) -> bool:
    if captions is None or storage.is_bucket(path) or storage.is_bucket(captions):
        return path == captions
    return Path(path).resolve() == Path(captions).resolve()


def _clip(sample: archives.Sample, archive: str) -> dict[str, str]:
    content = sample.content
    name = sample.id.rpartition("/")[2]
    return {
        "name": sample.id,
        "path": storage.member(archive, content.offset, size=content.size, name=name),
    }


def _failure(sample: archives.Sample) -> dict[str, Any]:
    return {
        "name": sample.id,
        "path": sample.id,
        "error": sample.reason,
        "step": "read",
        "ran": [],
    }
