"""A model with adapters of others in its transformer."""

from collections.abc import Sequence

from soraflax.generation import generator as generators
from soraflax.weights.wan import adapters


def adapted(
    generator: generators.Generator, files: Sequence[str]
) -> generators.Generator:
    """The model with adapters merged into its transformer (`wan.adapters`).

    Args:
      generator: a model of Wan's form.
      files: `FILE`, `FILE:SCALE`, or `high=FILE:SCALE` of the first of two experts.

    Raises:
      FileNotFoundError, ModelError: no such file, or one that does not fit.
    """
    if not files:
        return generator
    parsed = [adapters.AdapterFile.parse(text) for text in files]
    return generators.Generator(adapters.merge(generator.model, parsed))
