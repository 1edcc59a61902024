"""What a command makes of its prompt before it is sampled: filtered, and expanded."""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from soraflax import media
from soraflax.cli import outputs
from soraflax.generation import captioner as captioners
from soraflax.generation import expansion, generator, guardrails


@dataclasses.dataclass(frozen=True)
class Wording:
    """The words of a command.

    Attributes:
      args: as parsed, with the prompt that the model is given.
      options: entries of the record, such as who expanded the prompt; none where it
        was not asked for.
      guard: what results must pass.
      notes: what of a prompt could not be read before it was expanded.
    """

    args: argparse.Namespace
    options: Mapping[str, Any]
    guard: guardrails.Guardrails
    notes: tuple[str, ...] = ()

    def recorded(self, job: generator.Job) -> generator.Job:
        """The job with these entries and notes in its record."""
        options, notes = {**job.options, **self.options}, (*self.notes, *job.notes)
        return dataclasses.replace(job, options=options, notes=notes)

    def repeated(self, args: argparse.Namespace, *, seed: int) -> argparse.Namespace:
        """Arguments that make the result of a seed again.

        An expander says other things for another seed: what it said for the first of
        several results is then the prompt.

        Args:
          args: as parsed.
          seed: of the result.
        """
        if not self.options or seed == args.seed:
            return args
        return argparse.Namespace(**vars(self.args) | {"expand": None})

    def checked(self, frames: Iterable[np.ndarray], *, fps: float) -> Any:
        """The same frames, once all have passed; as they come where none are checked.

        Raises:
          RefusedError: a filter does not let them pass.
        """
        if not self.guard.filters:
            return frames
        made = np.stack(list(frames))
        self.guard.check(self.args.prompt, media.Video(made, fps))
        return made


def prepare(
    args: argparse.Namespace,
    model: generator.Generator,
    *,
    inputs: Mapping[str, pathlib.Path],
) -> Wording:
    """Check the prompt, expand it if that is asked for, say so, and check it again.

    Args:
      args: with those of `options.add_wording`.
      model: that is prompted.
      inputs: clips and images that the prompt goes with, by role.

    Raises:
      RefusedError: a filter does not let it pass.
      ExtensionError: there is no such filter or expander.
    """
    guard = guardrails.load(args.guard, caption=LazyCaption(model))
    guard.check(args.prompt)
    if args.expand is None:
        return Wording(args, {}, guard)
    trained_on = model.model.config.trained_on
    template = expansion.Template(
        words=trained_on.words if trained_on else (),
        moving=args.command != "image",
        fresh=not inputs,
    )
    expander = expansion.load(args.expand, template)
    made = expansion.expanded(args.prompt, expander, seed=args.seed, name=args.expand)
    guard.check(made.text)
    print(f"{outputs.GENERATOR} {args.command}: expanded: {made.text}", file=sys.stderr)
    options = {"expansion": made.record(args.prompt)}
    new = argparse.Namespace(**vars(args) | {"prompt": made.text})
    return Wording(new, options, guard, made.notes)


class LazyCaption:
    """The shipped captioner, read when it is first asked."""

    def __init__(self, model: generator.Generator) -> None:
        self._codec = model.model.autoencoder
        self._model: captioners.Captioner | None = None

    def __call__(self, video: media.Video) -> str:
        if self._model is None:
            self._model = captioners.Captioner.load(codec=self._codec)
        return self._model(video)
