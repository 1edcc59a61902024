"""Which options a step is compiled with."""

import dataclasses

import numpy as np
import pytest

from soraflax import sharding
from soraflax.train import compiler
from tests.planning import fakes


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("TPU v5 lite", compiler.FUSED),
        ("TPU v5", compiler.SPARSE_CORES),
        ("TPU v6 lite", compiler.SPARSE_CORES),
        ("TPU7x", compiler.SPARSE_CORES),
    ],
)
def test_options_follow_the_kind_of_device(kind: str, expected: dict | None):
    mesh = fakes.mesh(fsdp=2)
    mesh.devices[0, 0, 0, 0] = dataclasses.replace(
        mesh.devices[0, 0, 0, 0], device_kind=kind
    )
    assert compiler.options(mesh) == expected


@pytest.mark.parametrize(("count", "expected"), [(2, compiler.GPUS), (1, None)])
def test_several_gpus_hide_their_collectives(count: int, expected: dict | None):
    mesh = fakes.mesh(fsdp=count)
    for place, device in np.ndenumerate(mesh.devices):
        mesh.devices[place] = dataclasses.replace(
            device, device_kind="NVIDIA H100", platform="gpu"
        )
    assert compiler.options(mesh) == expected


def test_none_on_the_devices_at_hand():
    assert compiler.options(sharding.make_mesh()) is None


def test_options_that_a_compiler_does_not_know_are_left_out():
    good = {"xla_backend_optimization_level": 0}
    assert compiler.supported_options(good) == good
    with pytest.warns(UserWarning, match="does not know xla_no_such_option$"):
        assert compiler.supported_options(good | {"xla_no_such_option": True}) == good
