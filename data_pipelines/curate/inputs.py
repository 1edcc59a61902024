"""The clips that a pattern finds: files, and samples of WebDataset tars.

A tar is read by its headers and texts alone; a clip in it is a range of its bytes
(`storage.member`), which is copied out when the clip is probed, and no earlier. Its
captions are those of its sample.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import records, storage
from data_pipelines.builders import archives, files
from data_pipelines.builders import captions as caption_files


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
    failed: Sequence[Mapping[str, Any]] = ()
    texts: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def joined(self, own: caption_files.Captions) -> caption_files.Captions:
        """The captions of files, with those of samples."""
        return dataclasses.replace(
            own, texts={**self.texts, **own.texts}, notes={**self.notes, **own.notes}
        )


def find(pattern: str, *, captions: str | None = None) -> Inputs:
    """The clips of a pattern, sorted by the names of their files.

    Args:
      pattern: of the files, here or in a bucket.
      captions: a file of captions, which holds no clips.

    Raises:
      DatasetError: there are none, or a bucket does not answer.
    """
    clips: list[Mapping[str, str]] = []
    others: list[Mapping[str, str]] = []
    samples: list[archives.Sample] = []
    for name, path in storage.find(pattern):
        file = {"name": name, "path": path}
        if files.is_clip(Path(name)):
            clips.append(file)
        elif name.lower().endswith(".tar") and not _is_same(path, captions):
            found = list(archives.tar_samples(path, name))
            samples += found
            clips += [_clip(sample, path) for sample in found if not sample.reason]
        else:
            others.append(file)
    failed = [_failure(sample) for sample in samples if sample.reason]
    if not clips:
        why = f"; the first sample: {failed[0]['error']}" if failed else ""
        raise records.DatasetError(f"{pattern}: finds no video or image files{why}")
    good = [sample for sample in samples if not sample.reason]
    return Inputs(
        clips,
        others,
        failed,
        {sample.id: sample.captions for sample in good},
        {sample.id: sample.notes for sample in good if sample.notes},
    )


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
