"""What a converted pipeline makes of a case of `golden.wan_pipeline`."""

import dataclasses

import numpy as np

from soraflax.autoencoding import streaming
from soraflax.generation import generator, tasks
from soraflax.pretrained import models
from tests.golden import wan_pipeline as judge


def load(checkpoint):
    """The generator, computing in float32 as diffusers does on a CPU."""
    model = models.load_video_model(checkpoint)
    sizes = dataclasses.replace(model.config.transformer, dtype="float32")
    config = dataclasses.replace(model.config, transformer=sizes)
    return generator.Generator(dataclasses.replace(model, config=config))


def job(made, case):
    """The job of a case."""
    common = {
        "size": case.size,
        "frames": case.frames,
        "fps": made.model.config.reference_fps,
    }
    if case.image:
        common.pop("size")
        given = tasks.animate(made.grid, judge.image(case), **common)
    else:
        given = tasks.generate(made.grid, **common)
    return generator.Job(given, judge.PROMPT, judge.NEGATIVE, judge.SEED)


def config_of(made, case):
    """How diffusers was told to sample."""
    return dataclasses.replace(
        made.sampling,
        steps=judge.STEPS,
        guidance=case.guidance,
        low_guidance=case.low_guidance,
    )


def run(checkpoint, case):
    """Latent `[t, h, w, z]`, normalised, and video in [0, 1], of our generator."""
    made = load(checkpoint)
    canvas = made.canvas(job(made, case))
    (latent,) = made.fill([canvas], config_of(made, case))
    frames = np.concatenate(list(streaming.decode(made.model.autoencoder, [latent])))
    video = np.clip(frames, -1, 1) / 2 + 0.5
    return made.model.config.statistics.normalize(latent), video


def error(found, expected):
    """Relative, of the norm."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)
