"""Attention over packed rows by itself, forward and backward.

python examples/attention_alone.py
"""

# --8<-- [start:program]
import jax
import jax.numpy as jnp
import numpy as np

from soraflax.ops import attention

# A row of 512 tokens: segments of 200, 120 and 150 tokens, then padding.
ids = np.repeat(np.array([1, 2, 3, 0], np.int32), (200, 120, 150, 42))[None]
plan = attention.make_plan(ids, ids, block=64)  # once per step, outside the layers
print(f"{int(plan.visited[0])} of {(512 // 64) ** 2} pairs of blocks are computed")

keys = jax.random.split(jax.random.key(0), 3)
q, k, v = (jax.random.normal(key, (1, 512, 4, 32)) for key in keys)  # [B, N, H, K]


def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    out = attention.attention(q, k, v, plan=plan)  # 0 in padding
    return jnp.sum(out**2)


value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)

# The same, by definition: every pair of tokens, then the mask.
exact = attention.attention(q, k, v, plan=plan, implementation="reference")
print(f"differs from the definition by {abs(value / jnp.sum(exact**2) - 1):.1e}")
# --8<-- [end:program]
