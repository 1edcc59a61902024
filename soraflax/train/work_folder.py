"""The folder of a run, on a disk or in a bucket.

What grows line by line cannot lie in a bucket. It is written into a folder of this
machine, `local`, and copied into the bucket: by a thread now and then, and before each
checkpoint, so that a resumed run finds the record of all steps up to its own. All else
goes to `shared` at once. On a disk the two are one.

    fetched at the start    metrics.jsonl, rates.jsonl, goodput.jsonl
    copied while it runs    the same, tensorboard/, profile/
"""

import contextlib
import os
import pathlib
import sys
import tempfile
import threading
from typing import Any

import jax

from soraflax import buckets
from soraflax.train import goodput, metrics

GROWING = (metrics.FILE, metrics.RATES, goodput.FILE)
EVERY = 10.0  # seconds between two copies, at least: a bucket limits them


class WorkFolder:
    """See the module; a context manager.

    Attributes:
      shared: the folder, which all processes see.
      local: where this process writes what grows.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: float = EVERY) -> None:
        """Nothing is made yet.

        Args:
          folder: the folder.
          every: seconds between two copies by the thread.
        """
        self.shared = buckets.folder(folder)
        self.local = pathlib.Path()
        self._every = every
        self._stack = contextlib.ExitStack()
        self._copied: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="bucket")

    def __enter__(self) -> "WorkFolder":
        if not buckets.is_bucket(self.shared):
            self.local = pathlib.Path(self.shared)
            self.local.mkdir(parents=True, exist_ok=True)
            return self
        scratch = tempfile.TemporaryDirectory(prefix="soraflax-run-")
        self.local = pathlib.Path(self._stack.enter_context(scratch))
        if jax.process_index() == 0:
            for name in GROWING:
                with contextlib.suppress(FileNotFoundError):
                    (self.local / name).write_bytes((self.shared / name).read_bytes())
            self._copied = dict(self._facts())
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._stack:
            if self._thread.is_alive():
                self._done.set()
                self._thread.join()
                self.copy()

    def copy(self) -> None:
        """Copy what changed since the last time into the bucket."""
        if not self._thread.is_alive() and not self._done.is_set():
            return  # on a disk
        with self._lock:
            changed = {
                n: f for n, f in self._facts().items() if self._copied.get(n) != f
            }
            for name, facts in changed.items():
                buckets.upload(self.local / name, self.shared / name)
                self._copied[name] = facts

    def _facts(self) -> dict[str, tuple[int, int]]:
        """Time and size of every file, by name."""
        found = {}
        for path in sorted(self.local.rglob("*")):
            if path.is_file():
                facts = path.stat()
                name = path.relative_to(self.local).as_posix()
                found[name] = facts.st_mtime_ns, facts.st_size
        return found

    def _run(self) -> None:
        while not self._done.wait(self._every):
            try:
                self.copy()
            except Exception as error:  # a bucket that fails for a while ends no run
                print(f"{self.shared}: {error}", file=sys.stderr, flush=True)
