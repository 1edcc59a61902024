"""Attention over packed rows.

api               `attention`, the one entry: checks, chooses a kernel, runs it
plan              which blocks of queries and keys touch, once per step
kernel            what a kernel is, its gradient, how partial results merge
tiles             queries or keys in whole blocks, shared by the kernels
reference         every pair of tokens: the definition
block_sparse      touching blocks alone, portable
relative          the same with a bias of relative positions
splash, triton    touching blocks alone, kernels for TPU and GPU
chunked           any kernel over rows longer than its limit
kernel_check      a kernel against the reference, on the device at hand
context_layout    how the mesh axis of tokens is divided into Ulysses and ring
context_parallel  a kernel over a mesh: `shard_map`, Ulysses
ring              keys and values that travel between devices
dense             apart: attention without segments, for the autoencoder
"""

from soraflax.ops.attention.api import BIASED as BIASED
from soraflax.ops.attention.api import attention as attention
from soraflax.ops.attention.api import implementations_in as implementations_in
from soraflax.ops.attention.context_layout import ring_shards as ring_shards
from soraflax.ops.attention.plan import AttentionPlan as AttentionPlan
from soraflax.ops.attention.plan import make_plan as make_plan
