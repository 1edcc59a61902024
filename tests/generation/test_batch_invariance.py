"""The same seed gives the same pixels, whatever else is made with it."""

import dataclasses

import numpy as np
import pytest

from soraflax.diffusion import guidance, samplers
from soraflax.generation import caching
from soraflax.generation import generator as generators
from tests.generation import tiny

# Text and arguments of `Generator.prompt`.
PROMPTS = [
    ("a red circle moves right", {"size": (32, 32), "frames": 9, "seed": 3}),
    ("two squares", {"size": (48, 16), "frames": 5, "seed": 4, "fps": 4.0}),
    ("a still image", {"size": (16, 48), "frames": 1, "seed": 5}),
]
FAST = generators.SamplingConfig(steps=2, guidance=3.0)


@pytest.fixture(scope="module")
def generator():
    return generators.Generator(tiny.model())


OTHERS = [
    (
        "three green things fall slowly to the left",
        {"size": (48, 48), "frames": 5, "seed": 9},
    ),
    ("a dot", {"size": (16, 16), "frames": 1, "seed": 6}),
    ("a very large blue square turns", {"size": (64, 48), "frames": 13, "seed": 7}),
]


@pytest.fixture(scope="module")
def jobs(generator):
    """Three that are looked at, and three beside them."""
    return [generator.prompt(text, **rest) for text, rest in PROMPTS + OTHERS]


@pytest.mark.parametrize("sampler", ("euler", "heun", "unipc"))
def test_what_shares_the_rows_changes_nothing(generator, jobs, sampler):
    """Bit for bit, whatever shares the rows and however many are denoised at once."""
    config = dataclasses.replace(
        FAST, sampler=samplers.SAMPLERS[sampler], rescale=0.5, interval=(0.0, 0.9)
    )
    alone = [generator([job], config)[0] for job in jobs[:3]]
    for rows, order in ((1, (0, 1, 2)), (8, (5, 2, 3, 0, 4, 1)), (2, (4, 5, 3, 2, 1))):
        chosen = [jobs[index] for index in order]
        found = generator(chosen, dataclasses.replace(config, rows=rows))
        for index, video in zip(order, found, strict=True):
            if index < len(alone):
                np.testing.assert_array_equal(video, alone[index])


def test_latents_do_not_depend_on_what_shares_the_rows(generator, jobs):
    canvases = [generator.canvas(job) for job in jobs]
    skip = guidance.SkipGuidance((0,), interval=(0.2, 0.9))
    config = dataclasses.replace(FAST, rescale=0.7, skip=skip)
    together = generator.fill(canvases, config)
    for canvas, latent in zip(canvases, together, strict=True):
        (alone,) = generator.fill([canvas], config)
        np.testing.assert_array_equal(latent, alone)


def test_caching_does_not_depend_on_what_shares_the_rows(generator, jobs):
    """Nor where others' levels enter the guided interval at another step."""
    config = generators.SamplingConfig(
        steps=6,
        interval=(0.0, 0.9),
        skip=guidance.SkipGuidance((0,), interval=(0.1, 0.8)),
        cache=caching.StepCacheConfig(threshold=10.0, warmup_steps=1),
    )
    canvases = [generator.canvas(job) for job in jobs]
    together = generator.fill(canvases, config)
    for canvas, latent in zip(canvases, together, strict=True):
        (alone,) = generator.fill([canvas], config)
        np.testing.assert_array_equal(latent, alone)
