"""The steps of a run on disk: which are whole, which of them to resume, and to keep.

A step counts once it is committed. It is whole if its files agree with their digests.
All processes have the same answers: one lists, each verifies a share of the files, and
no step is read twice.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from soraflax import buckets
from soraflax.train import digests

DIGESTS = digests.DIGESTS
CheckpointError = digests.CheckpointError
ROUND = 16  # files that a process verifies before it asks whether to stop


def say(line: str) -> None:
    """A line on standard error, from the first process alone."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


class SavedSteps:
    """The steps in a directory, and orbax's policy of which of them are kept.

    Attributes:
      whole: steps that were verified, or written with digests.
      damaged: steps that were found damaged.
    """

    def __init__(
        self,
        directory: buckets.Folder,
        *,
        keep: int,
        keep_period: int = 0,
        say: Callable[[str], None] = say,
    ) -> None:
        """Nothing is read yet.

        Args:
          directory: parent of the steps.
          keep: number of last steps that are kept, of those not known to be damaged.
          keep_period: steps that it divides are kept beside them; 0 for none.
          say: takes lines about steps that are passed over.
        """
        self._directory = directory
        self._keep, self._period = keep, keep_period
        self._say = say
        self.whole: set[int] = set()
        self.damaged: set[int] = set()

    def steps(self) -> list[int]:
        """All committed steps, damaged ones too, in ascending order."""
        return json.loads(from_first(lambda: json.dumps(self.committed())))

    def latest(self) -> int | None:
        """The last committed step that has digests, or None."""
        return max(self._verifiable(), default=None)

    def last_whole(self, *, check: Callable[[], object] = lambda: None) -> int:
        """The last step whose files agree with their digests.

        Without such a one, the last that has no digests: earlier versions added them
        after the commit, and could be killed in between.

        Args:
          check: called now and then, as often in all processes; may raise.

        Raises:
          CheckpointError: there is none.
        """
        steps, verifiable = self.steps(), self._verifiable()
        for step in reversed(verifiable):
            if (problem := self._problem(step, check=check)) is None:
                if newer := [str(s) for s in steps if s > step]:
                    self._say(f"resuming at step {step}, not {' or '.join(newer)}")
                return step
            self._say(problem)
        if unverifiable := sorted(set(steps) - set(verifiable)):
            folder = self._directory / str(unverifiable[-1])
            self._say(f"{folder}: has no {DIGESTS}; resuming there unverified")
            return unverifiable[-1]
        if not steps:
            raise CheckpointError(f"{self._directory}: no finished checkpoint")
        raise CheckpointError(
            f"{self._directory}: steps {', '.join(map(str, steps))} are damaged; "
            "remove the folder to begin at step 0"
        )

    def _problem(self, step: int, *, check: Callable[[], object]) -> str | None:
        """What is wrong with a step; None if it is whole. Each is read once."""
        if step in self.whole:
            return None
        folder = self._directory / str(step)
        lines = json.loads(from_first(lambda: _read_digests(folder)))
        expected, found = lines["files"], lines["problems"]
        if not found:
            own = []
            for part in _rounds(expected):
                own += digests.problems(folder, part)
                check()
            texts = allgather_text(json.dumps(own))
            found = [line for text in texts for line in json.loads(text)]
        if found:
            self.damaged.add(step)
            return found[0]
        self.whole.add(step)
        return None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any = None
    ) -> list[bool]:
        """Whether each of orbax's checkpoints is kept: the last, the last whole one."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        sound = sorted(set(steps) - self.damaged)
        kept = {*sound[-self._keep :], max(self.whole & set(steps), default=None)}
        kept |= {s for s in sound if self._period and s % self._period == 0}
        return [step in kept for step in steps]

    def committed(self) -> list[int]:
        """The committed steps, as this process sees them."""
        if not self._directory.is_dir():
            return []  # of a bucket, in which nothing is saved yet
        folders = [p for p in self._directory.iterdir() if p.name.isdigit()]
        finished = (p for p in folders if ocp.utils.is_checkpoint_finalized(p))
        return sorted(int(p.name) for p in finished)

    def _verifiable(self) -> list[int]:
        """The committed steps that have digests, ascending."""

        def found() -> str:
            paths = ((s, self._directory / str(s) / DIGESTS) for s in self.committed())
            return json.dumps([step for step, path in paths if path.exists()])

        return json.loads(from_first(found))


def _rounds(expected: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files that this process verifies, in as many parts in all processes."""
    count = jax.process_count()
    shares = [digests.share(expected, index, count=count) for index in range(count)]
    own = list(shares[jax.process_index()].items())
    starts = range(0, max(map(len, shares)), ROUND)
    return [dict(own[start : start + ROUND]) for start in starts]


def _read_digests(folder: buckets.Folder) -> str:
    """The digests of a step, or why there are none, as JSON."""
    try:
        return json.dumps({"files": digests.read(folder), "problems": []})
    except CheckpointError as error:
        return json.dumps({"files": {}, "problems": [str(error)]})


def from_first(text: Callable[[], str]) -> str:
    """A text of the first process, which alone computes it, in all."""
    mine = text() if jax.process_index() == 0 else ""
    return allgather_text(mine)[0]


def allgather_text(text: str) -> list[str]:
    """The text of every process, in order of process."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray([data.size]))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [
        bytes(row[:size]).decode()
        for row, size in zip(rows, sizes.ravel(), strict=True)
    ]
