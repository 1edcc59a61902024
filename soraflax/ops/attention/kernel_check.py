"""A kernel is chosen automatically only if it matches the reference on this device.

Kernels for accelerators are tested on other machines than they run on. Before one is
chosen, it computes a packed row, forward and backward, beside the reference: segments
that begin and end inside a block, blocks to skip, a segment without keys, padding.
"""

import concurrent.futures
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from soraflax import sharding
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning
from soraflax.ops.attention import reference

# Relative to the norm of a float32 reference; bfloat16 is off by 0.005, a wrong mask by
# 0.1 and more.
TOLERANCE = 0.02
SEGMENT_LENGTHS = (300, 700, 30, 250)


@functools.cache
def matches_reference(kernel: kernels.Kernel, *, head_size: int, dtype: str) -> bool:
    """Whether `kernel` matches the reference on this device, gradients included.

    Computed once per process, kernel, size and dtype, outside of whatever is being
    traced. Warns where the kernel differs or does not compile. A kernel compiled for
    devices that are not attached cannot be run, and counts as matching.
    """
    if sharding.platform() != jax.default_backend():
        return True
    # Tracing is local to a thread: in another one the check runs on real arrays.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        future = thread.submit(relative_error, kernel, head_size, jnp.dtype(dtype))
    if future.exception() is None:
        error = future.result()
        if error <= TOLERANCE:
            return True
        fault = f"is off by {error:.2g} of the reference"
    else:
        fault = "fails (" + " ".join(str(future.exception()).split())[:200] + ")"
    warnings.warn(
        f"an attention kernel for heads of {head_size} in {dtype} {fault} on this "
        f"{sharding.platform()}: it is not used",
        stacklevel=2,
    )
    return False


def relative_error(kernel: kernels.Kernel, head_size: int, dtype: jnp.dtype) -> float:
    """The largest relative error of the output and the three gradients."""
    ids = np.repeat(np.array([1, 2, 3, 0], np.int32), SEGMENT_LENGTHS)[None]
    plan = planning.make_plan(ids, np.where(ids == 3, 0, ids), block=128)
    shape = (1, len(ids[0]), 2, head_size)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4)]

    @functools.partial(jax.jit, static_argnames="kernel")
    def results(arrays: list[jax.Array], kernel: kernels.Kernel) -> list[jax.Array]:
        q, k, v, d_out = arrays
        scale = head_size**-0.5
        out, lse = kernel.forward(q, k, v, plan=plan, scale=scale)
        residuals = kernels.Residuals(q, k, v, plan, scale, out, lse)
        return [out, *kernel.backward(residuals, d_out)]

    actual = results(arrays, kernel)
    exact = [x.astype(jnp.float32) for x in arrays]
    expected = results(exact, reference.KERNEL)
    errors = [
        jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)
        for a, b in zip(actual, expected, strict=True)
    ]
    return max(map(float, errors))
