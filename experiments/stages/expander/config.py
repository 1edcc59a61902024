"""The configuration of the stage `expander`."""

import dataclasses
from typing import Literal

from data_pipelines import prompt_pairs
from experiments.stages import run_config
from experiments.stages.captioner import config as captioner_config
from soraflax.nn import captioner
from soraflax.train import optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpanderRunConfig(run_config.RunConfig):
    """A run of the stage `expander`.

    Attributes:
      stage: `"expander"`.
      data: pairs of prompts, and rows.
      model: sizes, of a network that reads text.
      optimizer: update rule and learning rate schedule.
      evaluation: batches of the validation loss, of held-out combinations.
    """

    stage: Literal["expander"]
    data: prompt_pairs.PairDataConfig
    model: captioner.CaptionerConfig
    optimizer: optimizer.OptimizerConfig
    evaluation: captioner_config.CaptionerEvaluationConfig

    def __post_init__(self) -> None:
        if self.model.reads != "text":
            raise ValueError(
                f"model.reads {self.model.reads!r}: an expander reads prompts; use "
                "'text', or the stage 'captioner'"
            )
