"""Low-rank adapters on a trained video model: new clips, a few parameters.

Claim     a model learns from other clips while its own parameters stay as they are.
Hardware  two CPU cores; the same file runs on one GPU or a TPU mesh.
Command   soraflax train --config=video_lora
              --config.data.path=DATASET --config.base=VIDEO --workdir=TUNED
Result    not measured yet.

VIDEO is what `video_small.py` trained, with whose objective it is trained on. Which
layers are adapted, how much and by how many numbers, is `--config.lora.targets`,
`.alpha` and `.rank`. TUNED/model is a video model again, TUNED/adapters what was added
to it. `:tiny` is the size that tests train.
"""

from typing import Any

from ml_collections import config_dict

from experiments.configs import video_small
from soraflax import config as config_lib
from soraflax.nn import lora
from soraflax.train import loop, optimizer


def get_config(size: str = "small") -> config_dict.ConfigDict:
    config: Any = video_small.get_config(size)
    tiny = size == "tiny"
    del config.model
    del config.autoencoder
    config.update({"stage": "finetune", "base": ""})
    adapters = lora.LoraConfig(
        rank=4 if tiny else 16,
        alpha=4.0 if tiny else 16.0,
        targets=("stack/*_attention/*/kernel", "stack/*/mlp/*/kernel"),
    )
    config.lora = config_lib.to_dict(adapters)
    rule = optimizer.OptimizerConfig(
        learning_rate=1e-3, warmup=20, weight_decay=0.0, final_fraction=0.1
    )
    config.optimizer = config_lib.to_dict(rule)
    course = loop.TrainConfig(
        steps=2 if tiny else 400, log_every=1 if tiny else 10, ema_decay=0.99
    )
    config.train = config_lib.to_dict(course)
    # The base's own statistics normalise the latents, whatever those say.
    config.data.deviation = "channel"
    return config
