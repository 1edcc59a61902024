"""Options of the TPU compiler that a train step is compiled with, by kind of device.

Left alone, the compiler waits for most collectives of a sharded step. Chips with
SparseCores (v5p, v6e, TPU7x) can hand gathers, sums and scatters to those, beside the
products of the TensorCore. On v5e a gather moves step by step inside of the products
beside it (an async collective fusion). All-to-all can run beside other work anywhere.
`experiments/benchmarks/pod_plans.py` shows what the compiler made of a step of 14
billion parameters: with these options most of its bytes move asynchronously, without
them most are waited for.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

_ANYWHERE = {"xla_tpu_enable_async_all_to_all": True}
FUSED = {
    **_ANYWHERE,
    "xla_enable_async_all_gather": True,
    "xla_enable_async_all_reduce": True,
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
    "xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
}
SPARSE_CORES = {
    **_ANYWHERE,
    # Products are not cut into a piece per shard: each piece would read its sums again.
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000,
    "xla_sc_disable_megacore_partitioning": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": False,
    "xla_tpu_enable_all_gather_offload_tracing": True,
    "xla_tpu_enable_all_reduce_offload_tracing": True,
    "xla_tpu_enable_reduce_scatter_offload_tracing": True,
    "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_all_reduce": True,
    "xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter": True,
    "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": True,
    "xla_tpu_use_tc_device_shape_on_sc": True,
}
# The first name that occurs in `device_kind` counts.
OPTIONS: dict[str, dict[str, Any]] = {
    "TPU v5 lite": FUSED,
    "TPU v4": _ANYWHERE,
    "TPU": SPARSE_CORES,
}


def options(mesh: Mesh) -> dict[str, Any] | None:
    """For the devices of a mesh; None where they are no TPUs.

    Where the devices are at hand, without those that their compiler does not know.
    """
    device = mesh.devices.flat[0]
    found = (found for name, found in OPTIONS.items() if name in device.device_kind)
    chosen = next(found, None)
    if chosen is None or device.platform != jax.default_backend():
        return chosen
    return known(chosen)


def known(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that the compiler at hand takes; warns of the others.

    Names come and go with versions of the compiler, and one that it does not know would
    end the training run.
    """
    if _takes(options):
        return dict(options)
    chosen = {name: value for name, value in options.items() if _takes({name: value})}
    lost = ", ".join(sorted(options.keys() - chosen))
    warnings.warn(f"this compiler does not know {lost}", stacklevel=2)
    return chosen


def _takes(options: Mapping[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x + 1).lower(0.0).compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError:
        return False
    return True
