"""Attention over packed rows: one entry, several implementations."""

from soraflax.ops.attention.api import attention as attention
from soraflax.ops.attention.context_parallel import ring_shards as ring_shards
from soraflax.ops.attention.plan import AttentionPlan as AttentionPlan
from soraflax.ops.attention.plan import make_plan as make_plan
