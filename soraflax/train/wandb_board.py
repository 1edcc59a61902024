"""Metrics on Weights & Biases, beside TensorBoard: `--config.train.wandb=PROJECT`.

A run keeps its page there when it is resumed: its id follows from its folder. Where to
send, and as whom, is wandb's own matter (`wandb login`, `WANDB_MODE=offline`).
"""

import hashlib
import importlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any


class Board:
    """The page of one run; a context manager."""

    def __init__(
        self,
        project: str,
        *,
        folder: str | os.PathLike[str],
        local: pathlib.Path,
        settings: Any = None,
    ) -> None:
        """Open the page.

        Args:
          project: name of the project, or ENTITY/PROJECT.
          folder: folder of the run, which names it.
          local: where wandb keeps what it has not sent.
          settings: configuration of the run, shown beside it.

        Raises:
          ValueError: wandb is not installed.
        """
        try:
            wandb: Any = importlib.import_module("wandb")
        except ModuleNotFoundError as error:
            raise ValueError(
                f"train.wandb {project}: wandb is missing: pip install "
                "'soraflax[wandb]', or leave train.wandb empty"
            ) from error
        name = os.fspath(folder)
        entity, _, own = project.rpartition("/")
        self._run = wandb.init(
            entity=entity or None,
            project=own,
            name=pathlib.PurePath(name).name,
            id=hashlib.sha256(name.encode()).hexdigest()[:16],
            resume="allow",
            dir=str(local),
            config=settings,
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars of `step`; wandb keeps the first of those that come again."""
        self._run.log(dict(scalars), step=step)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, error: Any, *_: Any) -> None:
        self._run.finish(exit_code=0 if error is None else 1)
