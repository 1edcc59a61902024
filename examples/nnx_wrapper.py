"""The packed transformer as a module of Flax NNX.

python examples/nnx_wrapper.py
"""

# --8<-- [start:program]
import jax
from flax import nnx

import soraflax
from soraflax.nn import dit
from soraflax.pretrained import abstract

config = dit.VARIANTS["tiny"]
row = abstract.example_row(config)
model = nnx.bridge.ToNNX(soraflax.DiT(config), rngs=nnx.Rngs(0)).lazy_init(row)

prediction = model(row)  # [B, N, P]
count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
print(f"{count:,} numbers of state; predicts {prediction.shape}")
# --8<-- [end:program]
