"""How a model's authors sample, and what a user changes of it."""

import dataclasses

import pytest

from soraflax.diffusion import guidance, samplers
from soraflax.generation import generator, sampling_config
from soraflax.pretrained import sampling_defaults
from tests.generation import tiny

CONFIG = dataclasses.replace(
    tiny.model().config,
    sampling=sampling_defaults.SamplingDefaults(
        steps=40, guidance=4.0, low_guidance=3.0, size=(64, 32), frames=5
    ),
)


def test_what_is_not_given_is_the_model_s_own():
    plain = sampling_config.SamplingConfig
    assert plain.of_model(tiny.model().config) == plain()
    own = plain.of_model(CONFIG)
    assert (own.steps, own.guidance, own.low_guidance) == (40, 4.0, 3.0)
    assert own.sampler == samplers.UniPC() and own.shift is None
    changed = plain.of_model(CONFIG, steps=3, guidance=None, sampler=samplers.Euler())
    assert (changed.steps, changed.guidance) == (3, 4.0)
    assert changed.sampler == samplers.Euler()
    assert own.skip is None
    skipping = dataclasses.replace(
        CONFIG, sampling=sampling_defaults.SamplingDefaults(skip_blocks=(1,))
    )
    assert plain.of_model(skipping).skip == guidance.SkipGuidance((1,), 1.0)
    made = generator.Generator(dataclasses.replace(tiny.model(), config=CONFIG))
    assert made.sampling == own
    assert generator.default_size(made) == (64, 32)
    assert generator.default_frames(made) == 5


def test_numbers_out_of_range_are_refused():
    for changes, message in (
        ({"shift": 0.0}, "above 0"),
        ({"low_guidance": float("nan")}, "use a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            sampling_config.SamplingConfig(**changes)
    with pytest.raises(ValueError, match="unknown sampler 'x'; known: euler"):
        sampling_defaults.SamplingDefaults(sampler="x")
    with pytest.raises(ValueError, match="0 steps, 81 frames"):
        sampling_defaults.SamplingDefaults(steps=0)
    with pytest.raises(ValueError, match="skip guidance -1"):
        sampling_defaults.SamplingDefaults(skip_blocks=(1,), skip_guidance=-1)
