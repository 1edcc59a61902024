"""Our autoencoder with Wan's weights against diffusers, both ways through the files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from soraflax.autoencoding import streaming
from soraflax.nn import autoencoder
from soraflax.pretrained import models
from soraflax.weights import wan
from soraflax.weights.wan import autoencoder as wan_autoencoder
from tests.golden import wan_autoencoder as judge

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=wan.FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pair(family, tmp_path_factory):
    """A diffusers model of reduced width and ours, through converted files."""
    folder = tmp_path_factory.mktemp(family)
    theirs = judge.make(judge.SMALL[family])
    theirs.save_pretrained(folder / "theirs")
    ours = wan.convert(folder / "theirs", folder / "ours", family=family)
    return theirs, ours, folder


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def check(theirs, ours, case):
    pixels = judge.video(case, ours.config.spatial_ratio)
    mean, decoded = judge.run(theirs, pixels)
    module = autoencoder.Autoencoder(ours.config)
    result = jax.jit(module.apply)({"params": ours.params}, pixels)
    assert result.mean.shape == mean.shape
    assert relative(result.mean, mean) <= TOLERANCE
    assert np.max(np.abs(result.mean - mean)) <= TOLERANCE * np.max(np.abs(mean))
    assert relative(jnp.clip(result.video, -1, 1), decoded) <= TOLERANCE
    assert np.mean(np.abs(decoded) < 1) > 0.05, "all clipped: nothing is compared"


@pytest.mark.parametrize("case", judge.CASES, ids=str)
def test_reduced_width(pair, case):
    theirs, ours, _ = pair
    check(theirs, ours, case)


@pytest.fixture(scope="module")
def full(family):
    return judge.make(judge.FULL[family])


@pytest.mark.parametrize("case", judge.CASES, ids=str)
def test_full_width(family, full, case):
    theirs = full
    config, statistics = wan_autoencoder.parse_config(dict(theirs.config))
    variant = autoencoder.VARIANTS[family.replace(".", "_")]
    assert wan_autoencoder.format_config(config, None) == wan_autoencoder.format_config(
        variant, None
    )
    tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
    params = wan_autoencoder.autoencoder_from_tensors(tensors, config)
    ours = models.AutoencoderModel(config, params, "", statistics)
    check(theirs, ours, case)


def test_streamed_equals_theirs(pair):
    theirs, ours, _ = pair
    pixels = judge.video(judge.Case(17, 2, 2), ours.config.spatial_ratio)
    mean, decoded = judge.run(theirs, pixels)
    latents = list(streaming.encode(ours, pixels[0]))
    assert relative(np.concatenate(latents), mean[0]) <= TOLERANCE
    found = np.concatenate(list(streaming.decode(ours, latents)))
    assert relative(np.clip(found, -1, 1), decoded[0]) <= TOLERANCE


def test_the_way_back_gives_their_files(pair, family):
    theirs, ours, folder = pair
    wan.export(folder / "ours", folder / "back", family=family)
    again = AutoencoderKLWan.from_pretrained(folder / "back")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    config = json.loads((folder / "back" / "config.json").read_text())
    np.testing.assert_allclose(config["latents_mean"], theirs.config.latents_mean)
    assert ours.statistics.std == tuple(theirs.config.latents_std)
