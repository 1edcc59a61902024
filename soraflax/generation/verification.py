"""What a file says of how it was made, and whether its parts agree.

Results carry a record (`generation.provenance`) in their metadata, and the commands
write the same beside them. Neither is a proof: anyone can write one, or leave it out.
Content credentials (`generation.signing`) say besides who signed the file.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from soraflax import media
from soraflax.generation import signing

Outcome = Literal["generated", "unknown", "conflict"]


@dataclasses.dataclass(frozen=True)
class Verification:
    """What is known of a file.

    Attributes:
      path: of the file.
      outcome: 'generated', by its record; 'unknown', without one; 'conflict', where
        the record in the file and the one beside it differ, or the record is of a
        video of another size.
      record: in the file, else beside it; empty where there is none.
      problems: what does not agree, a line each.
      credentials: what a signed manifest in the file says; None where there is none.
    """

    path: pathlib.Path
    outcome: Outcome
    record: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    credentials: signing.Credentials | None = None

    @property
    def values(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "file": str(self.path),
            "outcome": self.outcome,
            "problems": list(self.problems),
            "record": dict(self.record),
            "credentials": self.credentials and dataclasses.asdict(self.credentials),
        }

    @property
    def text(self) -> str:
        """Lines for people."""
        signed = [f"  credentials: {self.credentials.text}"] if self.credentials else []
        differs = [f"  differs: {problem}" for problem in self.problems]
        if self.outcome == "unknown":
            head = f"{self.path}: no record of generation in it or beside it"
            return "\n".join([head, *signed, *differs])
        record, lines = self.record, [f"{self.path}: {self._head()}"]
        shown = ("task", "prompt", "seed", "command")
        lines += [f"  {key}: {record[key]}" for key in shown if record.get(key)]
        expansion = _mapping(_mapping(record.get("options")).get("expansion"))
        if expansion.get("prompt"):
            lines.append(f"  expanded from: {expansion['prompt']}")
        if expansion.get("expander"):
            lines.append(f"  expanded by: {expansion['expander']}")
        for role, item in _mapping(record.get("inputs")).items():
            name = _mapping(item).get("file", "pixels")
            lines.append(f"  {role}: {name} ({_mapping(item).get('sha256', '')[:12]})")
        checkpoint = _mapping(record.get("checkpoint")).get("transformer", "")
        if checkpoint:
            lines.append(f"  model: {checkpoint[:12]}")
        lines += signed + differs
        return "\n".join(" ".join(line.splitlines()) for line in lines)

    def _head(self) -> str:
        maker = f"{self.record.get('generator')} {self.record.get('version', '')}"
        if self.outcome == "conflict":
            return "says that it was generated, but its parts do not agree"
        part = "in part " if self.record.get("inputs") else ""
        return f"generated {part}by {maker.strip()}"


def verify(path: str | os.PathLike[str]) -> Verification:
    """Read what a file says of itself.

    Raises:
      MediaError: it cannot be read as a video or an image.
    """
    path = pathlib.Path(path)
    inside = media.read_metadata(path)
    inside = inside if inside.get("generated") else {}
    beside = _beside(path)
    credentials = signing.read(path)
    signed = dict(credentials.record) if credentials else {}
    record = inside or beside or signed
    failed = credentials.problems if credentials else ()
    problems = [f"content credentials: {problem}" for problem in failed]
    if not record:
        return Verification(path, "unknown", {}, tuple(problems), credentials)
    if inside and signed and inside != signed:
        problems.append("the record that was signed is another")
    if inside and beside and inside != beside:
        keys = sorted(k for k in {*inside, *beside} if inside.get(k) != beside.get(k))
        problems.append(f"{path.name}.json has other {', '.join(keys)}")
    with media.open_frames(path) as stream:
        size = [stream.width, stream.height]
        if record.get("size") not in (None, size):
            problems.append(f"the record is of {record['size']} pixels, this of {size}")
        if record.get("frames") not in (None, stream.frames):
            problems.append(
                f"the record is of {record['frames']} frames, this of {stream.frames}"
            )
    outcome: Outcome = "conflict" if problems else "generated"
    return Verification(path, outcome, record, tuple(problems), credentials)


def _beside(path: pathlib.Path) -> dict[str, Any]:
    try:
        text = path.with_name(f"{path.name}.json").read_text(encoding="utf-8")
        record = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) and record.get("generated") else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
