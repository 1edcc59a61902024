"""A small captioner of the shipped autoencoder's latents, trained on a laptop.

Claim     a captioner of 0.8 million parameters reads clips of the world back in words.
Hardware  one CPU core; the same file runs on one GPU or a TPU mesh.
Command   soraflax prepare --world bodies --variant several --count 6656 \\
              --validation-count 512 --seed 21 --output SEVERAL
          soraflax train --config=captioner_small --config.data.path=SEVERAL \\
              --config.autoencoder=soraflax/assets/bodies --workdir=CAPTIONER
          python -m experiments.reports.captions --captioner CAPTIONER --count 512
Result    2,126 steps on 6,144 of the clips, and from there (config.base,
          config.train.steps=6000) 6,000 on all of 20,000 (--count 20512), in 10 minutes
          on one core of two; then 6,000 more (optimizer.learning_rate=1e-3): of 512
          held-out clips the captions are right, for every body, in background, count
          and size 1.00, colour 0.99, direction 0.97, shape 0.96, and equal the world's
          own in 0.78. Before these, of 128 clips: shape 0.93, direction 0.95, 0.72;
          after the first 2,126: 0.63, 0.67 and 0.45.

`:tiny` is the size that tests train.
"""

from ml_collections import config_dict

from data_pipelines import latents, pipeline, transforms
from experiments.stages import run_config
from experiments.stages.captioner import config as stage_config
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.nn import captioner
from soraflax.ops import packing
from soraflax.train import loop, optimizer

SIZES = ("small", "tiny")


def get_config(size: str = "small") -> config_dict.ConfigDict:
    if size not in SIZES:
        raise ValueError(f"size {size!r}: {config_lib.nearest(size, SIZES)}")
    tiny = size == "tiny"
    groups = {
        "data": pipeline.PackedDataConfig(
            rows=8 if tiny else 4,
            row=packing.RowShape(tokens=128, text=96, segments=8),
            captions=transforms.CaptionConfig(
                names=("detailed",), dropout=0.0, max_length=64
            ),
        ),
        "cache": latents.LatentCacheConfig(
            fit=transforms.FitConfig(max_tokens=128, max_frames=17, fps=8.0)
        ),
        "model": captioner.VARIANTS[size],
        "optimizer": optimizer.OptimizerConfig(
            name="muon", learning_rate=2e-3, schedule="constant", warmup=30
        ),
        "train": loop.TrainConfig(
            steps=4000, log_every=20, checkpoint_every=500, ema_decay=0.995
        ),
        "evaluation": stage_config.CaptionerEvaluationConfig(),
        "mesh": sharding.MeshConfig(),
    }
    config = run_config.to_config_dict("captioner", groups, autoencoder="", base="")
    config.data.patch = config.model.get_ref("patch")
    config.cache.patch = config.model.get_ref("patch")
    config.data.seed = config.get_ref("seed")
    if tiny:
        config.train.update(steps=2, log_every=1)
        config.evaluation.batches = 1
    return config
