"""A kernel is believed once it has agreed with the definition on the device at hand.

Kernels of accelerators are tested elsewhere than they run. Before one is chosen by
itself, it computes a packed row, forward and backward, beside the reference: segments
that begin and end inside a block, blocks to leave out, a segment without keys, padding.
"""

import concurrent.futures
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from soraflax.ops.attention import context_parallel, reference
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning

# Of a float32 reference's norm; bfloat16 is off by 0.005, a wrong mask by 0.1 and more.
TOLERANCE = 0.02
LENGTHS = (300, 700, 30, 250)


@functools.cache
def matches_reference(kernel: kernels.Kernel, *, head_size: int, dtype: str) -> bool:
    """Whether `kernel` computes here what the reference does, gradients included.

    Once per process, kernel, size and dtype; outside of whatever is being traced. Says
    so by a warning where it does not, or does not even compile. What is compiled for
    devices that are not here cannot be tried, and is believed.
    """
    if context_parallel.platform() != jax.default_backend():
        return True
    # A thread of its own: whatever is being traced here does not reach there.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        future = thread.submit(_error, kernel, head_size, jnp.dtype(dtype))
    if future.exception() is None:
        error = future.result()
        if error <= TOLERANCE:
            return True
        fault = f"is off by {error:.2g} of the reference"
    else:
        fault = "fails (" + " ".join(str(future.exception()).split())[:200] + ")"
    warnings.warn(
        f"an attention kernel for heads of {head_size} in {dtype} {fault} on this "
        f"{context_parallel.platform()}: it is not used",
        stacklevel=2,
    )
    return False


def _error(kernel: kernels.Kernel, head_size: int, dtype: jnp.dtype) -> float:
    """The largest relative error of the output and the three gradients."""
    ids = np.repeat(np.array([1, 2, 3, 0], np.int32), LENGTHS)[None]
    plan = planning.make_plan(ids, np.where(ids == 3, 0, ids), block=128)
    shape = (1, len(ids[0]), 2, head_size)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4)]

    @functools.partial(jax.jit, static_argnames="kernel")
    def results(arrays: list[jax.Array], kernel: kernels.Kernel) -> list[jax.Array]:
        q, k, v, d_out = arrays
        scale = head_size**-0.5
        out, lse = kernel.forward(q, k, v, plan, scale)
        return [out, *kernel.backward(q, k, v, plan, scale, out, lse, d_out)]

    found = results(arrays, kernel)
    exact = [x.astype(jnp.float32) for x in arrays]
    expected = results(exact, reference.KERNEL)
    errors = [
        jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)
        for a, b in zip(found, expected, strict=True)
    ]
    return max(map(float, errors))
