"""A small prompt expander, trained on words alone.

Claim     a network of 0.7 million parameters makes short prompts of the world longer.
Hardware  one CPU core; the same file runs on one GPU or a TPU mesh.
Command   soraflax train --config=expander_small --config.train.steps=1500 \\
              --workdir=EXPANDER
          python -m experiments.reports.expansions --expander EXPANDER
Result    1,500 steps in 4.5 minutes: of 1,000 held-out short prompts every attribute is
          kept, none contradicted, and all are complete (the template: 0.36); drafts
          alone have the same figures. It is the expander in the package.

`:tiny` is the size that tests train.
"""

from ml_collections import config_dict

from data_pipelines import prompt_pairs
from experiments.stages import run_config
from experiments.stages.captioner import config as captioner_config
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.nn import captioner
from soraflax.train import loop, optimizer

SIZES = ("small", "tiny")


def get_config(size: str = "small") -> config_dict.ConfigDict:
    if size not in SIZES:
        raise ValueError(f"size {size!r}: {config_lib.nearest(size, SIZES)}")
    tiny = size == "tiny"
    groups = {
        "data": prompt_pairs.PairDataConfig(rows=8),
        "model": captioner.VARIANTS["expander_tiny" if tiny else "expander"],
        "optimizer": optimizer.OptimizerConfig(
            name="muon", learning_rate=2e-3, schedule="constant", warmup=30
        ),
        "train": loop.TrainConfig(
            steps=3000, log_every=20, checkpoint_every=500, ema_decay=0.99
        ),
        "evaluation": captioner_config.CaptionerEvaluationConfig(),
        "mesh": sharding.MeshConfig(),
    }
    config = run_config.to_config_dict("expander", groups)
    config.data.seed = config.get_ref("seed")
    if tiny:
        config.train.update(steps=2, log_every=1)
        config.evaluation.batches = 1
    return config
