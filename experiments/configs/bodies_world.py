"""The shipped model, trained on to the whole world of bodies.

Claim     a model that draws one body as it is told learns up to three, gravity, walls,
          bars, pans, a dozen aspect ratios and clips of 1 to 49 frames from there.
Hardware  two CPU cores with bfloat16 tiles (AMX); the same file runs on one GPU or a
          TPU mesh.
Command   soraflax prepare --world bodies --variant wide --count 60064 \\
              --validation-count 64 --seed 41 --output WIDE
          soraflax train --config=bodies_world --config.base=soraflax/assets/bodies
              --config.data.path=WIDE --workdir=WORLD
          python -m experiments.reports.obedience --checkpoint WORLD --world wide
Expected  not run yet. A step has four times the tokens of `bodies_token_weighted.py`,
          which took 0.39 s on one core: 30,000 steps are some 13 hours on one core.

Rows are longer, since a clip of 49 frames at 144x64 has 468 tokens, and so are the
captions, which name every body, bounce, bar and pan. The autoencoder is the base's, of
one body on plain grounds: look at its PSNR on WIDE first (`reports.latents`), and train
its decoder on it (`autoencoder_decoder`) if dots and bars come out grey. `:tiny` is the
size that tests train.
"""

from typing import Any

from ml_collections import config_dict

from data_pipelines.worlds import bodies
from experiments.configs import bodies_token_weighted

WORLD = "wide"


def get_config(size: str = "small") -> config_dict.ConfigDict:
    config: Any = bodies_token_weighted.get_config(size)
    config.data.captions.max_length = 128
    config.evaluation.words = bodies.word_kinds(bodies.VARIANTS[WORLD])
    if size == "tiny":
        return config
    config.data.row.update(tokens=512, text=768, segments=24)
    config.data.rows = 8
    config.cache.fit.update(max_tokens=480, max_frames=49)
    config.train.update(steps=30000, evaluate_every=1000, checkpoint_every=500)
    return config
