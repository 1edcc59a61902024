"""Previews: the linear map is found, and its pictures have the sizes they should."""

import functools
import types

import numpy as np
import pytest

from soraflax.autoencoding import previews
from soraflax.nn import autoencoder
from soraflax.pretrained import models
from tests.generation import tiny

R, S = 4, 8


def linear(mixing, offset, *, r=R, s=S):
    """An autoencoder whose latents are its cells' mean colours, mixed."""

    def encode(video):
        return previews.cell_means(np.asarray(video), r, s=s) @ mixing + offset

    config = types.SimpleNamespace(
        temporal_ratio=r,
        spatial_ratio=s,
        video_shape=functools.partial(_video_shape, r, s),
    )
    model = object.__new__(models.AutoencoderModel)
    model.__dict__.update(config=config, encode=encode)
    return model


def _video_shape(r, s, t, h, w):
    return 1 + (t - 1) * r, h * s, w * s


@pytest.mark.parametrize(("r", "s", "z"), [(4, 8, 16), (1, 16, 3), (2, 4, 48)])
def test_a_linear_map_is_found(r, s, z):
    rng = np.random.default_rng(1)
    mixing, offset = rng.normal(size=(3, z)), rng.normal(size=z)
    projection = previews.Projection.fit(linear(mixing, offset, r=r, s=s))
    colours = rng.uniform(-1, 1, (2, 3, 5, 3)).astype(np.float32)
    found = projection.colours(colours @ mixing + offset)
    np.testing.assert_allclose(found, colours, atol=0.02)
    assert projection.weights.shape == (z + 1, 3)


def test_a_channel_that_never_changes_does_no_harm():
    mixing = np.concatenate([np.eye(3), np.zeros((3, 2))], axis=1)
    projection = previews.Projection.fit(linear(mixing, np.arange(5.0)))
    assert np.isfinite(projection.weights).all()
    np.testing.assert_array_equal(projection.weights[3:5], 0)


def test_what_only_a_hair_tells_is_not_blown_up():
    """Colours that are the tiny difference of two channels would show as noise."""
    model = linear(np.eye(3), np.zeros(3))
    rng = np.random.default_rng(9)

    def encode(video):
        means = previews.cell_means(np.asarray(video), R, s=S)
        other = rng.normal(size=means.shape)
        return np.concatenate([other + 1e-4 * means, other], axis=-1)

    model.__dict__["encode"] = encode
    assert np.abs(previews.Projection.fit(model).weights).max() < 10


def test_cells_are_means_over_the_frames_that_they_stand_for():
    frames = np.arange(1 + 2 * R, dtype=np.float32)
    rows = 100 * np.repeat(np.arange(3, dtype=np.float32), S)
    video = frames[:, None, None, None] + rows[None, :, None, None]
    video = np.broadcast_to(video, (1 + 2 * R, 3 * S, 2 * S, 3))
    cells = previews.cell_means(video, R, s=S)
    assert cells.shape == (3, 3, 2, 3)
    np.testing.assert_allclose(cells[:, 0, 0, 0], [0, 2.5, 6.5])
    np.testing.assert_allclose(cells[0, :, 1, 2], [0, 100, 200])
    np.testing.assert_array_equal(previews.cell_means(video[None], R, s=S)[0], cells)


def test_random_clips_are_colourful_and_move():
    clips = previews.random_clips(np.random.default_rng(0), 12, size=(9, 32, 48))
    assert clips.shape == (12, 9, 32, 48, 3) and clips.dtype == np.float32
    assert clips.min() >= -1 and clips.max() <= 1
    assert (clips.std(axis=(0, 1, 2, 3)) > 0.3).all()
    assert (np.abs(np.diff(clips, axis=1)).mean(axis=(1, 2, 3, 4)) > 1e-3).all()


IDENTITY = previews.Projection(np.eye(4, 3, dtype=np.float32), S)


@pytest.mark.parametrize(
    ("cells", "side", "times"),
    [((3, 4, 6), 320, 8), ((1, 4, 4), 320, 8), ((2, 4, 6), 20, 3), ((2, 4, 6), 5, 1)],
)
def test_pictures_are_as_large_as_the_video_or_as_allowed(cells, side, times):
    picture = IDENTITY(np.zeros((*cells, 3)), max_side=side)
    t, h, w = cells
    assert picture.shape == (t, h * times, w * times, 3)
    assert picture.dtype == np.uint8
    assert set(np.unique(picture)) == {128}


def test_pictures_show_the_colours_and_take_any_numbers():
    latent = np.zeros((1, 4, 4, 3))
    latent[0, :, :2], latent[0, :, 2:] = (1, -1, -1), (-1, -1, 1)
    picture = IDENTITY(latent)[0]
    np.testing.assert_array_equal(picture[:, :8], [[(255, 0, 0)] * 8] * 32)
    np.testing.assert_array_equal(picture[:, -8:], [[(0, 0, 255)] * 8] * 32)
    for strange in (1e9, np.nan, np.inf):
        assert IDENTITY(np.full((1, 4, 4, 3), strange)).shape == (1, 32, 32, 3)


def test_any_autoencoder_has_a_map():
    """Untrained, so there is no more to ask of it than that it is one."""
    model = tiny.model().autoencoder
    projection = previews.Projection.fit(model)
    config = autoencoder.VARIANTS["tiny"]
    assert projection.weights.shape == (config.latent_channels + 1, 3)
    assert np.isfinite(projection.weights).all()
    again = previews.Projection.fit(model)
    np.testing.assert_array_equal(again.weights, projection.weights)
    picture = projection(np.zeros((2, 3, 4, config.latent_channels)))
    assert picture.shape == (2, 3 * projection.cell, 4 * projection.cell, 3)
