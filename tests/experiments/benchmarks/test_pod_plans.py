"""What the planning benchmark predicts without a compiler."""

import dataclasses
import itertools
import math
import pathlib

import pytest

from experiments.benchmarks import pod_plans
from experiments.configs import wan2_2_ti2v_5b
from soraflax.planning import chips, program
from soraflax.planning import workload as workload_lib


def test_pods_are_presets_on_topologies_that_exist():
    for pod in pod_plans.PODS:
        topology = chips.parse(pod.topology, slices=pod.slices)
        workload = workload_lib.from_config(pod.config.get_config(pod.preset))
        assert 27_280 <= workload.clip <= workload.row.tokens
        mesh = workload.mesh
        sizes = (mesh.data, mesh.fsdp, mesh.context, mesh.tensor)
        assert topology.devices % math.prod(n for n in sizes if n > 0) == 0
        assert mesh.data == pod.slices


def test_every_config_of_wan_is_planned_under_names_of_its_own():
    # wan_finetune has the form of the model that it tunes.
    shipped = pathlib.Path(wan2_2_ti2v_5b.__file__).parent.glob("wan[0-9]*.py")
    planned = {pathlib.Path(pod.config.__file__ or "") for pod in pod_plans.PODS}
    assert planned == set(shipped)
    assert len({pod.name for pod in pod_plans.PODS}) == len(pod_plans.PODS)


def test_a_pod_without_room_is_a_line(monkeypatch: pytest.MonkeyPatch):
    def full(*unused: object, slices: int, quick: bool) -> None:
        raise program.OutOfMemoryError("the step needs 99.0 GiB of a device")

    monkeypatch.setattr(pod_plans, "plan", full)
    said = {"preset": "1.3b-v6e-16", "error": "the step needs 99.0 GiB of a device"}
    assert pod_plans.line(pod_plans.PODS[0], quick=True) == said


def test_weak_scaling_keeps_its_step_and_multiplies_its_tokens():
    values = wan2_2_ti2v_5b.get_config(pod_plans.WEAK[0])
    workload = dataclasses.replace(workload_lib.from_config(values), rows=16)
    known = {"needed": 20 * chips.GIB, "time": {"products": 3.0}}
    known["mesh"] = {"data": 1, "fsdp": 16, "context": 4, "tensor": 1}
    lines = pod_plans.weak_scaling(workload_lib.with_tpu_attention(workload), known)
    assert [line["chips"] for line in lines] == list(pod_plans.CHIPS)
    products = {line["products_seconds"] for line in lines}
    assert products == {3.0}
    for before, after in itertools.pairwise(lines):
        assert after["step_seconds"] >= before["step_seconds"]
        assert after["tokens_per_second"] <= 2 * before["tokens_per_second"] + 1
    assert lines[-1]["memory_gib"] < lines[0]["memory_gib"]
