"""Presets of Wan's transformers on the slices that they are named after."""

import dataclasses
from types import ModuleType

import pytest

from experiments.configs import wan2_1_t2v_1_3b, wan2_1_t2v_14b, wan2_2_ti2v_5b
from soraflax.planning import chips, step_plan
from soraflax.planning import workload as workload_lib
from soraflax.train import mesh_checks
from tests.planning import fakes

# By preset: a slice, and how many.
SLICES = {
    "v5e-16": ("v5e:4x4", 1),
    "v5p-8": ("v5p:2x2x2", 1),
    "v5p-64": ("v5p:4x4x4", 1),
    "v5p-512": ("v5p:8x8x8", 1),
    "v6e-16": ("v6e:4x4", 1),
    "v6e-64": ("v6e:8x8", 1),
    "v6e-256": ("v6e:16x16", 1),
    "v6e-512": ("v6e:16x16", 2),
    "tpu7x-64": ("tpu7x:4x4x4", 1),
    "million": ("v5p:8x8x8", 1),
}

KINDS = {"tpu7x": "TPU7x"}  # where a chip is two devices, JAX has to know it


def prepared(config: ModuleType, preset: str) -> tuple[workload_lib.Workload, list]:
    """What a preset trains, rows of all hosts together, and devices for it."""
    name, slices = SLICES[preset]
    topology = chips.parse(name, slices=slices)
    if preset != "million":
        assert topology.chips == int(preset.rpartition("-")[2])
    devices = on_hosts(topology)
    workload = workload_lib.from_config(config.get_config(preset))
    return step_plan.with_global_rows(workload, devices, rows=None), devices


def on_hosts(topology: chips.Topology) -> list[fakes.Device]:
    """Devices of a topology whose hosts have 2 x 2 chips."""
    hosts: dict[tuple[int, ...], int] = {}
    found = []
    for device in fakes.devices(topology):
        x, y, z = device.coords
        host = hosts.setdefault((device.slice_index, x // 2, y // 2, z), len(hosts))
        kind = KINDS.get(topology.chip.name, device.device_kind)
        found.append(dataclasses.replace(device, process_index=host, device_kind=kind))
    return found


def check(workload: workload_lib.Workload, devices: list) -> None:
    mesh_checks.check(
        workload.model,
        workload.row,
        rows=workload.rows,
        mesh=workload.mesh.make(devices),
        accumulate=workload.train.accumulate,
    )


@pytest.mark.parametrize(
    ("config", "preset"),
    [
        pytest.param(config, preset, id=f"{config.__name__}:{preset}")
        for config in (wan2_1_t2v_1_3b, wan2_1_t2v_14b, wan2_2_ti2v_5b)
        for preset in config.PRESETS
    ],
)
def test_every_preset_divides_its_slice(config: ModuleType, preset: str):
    workload, devices = prepared(config, preset)
    assert workload.mesh.make(devices).shape["data"] == SLICES[preset][1]
    check(workload, devices)


def test_a_row_for_each_host_is_too_few():
    workload, devices = prepared(wan2_1_t2v_1_3b, "v5e-16")
    with pytest.raises(ValueError, match="4 rows do not divide over data x fsdp = 16"):
        check(dataclasses.replace(workload, rows=4), devices)
