"""What is read of a configuration, and what is refused."""

import dataclasses

import pytest

from experiments.configs import wan2_1_t2v_14b
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.planning import chips, step_plan
from soraflax.planning import workload as workload_lib
from tests.planning import fakes


@pytest.fixture
def tiny() -> workload_lib.Workload:
    return workload_lib.from_config(wan2_1_t2v_14b.get_config("tiny"))


def test_attention_that_no_tpu_runs_is_refused(tiny: workload_lib.Workload):
    model = dataclasses.replace(tiny.model, attention="triton")
    with pytest.raises(ValueError, match="'triton': no TPU runs it; use 'auto'"):
        workload_lib.with_tpu_attention(dataclasses.replace(tiny, model=model))


@pytest.mark.parametrize("attention", ["reference", "blocks", "splash"])
def test_attention_that_is_asked_for_stays(tiny: workload_lib.Workload, attention: str):
    model = dataclasses.replace(tiny.model, attention=attention)
    asked = dataclasses.replace(tiny, model=model)
    assert workload_lib.with_tpu_attention(asked) == asked


@pytest.mark.parametrize(
    ("group", "name"), [("data", "rows"), ("cache.fit", "max_tokens")]
)
def test_counts_that_are_missing_or_none_at_all(group: str, name: str):
    def values(value: int | str | None) -> dict:
        tree = config_lib.to_dict(wan2_1_t2v_14b.get_config("tiny"))
        inner = tree
        for part in group.split("."):
            inner = inner[part]
        del inner[name]
        return tree if value is None else inner.update({name: value}) or tree

    key = f"config.{group}.{name}"
    with pytest.raises(config_lib.ConfigError, match=f"{key}: missing"):
        workload_lib.from_config(values(None))
    for wrong in (0, "two"):
        with pytest.raises(config_lib.ConfigError, match=f"{key} {wrong!r}: use an"):
            workload_lib.from_config(values(wrong))


def test_slices_get_a_replica_each_where_the_config_has_one(
    tiny: workload_lib.Workload,
):
    two = chips.parse("v5e:2x2", slices=2)
    spread = step_plan.replicate_over_slices(tiny, two)
    assert spread.mesh == sharding.MeshConfig(data=2, fsdp=-1)
    assert (
        step_plan.replicate_over_slices(tiny, dataclasses.replace(two, slices=1))
        is tiny
    )
    four = dataclasses.replace(tiny, mesh=sharding.MeshConfig(data=4))
    assert step_plan.replicate_over_slices(four, two) is four
    devices = fakes.devices(two)
    alone = dataclasses.replace(tiny, mesh=sharding.MeshConfig(data=2, fsdp=4))
    rows = [
        step_plan.with_global_rows(s, devices, rows=None).rows for s in (spread, alone)
    ]
    assert rows == [2 * tiny.rows] * 2  # two hosts, each with the config's rows
