"""Commands that `soraflax` has from here, by entry points; light, for its `--help`."""

from soraflax.cli import parser as cli

train = cli.Delegate(
    "train", "experiments.train", "train one stage of a model", EXTRA="train"
)
demo = cli.Delegate(
    "demo",
    "experiments.demo",
    "train a small model on the procedural world from nothing, and show its videos",
    EXTRA="train",
)
