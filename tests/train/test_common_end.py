"""Data that ends apart in processes, and the run at one step."""

import itertools
import pathlib

import pytest

from soraflax.train import checkpoint, common_end
from tests.experiments import processes
from tests.train import toy


def test_two_processes_end_at_one_step_and_every_clip_is_read(
    tmp_path: pathlib.Path,
) -> None:
    first, second = processes.run("ending", tmp_path)
    for found in (first, second):
        assert found["steps"] == [3, 4, 4]
        (said,) = found["said"]
        assert "the data ended after 4 of 99 steps, which are saved" in said
    batches = [len(list(filter(None, found["clips"]))) for found in (first, second)]
    assert batches == [4, 2]  # the others are blank
    read = itertools.chain(*first["clips"], *second["clips"])
    assert sorted(read) == list(range(processes.UNEVEN))


def test_one_process_ends_with_its_data() -> None:
    data = common_end.CommonEnd(toy.Data(length=2), lambda: pytest.fail("blank"))
    assert isinstance(data, checkpoint.ElasticIterator)
    assert len(list(data)) == 2
    data.set_states([{"position": 1}])
    assert data.get_state() == {"position": 1}
    assert len(list(data)) == 1
