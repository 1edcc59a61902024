"""Options of the compiler for a train step, by kind of device.

By default most collectives of a sharded step are synchronous. Chips with SparseCores
(v5p, v6e, TPU7x) can offload gathers, sums and scatters to them, beside the matrix
products of the TensorCore. On v5e a gather moves step by step inside of the products
beside it (an async collective fusion). All-to-all can be asynchronous on all.
`experiments/benchmarks/pod_plans.py` measures the schedule of a step of 14 billion
parameters: with these options most of its bytes move asynchronously, without them most
are waited for.

On several GPUs the scheduler that hides latencies moves collectives beside kernels, and
gathers and sums of the layers before and after a layer are merged and pipelined.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

_ALL_CHIPS = {"xla_tpu_enable_async_all_to_all": True}
FUSED = {
    **_ALL_CHIPS,
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
    **_ALL_CHIPS,
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
_COMBINED_BYTES = 2**28  # a few kernels of a layer, of one to fourteen billion in all
GPUS = {
    "xla_gpu_enable_latency_hiding_scheduler": True,
    "xla_gpu_enable_pipelined_all_gather": True,
    "xla_gpu_enable_pipelined_all_reduce": True,
    "xla_gpu_enable_pipelined_reduce_scatter": True,
    "xla_gpu_all_gather_combine_threshold_bytes": _COMBINED_BYTES,
    "xla_gpu_all_reduce_combine_threshold_bytes": _COMBINED_BYTES,
    "xla_gpu_reduce_scatter_combine_threshold_bytes": _COMBINED_BYTES,
}
# The first name that occurs in `device_kind` counts.
OPTIONS: dict[str, dict[str, Any]] = {
    "TPU v5 lite": FUSED,
    "TPU v4": _ALL_CHIPS,
    "TPU": SPARSE_CORES,
}


def options(mesh: Mesh) -> dict[str, Any] | None:
    """Compiler options for the devices of a mesh; None for CPUs and a single GPU.

    For local devices, without options that their compiler does not know.
    """
    device = mesh.devices.flat[0]
    by_kind = (table for name, table in OPTIONS.items() if name in device.device_kind)
    table = next(by_kind, None)
    if device.platform == "gpu" and mesh.size > 1:
        table = GPUS
    if table is None or device.platform != jax.default_backend():
        return table
    return supported_options(table)


def supported_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the installed compiler knows; warns of the others.

    Names come and go with versions of the compiler, and one that it does not know would
    end the training run.
    """
    if _compiles(options):
        return dict(options)
    supported = {
        name: value for name, value in options.items() if _compiles({name: value})
    }
    unknown = ", ".join(sorted(options.keys() - supported))
    warnings.warn(f"this compiler does not know {unknown}", stacklevel=2)
    return supported


def _compiles(options: Mapping[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x + 1).lower(0.0).compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError:
        return False
    return True
