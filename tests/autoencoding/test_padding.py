"""Padding to the grid, and cropping back."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from soraflax.autoencoding import padding
from soraflax.nn import autoencoder

CONFIG = autoencoder.VARIANTS["tiny"]


def frames_of(size):
    return np.random.default_rng(0).normal(size=(*size, 3)).astype(np.float32)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    size=st.tuples(st.integers(1, 11), st.integers(2, 19), st.integers(2, 19)),
    chunks=st.lists(st.integers(1, 4), min_size=12, max_size=12),
)
def test_pad_then_crop_is_the_identity(size, chunks):
    video = frames_of(size)
    fit = padding.grid_padding(CONFIG, size, rule="pad")
    padded = np.stack(list(fit.pad(iter(video))))
    assert padded.shape == (*fit.grid, 3)
    CONFIG.latent_grid(*fit.grid)
    r, s = CONFIG.temporal_ratio, CONFIG.spatial_ratio
    assert all(
        0 <= g - n < step for g, n, step in zip(fit.grid, size, (r, s, s), strict=True)
    )
    ends = [0, *itertools.accumulate(chunks)]
    pieces = (padded[a:b] for a, b in itertools.pairwise(ends))
    cropped = [c for c in fit.crop(pieces) if len(c)]
    np.testing.assert_array_equal(np.concatenate(cropped), video[: ends[-1]])


def test_padding_repeats_the_last_of_everything():
    video = frames_of((2, 3, 5))
    fit = padding.grid_padding(CONFIG, (2, 3, 5), rule="pad")
    padded = np.stack(list(fit.pad(video)))
    np.testing.assert_array_equal(padded[2:], padded[1:2].repeat(len(padded) - 2, 0))
    np.testing.assert_array_equal(padded[:, -1, -1], padded[:, 2, 4])


def test_what_fits_is_left_alone():
    size = CONFIG.video_shape(2, 1, 3)
    assert padding.grid_padding(CONFIG, size, rule="pad") == padding.grid_padding(
        CONFIG, size, rule="refuse"
    )


def test_what_does_not_fit_is_refused_with_the_nearest_sizes():
    frames, height, width = CONFIG.video_shape(3, 2, 2)
    r, s = CONFIG.temporal_ratio, CONFIG.spatial_ratio
    with pytest.raises(ValueError, match=f"use {frames} or {frames + r}"):
        padding.grid_padding(CONFIG, (frames + 1, height, width), rule="refuse")
    with pytest.raises(ValueError, match=f"use {height} or {height + s}"):
        padding.grid_padding(CONFIG, (frames, height + 1, width), rule="refuse")


@pytest.mark.parametrize("rule", ["refuse", "pad"])
@pytest.mark.parametrize("size", [(0, 8, 8), (1, 0, 8)])
def test_an_empty_video_is_refused(size, rule):
    with pytest.raises(ValueError, match="no video"):
        padding.grid_padding(CONFIG, size, rule=rule)


def test_cropping_draws_every_chunk():
    """What comes after the last frame that is kept may still find an error."""
    fit = padding.grid_padding(CONFIG, (1, 8, 8), rule="pad")

    def chunks():
        yield frames_of(fit.grid)
        raise ValueError("cut short")

    with pytest.raises(ValueError, match="cut short"):
        list(fit.crop(chunks()))
