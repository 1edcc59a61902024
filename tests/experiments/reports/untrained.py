"""A command that trains, in the place of which a tiny model is left behind."""

import pathlib
from collections.abc import Sequence

from tests.generation import tiny

FLOPS = 7.0  # of the training, as its metrics say


class Command:
    """Takes the words of `soraflax train`; the last one is `--workdir=DIR`.

    Attributes:
      seen: the words of every call.
    """

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def __call__(self, words: Sequence[str]) -> int:
        self.seen.append(list(words))
        workdir = pathlib.Path(words[-1].partition("=")[2])
        workdir.mkdir(exist_ok=True)
        if workdir.name == "video":
            tiny.save(workdir.parent)
            cost = f'{{"step": 2, "training_flops": {FLOPS}}}\n'
            (workdir / "metrics.jsonl").write_text(cost)
        (workdir / "result.json").write_text("{}")
        return 0
