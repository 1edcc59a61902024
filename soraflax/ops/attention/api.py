"""The one entry of attention.

A token attends to the keys of its own segment, in a causal plan to those that are not
after it. Padding attends to nothing, its output is 0, and no value in it (NaN included)
reaches any other token.
"""

import re

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from soraflax import sharding
from soraflax.ops.attention import (
    block_sparse,
    context_parallel,
    kernel_check,
    reference,
    relative,
    rounded,
    splash,
    triton,
)
from soraflax.ops.attention import plan as planning

KERNELS = {
    "reference": reference.KERNEL,
    "blocks": block_sparse.KERNEL,
    "splash": splash.KERNEL,
    "triton": triton.KERNEL,
}
SCOPE = "attention_"  # names an implementation in programs and profiles
BIASED = ("reference", "blocks")  # that take a bias
# Least pairs of blocks for which 'blocks' is chosen, elsewhere than on a CPU, where
# there is a bias: there a dense product is fast, and memory is what counts.
MANY_PAIRS = 256
# Kernels for one platform; on others they are interpreted, for tests.
PLATFORM_KERNELS = {"tpu": ("splash", splash), "gpu": ("triton", triton)}


def attention(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    *,
    plan: planning.AttentionPlan,
    implementation: str | None = None,
    scale: float | None = None,
    bias: Float[Array, "H R"] | None = None,
    round_products: bool = False,
) -> Float[Array, "B N H K"]:
    """softmax(scale q k^T + bias) v inside each segment, in the dtype of `q`.

    In a program, and in a profile of it, it is the scope `attention_IMPLEMENTATION`.

    Args:
      q: queries.
      k: keys.
      v: values.
      plan: from `make_plan`, once per step, for these rows.
      implementation: 'reference' computes every pair of tokens; 'blocks' only the
        pairs of blocks that touch, on any platform; 'splash' and 'triton' likewise, by
        kernels for TPU and GPU (interpreted, slowly, on other platforms). None
        chooses by platform and sizes.
      scale: 1 / sqrt(K) by default.
      bias: added to the scaled scores, by relative position: R = N + M - 1 numbers of
        each head, `bias[h, j - i + N - 1]` for query i and key j; 'reference', and
        'blocks' for rows to themselves.
      round_products: whether 'reference', where rows are whole on a device, multiplies
        inputs rounded to bfloat16, and with float32 results; for CPUs.

    Raises:
      ValueError: unknown implementation, or one without support for these sizes or for
        a bias; a plan for other lengths or another mesh; rows or heads that the mesh
        does not divide.
    """
    _check_plan(q, k, plan=plan)
    if implementation is None:
        implementation = _choose(q, plan, bias=bias)
    _check(implementation, q, plan=plan, bias=bias)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    q = _zero_padding(q, plan.query_segments)
    k = _zero_padding(k, plan.key_segments)
    v = _zero_padding(v, plan.key_segments)
    if bias is not None and implementation == "blocks":
        with jax.named_scope(SCOPE + implementation):
            return relative.attend(q, k, v, bias=bias, plan=plan, scale=factor)
    if implementation == "reference" and (bias is not None or plan.shards == (1, 1)):
        written_out = rounded if round_products else reference
        with jax.named_scope(SCOPE + implementation):
            out = written_out.attention(q, k, v, plan=plan, scale=factor, bias=bias)
        return checkpoint_name(out, "attention_output")
    kernel = KERNELS[implementation]
    with jax.named_scope(SCOPE + implementation):
        return context_parallel.sharded_attention(
            q, k, v, plan=plan, kernel=kernel, scale=factor
        )


def implementations_in(program: jax.stages.Lowered, *, module: str = "") -> list[str]:
    """Which implementations a program has attention by, sorted.

    Args:
      program: before it is compiled.
      module: name of the modules that are looked at; "" for all.
    """
    places = re.findall(r'loc\("([^"]*)"', program.as_text(debug_info=True))
    inside = [place.split("/") for place in places]
    found = {
        part for parts in inside if not module or module in parts for part in parts
    }
    return [name for name in sorted(KERNELS) if SCOPE + name in found]


def _choose(
    q: jax.Array, plan: planning.AttentionPlan, *, bias: jax.Array | None
) -> str:
    """The fastest implementation for these sizes on the target platform."""
    block_pairs = plan.keys_of.start.shape[-1] * plan.queries_of.start.shape[-1]
    if bias is not None:
        many = 4 if sharding.platform() == "cpu" else MANY_PAIRS
        return "blocks" if block_pairs >= many else "reference"
    name, module = PLATFORM_KERNELS.get(sharding.platform(), ("blocks", None))
    if module is not None and module.unsupported_reason(q.shape[-1], plan) is None:
        size, dtype = q.shape[-1], q.dtype.name
        if kernel_check.matches_reference(KERNELS[name], head_size=size, dtype=dtype):
            return name
    return "reference" if block_pairs < 4 else "blocks"


def _zero_padding(x: jax.Array, segments: jax.Array) -> jax.Array:
    """Zeros in the padding of `x`: a weight of 0 times a NaN there would be NaN."""
    return jnp.where((segments > 0)[:, :, None, None], x, 0)


def _check_plan(q: jax.Array, k: jax.Array, *, plan: planning.AttentionPlan) -> None:
    planned = plan.query_segments.shape + plan.key_segments.shape
    if planned != q.shape[:2] + k.shape[:2]:
        raise ValueError(
            f"queries {q.shape[:2]} and keys {k.shape[:2]} do not fit the plan's "
            f"{planned[:2]} and {planned[2:]}"
        )


def _check(
    implementation: str,
    q: jax.Array,
    *,
    plan: planning.AttentionPlan,
    bias: jax.Array | None,
) -> None:
    if implementation not in KERNELS:
        raise ValueError(
            f"unknown attention implementation {implementation!r}; "
            f"known: {', '.join(KERNELS)}"
        )
    if bias is not None and implementation not in BIASED:
        raise ValueError(f"attention {implementation!r} takes no bias: use 'blocks'")
    if bias is not None and implementation == "blocks":
        relative.check(plan)
    for name, module in PLATFORM_KERNELS.values():
        if name == implementation and (
            reason := module.unsupported_reason(q.shape[-1], plan)
        ):
            raise ValueError(f"attention {name!r} cannot take {reason}, or 'blocks'")
