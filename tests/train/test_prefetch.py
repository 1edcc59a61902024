"""Prefetch: the batches as they were, on the mesh, resumed after the last consumed."""

from typing import Any

import numpy as np
import pytest

from soraflax import sharding
from soraflax.train import prefetch
from tests.train import toy


def _numbers(pairs: list[tuple[Any, Any]]) -> list[float]:
    return [float(batch["x"][0, 0]) for batch, _ in pairs]


def _take(iterator: Any, count: int) -> list[Any]:
    return [next(iterator) for _ in range(count)]


def test_pairs_hold_the_same_numbers_and_lie_on_the_mesh() -> None:
    where = toy.mesh(8)
    pairs = _take(prefetch.DevicePrefetch(toy.Data(), where), 3)
    assert _numbers(pairs) == [float(next(d)["x"][0, 0]) for d in _starts(3)]
    for host, on_device in pairs:
        assert isinstance(host["x"], np.ndarray)
        place = sharding.batch_sharding(where)
        assert on_device["x"].sharding.is_equivalent_to(place, 2)
        np.testing.assert_array_equal(host["x"], on_device["x"])


def _starts(count: int) -> list[toy.Data]:
    return [toy.Data(position=index) for index in range(count)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_state_is_that_of_the_last_batch_handed_out(size: int) -> None:
    data = toy.Data()
    ahead = prefetch.DevicePrefetch(data, toy.mesh(1), size=size)
    assert ahead.get_state() == {"position": 0}
    _take(ahead, 3)
    assert ahead.get_state() == {"position": 3}
    assert data.position == 3 + size - 1
    due = _numbers(_take(ahead, 3))
    again = prefetch.DevicePrefetch(toy.Data(), toy.mesh(1), size=size)
    again.set_state({"position": 3})
    assert again.get_state() == {"position": 3}
    assert _numbers(_take(again, 3)) == due
    ahead.set_state({"position": 3})
    assert _numbers(_take(ahead, 3)) == due


def test_a_state_that_the_data_changes_in_place_is_kept_as_it_was() -> None:
    class Live(toy.Data):
        def get_state(self) -> dict[str, int]:
            return self.__dict__

    ahead = prefetch.DevicePrefetch(Live(), toy.mesh(1))
    _take(ahead, 3)
    assert ahead.get_state()["position"] == 3


def test_it_ends_with_the_data() -> None:
    ahead = prefetch.DevicePrefetch(toy.Data(length=3), toy.mesh(1))
    assert len(_take(ahead, 3)) == 3
    with pytest.raises(StopIteration):
        next(ahead)


def test_a_batch_that_does_not_divide_names_both_numbers() -> None:
    with pytest.raises(ValueError, match="size 6 does not divide over 4 shards"):
        next(prefetch.DevicePrefetch(toy.Data(rows=6), toy.mesh(8)))


def test_processes_of_another_number_are_for_elastic_data_alone() -> None:
    class Elastic(toy.Data):
        def set_states(self, states: list[Any]) -> None:
            self.position = states[-1]["position"]

    ahead = prefetch.DevicePrefetch(Elastic(), toy.mesh(1))
    states = [{"position": 7}, {"position": 7}]
    ahead.set_states(states)
    assert ahead.get_state() == {"position": 7}
    ahead = prefetch.DevicePrefetch(toy.Data(), toy.mesh(1))
    with pytest.raises(ValueError, match="saved by 2 processes, read by 1"):
        ahead.set_states(states)
    ahead.set_states(states[:1])
    assert _numbers(_take(ahead, 1)) == [float(next(_starts(8)[7])["x"][0, 0])]
