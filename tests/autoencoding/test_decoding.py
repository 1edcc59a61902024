"""Latents decoded together, one at a time, and in parts."""

import numpy as np
import pytest

from soraflax.autoencoding import decoding
from tests.generation import tiny


def draw(count, shape):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def model():
    return tiny.model().autoencoder


def test_decoding_does_not_depend_on_the_batch(model):
    latents = draw(5, (3, 4, 6, 4)) + draw(1, (1, 2, 2, 4))
    together = decoding.decode(model, latents, batch=4)
    assert [video.shape for video in together] == [(9, 32, 48, 3)] * 5 + [
        (1, 16, 16, 3)
    ]
    for latent, video in zip(latents, together, strict=True):
        np.testing.assert_array_equal(decoding.decode(model, [latent])[0], video)


def test_a_latent_in_parts_is_the_video_of_the_whole(model):
    (latent,) = draw(1, (5, 2, 2, 4))
    parts = decoding.decode_stream(model, [latent[:2], latent[2:]])
    video = np.concatenate(list(parts)).astype(int)
    assert np.abs(video - decoding.decode(model, [latent])[0]).max() <= 1


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_what_is_no_number_never_becomes_a_pixel(model, strange):
    (latent,) = draw(1, (3, 2, 2, 4))
    latent[1, 0, 0, 0] = strange
    with pytest.raises(ValueError, match="pixels are not finite"):
        decoding.decode(model, [*draw(1, (3, 2, 2, 4)), latent])
    with pytest.raises(ValueError, match="pixels are not finite"):
        list(decoding.decode_stream(model, [latent]))
