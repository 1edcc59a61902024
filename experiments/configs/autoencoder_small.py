"""A small spacetime autoencoder that trains on a laptop.

Claim     4 x 8 x 8 compression of small clips in a few minutes of CPU time.
Hardware  two CPU cores; the same file runs on one GPU or a TPU mesh.
Command   soraflax train --config=autoencoder_small
              --config.data.path=DATASET --workdir=AE
Result    30.64 dB PSNR, 0.923 SSIM on held-out clips of the demo's world, 144 s
          (`make demo`; AE/result.json). 2,000 steps: 30.64 dB, 0.925.

`:tiny` is the size that tests train.
"""

from ml_collections import config_dict

from data_pipelines import cropping, pipeline
from experiments.stages import run_config
from experiments.stages.autoencoder import config as stage_config
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.nn import autoencoder
from soraflax.train import loop, optimizer, reconstruction

SIZES = ("small", "tiny")


def get_config(size: str = "small") -> config_dict.ConfigDict:
    if size not in SIZES:
        raise ValueError(f"size {size!r}: {config_lib.nearest(size, SIZES)}")
    tiny = size == "tiny"
    crops = cropping.CropConfig(
        shapes=((1, 48, 48), (5, 32, 48), (9, 32, 32), (17, 32, 32)),
        weights=(0.15, 0.15, 0.5, 0.2),
        max_side=128,
    )
    if tiny:
        crops = cropping.CropConfig(shapes=((5, 32, 32),))
    groups = {
        "data": pipeline.VideoDataConfig(crops=crops),
        "model": autoencoder.VARIANTS[size],
        "loss": reconstruction.ReconstructionConfig(l2=2.0),
        "optimizer": optimizer.OptimizerConfig(
            learning_rate=3e-3, warmup=50, weight_decay=0.01
        ),
        "train": loop.TrainConfig(
            steps=500, log_every=10, checkpoint_every=250, ema_decay=0.99
        ),
        "evaluation": stage_config.AutoencoderEvaluationConfig(),
        "mesh": sharding.MeshConfig(),
    }
    config = run_config.to_config_dict("autoencoder", groups, batch=16)
    if tiny:
        config.batch = 8
        config.train.update(steps=2, log_every=1)
        config.evaluation.update(clips=2, statistics=2, batch=1)
    return config
