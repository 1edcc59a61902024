"""Who maps a step over files or shards: processes here, or an Apache Beam runner.

Steps are functions from a JSON value to a JSON value; what is large goes through the
store. So every runner gives the same rows in the same order.
"""

import contextlib
import dataclasses
import importlib
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from data_pipelines import records, storage

Row = Mapping[str, Any]
Step = Callable[[Any], Row]


@runtime_checkable
class Runner(Protocol):
    """Maps a step."""

    def map(self, name: str, step: Step, *, items: Iterable[Any]) -> Iterator[Row]:
        """What the step makes of each item, in their order.

        Args:
          name: of the step.
          step: can be sent to another process.
          items: JSON values.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Attributes:
      workers: their number; 1 works in this one.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers {self.workers}: use 1 or more")

    def map(self, name: str, step: Step, *, items: Iterable[Any]) -> Iterator[Row]:
        del name
        if self.workers == 1:
            yield from map(step, items)
            return
        with multiprocessing.get_context("spawn").Pool(self.workers) as pool:
            yield from pool.imap(step, items)


@dataclasses.dataclass(frozen=True)
class Beam:
    """An Apache Beam pipeline for every step (the extra `beam`).

    Attributes:
      options: of the pipeline, as `--runner DataflowRunner --project NAME ...`.
      folder: that all workers can write to, for the rows; None for a local one.
    """

    options: Sequence[str]
    folder: str | None = None

    def map(self, name: str, step: Step, *, items: Iterable[Any]) -> Iterator[Row]:
        beam = _beam()
        numbered = list(enumerate(items))

        with contextlib.ExitStack() as stack:
            folder = self.folder or stack.enter_context(
                tempfile.TemporaryDirectory(prefix="soraflax-beam-")
            )
            prefix = storage.join(folder, "beam", storage.key(name, numbered), "rows")
            options = beam.options.pipeline_options.PipelineOptions(list(self.options))
            with beam.Pipeline(options=options) as pipeline:
                rows = pipeline | f"{name}: items" >> beam.Create(numbered)
                rows = rows | f"{name}: spread" >> beam.Reshuffle()
                rows = rows | name >> beam.Map(_Numbered(step))
                _ = rows | f"{name}: rows" >> beam.io.WriteToText(prefix)
            made = dict(_read_rows(prefix))
        if len(made) != len(numbered):
            raise records.DatasetError(
                f"{name}: {len(numbered)} items went in, {len(made)} rows came out; "
                "run it again"
            )
        yield from (made[number] for number, _ in numbered)


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """A step as Beam sends it to workers, by the name of its class."""

    step: Step

    def __call__(self, pair: tuple[int, Any]) -> str:
        number, item = pair
        return json.dumps([number, self.step(item)])


def _read_rows(prefix: str) -> Iterator[tuple[int, Row]]:
    for _, path in storage.find(f"{prefix}-*"):
        for line in (storage.read_bytes(path) or b"").decode().splitlines():
            number, row = json.loads(line)
            yield number, row


def _beam() -> Any:
    """Apache Beam, which is imported only where it is used.

    Raises:
      ImportError: it is not installed; the message says what to install.
    """
    try:
        beam = importlib.import_module("apache_beam")
        importlib.import_module("apache_beam.options.pipeline_options")
    except ImportError as error:
        raise ImportError(
            "Apache Beam is not installed: pip install 'soraflax[beam]', or leave "
            "--runner out"
        ) from error
    return beam
