"""A worker process of the input that hangs, or is lost: the run ends, and resumes."""

import pathlib

import numpy as np
import pytest

from soraflax.train import watchdog
from tests.reliability import lives, soak
from tests.train import toy


@pytest.mark.parametrize("fault", ["hung", "lost"])
def test_the_run_ends_and_the_next_launch_resumes(
    tmp_path: pathlib.Path, fault: str
) -> None:
    workdir = tmp_path / "run"
    processes = lives.context()
    first = lives.begin(processes, fault, folder=tmp_path, workdir=workdir)
    first.join(300)
    said = lives.log_of(workdir).read_text()
    assert first.exitcode not in (None, 0), said
    assert (tmp_path / fault).exists()
    if fault == "hung":
        assert first.exitcode == watchdog.STALLED, said
        assert "has been in input of step" in said
        assert "Current thread" in (workdir / "stacks" / "0.txt").read_text()
    again = lives.begin(processes, fault, folder=tmp_path, workdir=workdir)
    again.join(300)
    assert again.exitcode == 0, lives.log_of(workdir).read_text()
    _same_as_toy(workdir, tmp_path / "whole")


def _same_as_toy(workdir: pathlib.Path, whole: pathlib.Path) -> None:
    """The worker's batches are the toy's own: so is what is learned from them."""
    toy.fit(toy.job(toy.mesh(1)), whole, steps=12)
    (ours, _), (theirs, _) = (soak.saved(path, 12) for path in (workdir, whole))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)
