"""Commands that `soraflax` has from here, by entry points; light, for its `--help`."""

from soraflax.cli import parser as cli

prepare = cli.Delegate(
    "prepare",
    "data_pipelines.prepare",
    "make a dataset from video files with captions, or from a procedural world",
    EXTRA="data",
)
