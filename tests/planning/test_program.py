"""What becomes of the compiler's complaints, and the shapes a step is compiled from."""

import dataclasses

import jax
import numpy as np
import pytest

from soraflax import sharding
from soraflax.nn import dit
from soraflax.ops import packing
from soraflax.planning import chip_memory, chips, program
from soraflax.planning import workload as workload_lib
from soraflax.train import denoising, loop, optimizer


def test_what_does_not_fit_says_how_much_it_takes():
    said = (
        "JaxRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. "
        "Used 107.25G of 95.74G hbm. Exceeded hbm capacity by 11.51G.\n\nMore."
    )
    error = program._compiler_error(said)
    assert isinstance(error, program.OutOfMemoryError)
    assert error.needed == int(107.25 * chips.GIB)
    assert str(error) == "the step needs 107.2 GiB of a device; the compiler has 95.7"


def test_other_complaints_stay_one_line():
    error = program._compiler_error("JaxRuntimeError: INTERNAL: a\nb\nc")
    assert not isinstance(error, program.OutOfMemoryError)
    assert str(error).endswith("INTERNAL: a b c")


@pytest.mark.parametrize("text", [True, False])
def test_a_device_holds_its_shards(text: bool):
    model = dit.VARIANTS["tiny"]
    if not text:
        model = dataclasses.replace(model, text=None)
    mesh_config = sharding.MeshConfig(data=1, fsdp=4, tensor=2)
    workload = workload_lib.Workload(
        model=model,
        loss=denoising.DenoisingConfig(),
        optimizer=optimizer.OptimizerConfig(),
        train=loop.TrainConfig(steps=2),
        row=packing.RowShape(128, 64, 4),
        rows=8,
        clip=32,
        mesh=mesh_config,
    )
    mesh = mesh_config.make()
    shapes = program.abstract_state(workload, mesh)
    held = chip_memory.shard_bytes(shapes.params)
    whole = sum(x.size * 4 for x in jax.tree.leaves(shapes.params))
    assert whole / 8 <= held < whole / 2
    assert chip_memory.shard_bytes(shapes.ema) == held
    # Two moments a parameter and a few counters.
    assert 2 * held <= chip_memory.shard_bytes(shapes.opt_state) <= 2 * held + 64
    rows = workload_lib.abstract_batch(workload, mesh)
    assert rows.tokens.shape == (8, 128, model.patch_size)
    assert rows.text.shape == ((8, 64) if text else (8, 64, model.text_width))
    assert chip_memory.shard_bytes(rows.tokens) * 4 == np.prod(rows.tokens.shape) * 4


def test_the_step_is_traced_from_shapes_alone():
    workload = workload_lib.Workload(
        model=dit.VARIANTS["tiny"],
        loss=denoising.DenoisingConfig(),
        optimizer=optimizer.OptimizerConfig(),
        train=loop.TrainConfig(steps=2, accumulate=2),
        row=packing.RowShape(64, 32, 2),
        rows=8,
        clip=32,
        mesh=sharding.MeshConfig(fsdp=4, tensor=2),
    )
    lowered = program.lower_step(workload, workload.mesh.make())
    state, metrics = lowered.out_info
    assert metrics["loss"].shape == ()
    assert state.step.dtype == np.int32
