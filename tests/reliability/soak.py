"""A run under faults beside one without: in the end both have the same state.

    python -m tests.reliability.soak --minutes 120 --every 60 --seed 0

The stage `video` trains in a process of its own; a fault comes every so many seconds,
of a kind and at a moment drawn from the seed:

    kill      SIGKILL, also while it saves, restores or compiles
    term      SIGTERM, as of preemption: it saves and ends
    freeze    SIGSTOP for a while
    full      the disk takes no more: no file can grow beyond some bytes
    flip      SIGKILL, then one bit of a file of the newest checkpoint is flipped
    cut       SIGKILL, then such a file is cut short
    lose      SIGKILL, then such a file is removed

After each the run is launched again. It must go on from the newest whole checkpoint,
and end only by a fault. When the time is up it is told to stop; another run, without
faults, then goes to the same step, and parameters, optimizer, averages and the place in
the data must be equal, bit for bit. A JSON line for each fault; exit status 1 where
something differed.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from soraflax.cli import parser as cli
from soraflax.train import digests, goodput, saved_steps
from tests.reliability import lives

KINDS = ("kill", "term", "freeze", "full", "flip", "cut", "lose")
ENDED = (0, cli.EXIT_INTERRUPTED)  # of a life that was told to stop
REFUSED = cli.EXIT_BAD_INPUT  # one line, as of a full disk
EARLY = 0.15  # of the kills may come before a life has restored and compiled
PATIENCE = 600.0  # seconds in which a life must begin, or end once it is told to


class SoakError(ValueError):
    """The run did what it must not; the message ends with its last words."""


@dataclasses.dataclass
class Soak:
    """A run, its present life, and what befell it.

    Attributes:
      run: a key of `lives.RUNS`.
      folder: what the run needs, and its work folders.
      every: seconds between two faults, about.
      rng: draws kinds, moments and damage.
      faults: the kinds so far, with their number.
    """

    run: str
    folder: pathlib.Path
    every: float
    rng: random.Random
    faults: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )

    def __post_init__(self) -> None:
        self.workdir = self.folder / "faulty"
        self._processes = lives.context()
        self._launch()

    def _launch(self) -> None:
        self._begun, self._expected = len(self._lives()), newest_whole(self.workdir)
        self._life = lives.begin(
            self._processes, self.run, folder=self.folder, workdir=self.workdir
        )

    def _lives(self) -> list[list[int]]:
        """The step at which each life so far began, and those of its log lines."""
        path, found = self.workdir / goodput.FILE, []
        for line in path.read_text().splitlines() if path.exists() else ():
            event = json.loads(line) if line.endswith("}") else {}
            if event.get("event") == "start":
                found.append([])
            if event.get("event") in ("start", "steps"):
                found[-1].append(event["step"])
        return found

    def _await_steps(self) -> None:
        """Return once the life has trained until its first log line.

        Raises:
          SoakError: it began elsewhere than at the newest whole checkpoint, or ended.
        """

        def is_under_way() -> bool:
            begun = self._lives()[self._begun :]
            return bool(begun) and len(begun[0]) > 1

        self._until(is_under_way, seconds=PATIENCE)
        if (start := self._lives()[-1][0]) != self._expected:
            raise SoakError(f"began at step {start}, not {self._expected}")

    def _until(self, is_so: Callable[[], bool], *, seconds: float) -> None:
        limit = time.monotonic() + seconds
        while not is_so():
            if not self._life.is_alive():
                self._fail(f"ended by itself, with status {self._life.exitcode}")
            if time.monotonic() > limit:
                self._fail(f"nothing happened for {seconds:.0f} s")
            time.sleep(0.02)

    def _sleep(self, seconds: float) -> None:
        """Wait, in which the life must not end."""
        limit = time.monotonic() + seconds
        self._until(lambda: time.monotonic() > limit, seconds=seconds + PATIENCE)

    def _fail(self, what: str) -> None:
        log = lives.log_of(self.workdir)
        words = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        raise SoakError(f"{what}\n{words}")

    def fault(self, kind: str) -> dict[str, Any]:
        """Let a fault of a kind befall the run at some moment, and launch it again.

        Returns:
          A line about it.

        Raises:
          SoakError: the run did what it must not.
        """
        if kind != "kill" or self.rng.random() > EARLY:
            self._await_steps()
        self._sleep(self.rng.uniform(0, self.every))
        getattr(self, f"_{kind}", self._damage)(kind)
        self.faults[kind] += 1
        line = {"fault": kind, "step": newest_whole(self.workdir)}
        if not self._life.is_alive():
            self._launch()
        return line

    def _kill(self, _: str = "kill") -> None:
        self._life.kill()
        self._life.join()

    def _term(self, _: str) -> None:
        self._life.terminate()
        self._end(ENDED)

    def _freeze(self, _: str) -> None:
        self._signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0, self.every / 4))
        self._signal(signal.SIGCONT)

    def _full(self, _: str) -> None:
        before, hard = resource.prlimit(self._life.pid, resource.RLIMIT_FSIZE)
        size = int(2 ** self.rng.uniform(0, 16))
        log = lives.log_of(self.workdir)
        # Only while it saves: a longer file of metrics would meet the limit first.
        resource.prlimit(self._life.pid, resource.RLIMIT_FSIZE, (size, hard))
        self._life.join(self.every)
        if self._life.is_alive():
            resource.prlimit(self._life.pid, resource.RLIMIT_FSIZE, (before, hard))
            self._sleep(0.1)
            self._kill()
        elif self._life.exitcode != REFUSED and log.stat().st_size < size:
            # Where the log has no room either, what ended it cannot be said.
            self._fail(f"a full disk ended it with status {self._life.exitcode}")

    def _damage(self, kind: str) -> None:
        """Kill it, and damage the newest checkpoint where an older one is whole."""
        self._kill()
        folder = self.workdir / "checkpoints"
        steps = saved_steps.SavedSteps(folder, keep=2).committed()
        whole = [step for step in steps if is_whole(folder / str(step))]
        if len(whole) > 1:
            path = self.rng.choice(digests.files(folder / str(whole[-1])))
            damage(path, kind, rng=self.rng)

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self._life.pid, number)

    def _end(self, statuses: Sequence[int]) -> None:
        self._life.join(PATIENCE)
        if self._life.exitcode not in statuses:
            self._fail(f"told to stop, it ended with status {self._life.exitcode}")

    def stop(self) -> int:
        """Tell the run to stop; the step that it saved."""
        self._await_steps()
        self._sleep(self.every)
        self._term("term")
        return newest_whole(self.workdir)

    def undisturbed(self, step: int) -> pathlib.Path:
        """Another run, without faults, that goes to a step; its work folder."""
        workdir = self.folder / "undisturbed"
        made = lives.begin(
            self._processes,
            self.run,
            folder=self.folder,
            workdir=workdir,
            stop_at=step,
        )
        made.join()
        if made.exitcode not in ENDED:
            raise SoakError(f"the undisturbed run ended with status {made.exitcode}")
        return workdir

    def close(self) -> None:
        """End what still lives."""
        if self._life.is_alive():
            self._kill()


def newest_whole(workdir: pathlib.Path) -> int:
    """The newest committed step of which nothing is damaged; 0 if there is none."""
    folder = workdir / "checkpoints"
    if not folder.exists():
        return 0
    steps = saved_steps.SavedSteps(folder, keep=2).committed()
    return max((s for s in steps if is_whole(folder / str(s))), default=0)


def is_whole(step: pathlib.Path) -> bool:
    try:
        digests.verify(step)
    except digests.CheckpointError:
        return False
    return True


def damage(path: pathlib.Path, kind: str, *, rng: random.Random) -> None:
    """Flip a bit of a file, cut it short, or remove it."""
    data = bytearray(path.read_bytes())
    if kind == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif kind == "cut":
        path.write_bytes(data[: rng.randrange(len(data))])
    else:
        path.unlink()


def saved(workdir: pathlib.Path, step: int) -> tuple[Any, Any]:
    """The state in a checkpoint, as numpy arrays by name, and the place in the data."""
    folder = workdir.absolute() / "checkpoints" / str(step)
    with ocp.PyTreeCheckpointer() as reader:
        tree: Any = reader.metadata(folder / "state").item_metadata
        numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree.tree
        )
        state = reader.restore(folder / "state", restore_args=numpy)
    named = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(state)}
    return named, json.loads((folder / "iterator" / "metadata").read_text())


def differences(ours: pathlib.Path, theirs: pathlib.Path, *, step: int) -> list[str]:
    """What differs in the checkpoints of a step of two runs."""
    (first, place), (second, other) = (saved(path, step) for path in (ours, theirs))
    names = [
        name
        for name in sorted(first.keys() | second.keys())
        if name not in first
        or name not in second
        or np.asarray(first[name]).tobytes() != np.asarray(second[name]).tobytes()
    ]
    return names + (["the place in the data"] if place != other else [])


def soak(
    folder: pathlib.Path,
    *,
    run: str,
    kinds: Iterator[str],
    every: float,
    rng: random.Random,
    say: Callable[[dict[str, Any]], Any] = lambda line: None,
) -> dict[str, Any]:
    """Faults of these kinds, one after the other; then the run without them.

    Returns:
      Faults by kind, the last step, and what differed.

    Raises:
      SoakError: the run did what it must not.
    """
    faulty = Soak(run, folder, every, rng)
    try:
        for kind in kinds:
            say(faulty.fault(kind))
        step = faulty.stop()
    finally:
        faulty.close()
    found = differences(faulty.workdir, faulty.undisturbed(step), step=step)
    ended = {"faults": dict(faulty.faults), "step": step, "differences": found}
    return ended | {"goodput": str(goodput.read(faulty.workdir))}


def for_minutes(minutes: float, rng: random.Random) -> Iterator[str]:
    """Kinds until the time is up: all of them in each round, in another order."""
    limit = time.monotonic() + 60 * minutes
    while True:
        for kind in rng.sample(KINDS, len(KINDS)):
            if time.monotonic() > limit:
                return
            yield kind


def _soak_command(options: argparse.Namespace) -> bool:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="soak-", dir=options.folder))
    rng = random.Random(options.seed)
    if prepare := lives.PREPARED.get(options.run):
        made = lives.context().Process(
            target=lives.live,
            args=(folder / "prepare.log", functools.partial(prepare, folder)),
        )
        made.start()
        made.join()
        if made.exitcode:
            raise SoakError((folder / "prepare.log").read_text()[-2000:])
    found = soak(
        folder,
        run=options.run,
        kinds=for_minutes(options.minutes, rng),
        # A fault comes between none and twice so many seconds after the last.
        every=2 * options.every,
        rng=rng,
        say=lambda line: print(json.dumps(line), flush=True),
    )
    print(json.dumps(found), flush=True)
    if not found["differences"]:
        shutil.rmtree(folder)
    return not found["differences"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m tests.reliability.soak", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=cli.positive_float, default=120.0, help="of faults")
    add("--every", type=cli.positive_float, default=60.0, help="seconds, on average")
    add("--seed", type=int, default=0)
    add("--run", choices=("toy", "video"), default="video")
    add("--folder", help="where its temporary folder is made; kept if it fails")
    options = parser.parse_args(argv)
    equal = True

    def run() -> None:
        nonlocal equal
        equal = _soak_command(options)

    return cli.run_command("soak", run, extra="train") or int(not equal)


if __name__ == "__main__":
    sys.exit(main())
