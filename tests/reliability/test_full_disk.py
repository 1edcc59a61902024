"""A disk that is full in the middle of a save: one line, and the steps before stay."""

import contextlib
import gc
import pathlib
import resource
from collections.abc import Iterator
from typing import Any

import chex
import jax
import pytest

from soraflax.train import checkpoint, digests
from tests.reliability import test_checkpoint_faults
from tests.train import toy

# Of threads of orbax and tensorstore that find their event loop closed.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a broken save left is collected here, not in the next file's tests."""
    yield
    gc.collect()


@contextlib.contextmanager
def _full_after(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, which Python tells as an OSError."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def _sizes(step: pathlib.Path) -> list[int]:
    """Limits at which a save breaks off: in the middle of a file of each size."""
    sizes = sorted({path.stat().st_size for path in digests.files(step)})
    return sorted({0, *(size // 2 for size in sizes), sizes[-1] - 1})[::2]


def test_the_step_before_stays_wherever_it_breaks_off(tmp_path: pathlib.Path) -> None:
    run = test_checkpoint_faults.Run(tmp_path)
    run.save(10)
    limits = _sizes(tmp_path / "10")
    assert len(limits) > 5
    before = {path: path.read_bytes() for path in digests.files(tmp_path / "10")}
    for limit in limits:
        broken = test_checkpoint_faults.Run(tmp_path)
        assert broken.resume() == 10
        with _full_after(limit):
            with pytest.raises(checkpoint.CheckpointError, match="/20: cannot be wr"):
                broken.save(20)
            with contextlib.suppress(checkpoint.CheckpointError):
                broken.keeper.close()
        assert test_checkpoint_faults.Run(tmp_path).keeper.saved.steps() == [10]
    assert {path: path.read_bytes() for path in before} == before
    again = test_checkpoint_faults.Run(tmp_path)
    assert again.resume() == 10
    again.save(20)
    assert test_checkpoint_faults.Run(tmp_path).resume() == 20


def test_the_run_ends_with_one_line_and_goes_on_once_there_is_room(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.Checkpointer.save

    def full(self: Any, step: int, *rest: Any, **keywords: Any) -> None:
        with _full_after(1000 if step == 4 else resource.RLIM_INFINITY):
            save(self, step, *rest, **keywords)
            self.wait()

    course = {"steps": 6, "checkpoint_every": 2}
    whole = toy.fit(toy.job(toy.mesh(1)), tmp_path / "whole", **course)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpointer, "save", full)
        with pytest.raises(checkpoint.CheckpointError) as caught:
            toy.fit(toy.job(toy.mesh(1)), tmp_path / "run", **course)
    assert "\n" not in str(caught.value)
    assert "4: cannot be written" in str(caught.value)
    assert "tensorstore_spec" not in str(caught.value)
    resumed = toy.fit(toy.job(toy.mesh(1)), tmp_path / "run", **course)
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(resumed))
    names = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert names == {"4", "6"}  # nothing is left of the draft
