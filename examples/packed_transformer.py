"""The packed transformer in a JAX program of your own: several clips in one row.

python examples/packed_transformer.py
"""

# --8<-- [start:program]
import jax
import numpy as np

import soraflax
from soraflax import sharding
from soraflax.nn import dit
from soraflax.ops import patch as patches

config = dit.VARIANTS["tiny"]  # "small", "base", ..., or a DiTConfig of your own
rng = np.random.default_rng(0)

# Latents `[t, h, w, z]` of a landscape clip, a portrait clip and an image: 120, 72 and
# 64 tokens.
sizes = [(5, 8, 12), (3, 12, 8), (1, 16, 16)]
latents = [
    rng.normal(size=(*size, config.latent_channels)).astype(np.float32)
    for size in sizes
]
caption = np.array([5, 9, 2], np.int32)  # token ids
clips = [
    soraflax.Segment.from_latent(latent, caption, patch=config.patch)
    for latent in latents
]
row = soraflax.assemble([clips], soraflax.RowShape.fitting([clips]))  # a batch of one

model = soraflax.DiT(config)
params, _ = sharding.init(model, jax.random.key(0), row)
prediction = model.apply({"params": params}, row)  # [B, N, P], one for every token

for number, latent in enumerate(latents, start=1):
    tokens = np.asarray(prediction)[row.segments == number]
    grid = patches.patch_grid(latent.shape, config.patch)
    predicted = patches.unpatchify(tokens, grid, patch=config.patch)
    print(f"clip {number}: {len(tokens)} tokens, prediction {predicted.shape}")
# --8<-- [end:program]
