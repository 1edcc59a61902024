"""The same seed gives the same pixels, whatever else is made with it."""

import dataclasses

import numpy as np
import pytest

from soraflax.diffusion import samplers
from soraflax.generation import caching
from soraflax.generation import generator as generators
from tests.generation import tiny

Prompt = generators.Prompt
PROMPTS = [
    Prompt("a red circle moves right", (32, 32), frames=9, seed=3),
    Prompt("two squares", (48, 16), frames=5, seed=4, fps=4.0),
    Prompt("a still image", (16, 48), frames=1, seed=5),
]
FAST = generators.SamplingConfig(steps=2, guidance=3.0)


@pytest.fixture(scope="module")
def generator():
    return generators.Generator(tiny.model())


COMPANY = [
    Prompt("three green things fall slowly to the left", (48, 48), frames=5, seed=9),
    Prompt("a dot", (16, 16), frames=1, seed=6),
    Prompt("a very large blue square turns", (64, 48), frames=13, seed=7),
]


@pytest.mark.parametrize("sampler", ("euler", "heun", "unipc"))
def test_company_changes_nothing(generator, sampler):
    """Bit for bit, whatever shares the rows and however many are denoised at once."""
    config = dataclasses.replace(
        FAST, sampler=samplers.SAMPLERS[sampler], rescale=0.5, interval=(0.0, 0.9)
    )
    alone = [generator([prompt], config)[0] for prompt in PROMPTS]
    for rows, order in ((1, (0, 1, 2)), (8, (5, 2, 3, 0, 4, 1)), (2, (4, 5, 3, 2, 1))):
        chosen = [(PROMPTS + COMPANY)[index] for index in order]
        found = generator(chosen, dataclasses.replace(config, rows=rows))
        for index, video in zip(order, found, strict=True):
            if index < len(PROMPTS):
                np.testing.assert_array_equal(video, alone[index])


def test_latents_do_not_depend_on_company(generator):
    requests = [generator.request(p) for p in PROMPTS + COMPANY]
    config = dataclasses.replace(FAST, rescale=0.7)
    together = generator.fill(requests, config)
    for request, latent in zip(requests, together, strict=True):
        (alone,) = generator.fill([request], config)
        np.testing.assert_array_equal(latent, alone)


def test_caching_does_not_depend_on_company(generator):
    """Nor where a company's levels enter the guided interval at another step."""
    config = generators.SamplingConfig(
        steps=6,
        interval=(0.0, 0.9),
        cache=caching.StepCacheConfig(threshold=10.0, ends=1),
    )
    requests = [generator.request(p) for p in PROMPTS + COMPANY]
    together = generator.fill(requests, config)
    for request, latent in zip(requests, together, strict=True):
        (alone,) = generator.fill([request], config)
        np.testing.assert_array_equal(latent, alone)


def test_decoding_does_not_depend_on_company(generator):
    rng = np.random.default_rng(0)
    latents = [rng.normal(size=(3, 4, 6, 4)).astype(np.float32) for _ in range(5)]
    together = generator.decode(latents, batch=4)
    for latent, video in zip(latents, together, strict=True):
        np.testing.assert_array_equal(generator.decode([latent])[0], video)
