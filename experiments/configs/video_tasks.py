"""The small transformer, trained longer and mostly with masks, for every task.

Claim     one model animates, extends, loops, connects, edits, in- and outpaints.
Hardware  two CPU cores; the same file runs on one GPU or a TPU mesh.
Command   soraflax prepare --world bodies --variant demo \\
              --count 8064 --validation-count 64 --output WORLD
          soraflax train --config=autoencoder_small
              --config.data.path=WORLD --config.train.steps=2000 --workdir=AE
          soraflax train --config=video_tasks
              --config.data.path=WORLD --config.autoencoder=AE --workdir=VIDEO
          python -m experiments.benchmarks.tasks --checkpoint VIDEO
Result    82 minutes beside other work. Joins of extended, looped and connected clips at
          0.8 to 1.2 times the clip's own pace; image-to-video keeps colour and count in
          1.00 and shape in 0.64 of clips (0.92 for real ones, decoded); edits of colour
          with accuracy 0.8 and position within a diameter at strengths 0.4 to 0.8. The
          table is in docs/benchmarks.md.

It is `video_small.py` but for the rates of masks, windows that begin inside a clip,
and the number of steps. `:tiny` is the size that tests train.
"""

from typing import Any

from ml_collections import config_dict

from experiments.configs import video_small
from soraflax import config as config_lib
from soraflax.train import mask_sampling

MASK_RATES = mask_sampling.MaskRates(
    first_frame=0.15, prefix=0.1, suffix=0.1, both_ends=0.1, frames=0.05, boxes=0.12
)


def get_config(size: str = "small") -> config_dict.ConfigDict:
    config: Any = video_small.get_config(size)
    config.loss.mask_rates.update(config_lib.to_dict(MASK_RATES))
    config.data.windows = 0.1
    config.data.row.text = 256
    if size != "tiny":
        config.train.steps = 5000
    return config
