"""The files of a folder, and the names that captions give them.

Links to folders are followed; a folder that is reached again, or that holds the folder
itself, is not entered but reported. Links to files are files of their own. A name finds
its file exactly, or else in spite of what other systems do to names: backslashes,
Unicode's composed and decomposed forms (NFC, NFD), upper and lower case.
"""

import collections
import dataclasses
import functools
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from soraflax import media

_NOT_UNICODE = "its name is not UTF-8: rename it"


@dataclasses.dataclass(frozen=True)
class FolderFiles:
    """Every file in a folder and below.

    Attributes:
      root: the folder.
      paths: name to path, sorted; the name is relative to `root`, with slashes.
      unusable: report lines of what cannot be a clip whatever is in it: links that lead
        nowhere or in a circle, folders that cannot be read, names that are not UTF-8.
    """

    root: Path
    paths: Mapping[str, Path]
    unusable: Sequence[Mapping[str, str]]

    @property
    def clips(self) -> dict[str, Path]:
        """Those with a video or image suffix."""
        return {name: path for name, path in self.paths.items() if is_clip(path)}

    def clip_names(self) -> Iterator[str]:
        """Names of `clips`, one at a time."""
        return (name for name in self.paths if is_clip(Path(name)))

    def find(self, name: str) -> tuple[str, Path]:
        """The file that a caption names: its name in `paths`, and its path.

        One that lies elsewhere has its path for a name.

        Raises:
          LookupError: there is none, or there are several; the message is the reason.
        """
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            found = self._on_disk(spelling, said=name)
            if found is not None:
                return found
        similar = self._similar.get(similar_name(name), ())
        if len(similar) > 1:
            raise LookupError(f"caption names several files: {', '.join(similar)}")
        if not similar:
            raise LookupError(f"caption names a missing file: {name}")
        return similar[0], self.paths[similar[0]]

    def _on_disk(self, name: str, *, said: str) -> tuple[str, Path] | None:
        if (normal := os.path.normpath(name)) in self.paths:
            return normal, self.paths[normal]
        try:
            path = (self.root / name).resolve()
            if not path.is_file():
                return None
        except (OSError, ValueError, RuntimeError) as error:
            cause = getattr(error, "strerror", None) or str(error)
            raise LookupError(
                f"caption names an impossible file {said[:80]!r}: {cause}"
            ) from error
        if path in self._resolved:
            known = self._resolved[path]
            return known, self.paths[known]
        root = self.root.resolve()
        inside = path.is_relative_to(root)
        own = (path.relative_to(root) if inside else path).as_posix()
        if not _is_unicode(own):
            raise LookupError(f"caption names {printable(own)}: {_NOT_UNICODE}")
        return own, path

    @functools.cached_property
    def _similar(self) -> dict[str, list[str]]:
        names = collections.defaultdict(list)
        for name in self.paths:
            names[similar_name(name)].append(name)
        return names

    @functools.cached_property
    def _resolved(self) -> dict[Path, str]:
        """Path without links to the first of its names."""
        pairs = [(path.resolve(), name) for name, path in self.paths.items()]
        return dict(reversed(pairs))


def find_files(root: Path) -> FolderFiles:
    """Every file in a folder and below, links followed."""
    paths: dict[Path, Path] = {}
    unusable: list[dict[str, str]] = []
    resolved = root.resolve()
    # By device and number, which are the same whatever link leads there.
    entered = {_identity(parent): f"the folder {parent}" for parent in resolved.parents}
    folders, links = collections.deque([root]), collections.deque[Path]()
    while folders or links:
        # Links last: what they lead to may be reached without them.
        folder = folders.popleft() if folders else links.popleft()
        name = printable(folder.relative_to(root).as_posix())
        try:
            identity = _identity(folder)
            if identity in entered:
                reason = f"a link to {entered[identity]}, not followed"
                unusable.append(_line(name, "ignored", reason=reason))
                continue
            entered[identity] = "the folder itself" if folder == root else name
            entries = list(os.scandir(folder))
        except OSError as error:
            reason = f"folder cannot be read: {_cause(error)}"
            unusable.append(_line(name, "failed", reason=reason))
            continue
        for entry in entries:
            path = folder / entry.name
            if os.path.isdir(path):  # False where it cannot be asked
                (links if path.is_symlink() else folders).append(path)
                continue
            name = path.relative_to(root)
            reason = _fault(path, name.as_posix())
            if reason is None:
                paths[name] = path
            else:
                outcome = "failed" if is_clip(path) else "ignored"
                unusable.append(
                    _line(printable(name.as_posix()), outcome, reason=reason)
                )
    named = {name.as_posix(): paths[name] for name in sorted(paths)}
    return FolderFiles(root, named, sorted(unusable, key=lambda line: line["input"]))


def is_clip(path: Path) -> bool:
    """Whether a file has a video or image suffix."""
    return path.suffix.lower() in media.SUFFIXES


def similar_name(name: str) -> str:
    """Equal for names that differ only as systems differ: see the module."""
    slashed = name.replace("\\", "/").strip().removeprefix("./")
    return unicodedata.normalize(
        "NFC", unicodedata.normalize("NFC", slashed).casefold()
    )


def printable(text: str) -> str:
    """One line that any terminal shows: bytes and controls are written as escapes."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _fault(path: Path, name: str) -> str | None:
    """Why what is at a path, which is no folder, cannot be read as a file."""
    if not _is_unicode(name):
        return _NOT_UNICODE
    try:
        path.stat()
    except OSError as error:
        return "a link that leads nowhere" if path.is_symlink() else _cause(error)
    return None if path.is_file() else "not a regular file"


def _is_unicode(name: str) -> bool:
    """Whether a name can be written down; others hold bytes that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _identity(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def _cause(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _line(name: str, outcome: str, *, reason: str) -> dict[str, Any]:
    return {"input": name, "outcome": outcome, "reason": reason}
