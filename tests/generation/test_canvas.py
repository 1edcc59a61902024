import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soraflax.generation import canvas as canvases
from soraflax.nn import autoencoder

STATISTICS = autoencoder.LatentStatistics((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
TEXT = np.asarray([5, 1], np.int32)


def draw(seed, shape=(3, 4, 6, 3)):
    rng = np.random.default_rng(seed)
    known = np.repeat(np.repeat(rng.random((3, 2, 3)) < 0.5, 2, axis=1), 2, axis=2)
    latent = rng.normal(size=shape).astype(np.float32)
    return canvases.Canvas(latent, known, time_step=2.0, strength=0.5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_to_segment_and_back(seed):
    canvas = draw(seed)
    segment = canvases.to_segment(
        canvas, patch=(1, 2, 2), text=TEXT, statistics=STATISTICS
    )
    assert len(segment) == 18
    assert segment.cond_mask.sum() * 4 == canvas.cond_mask.sum()
    assert set(segment.positions[:, 0]) == {0.0, 2.0, 4.0}
    back = canvases.from_tokens(
        canvas, segment.tokens, patch=(1, 2, 2), statistics=STATISTICS
    )
    np.testing.assert_allclose(back, canvas.latent, atol=1e-5)
    other = canvases.from_tokens(
        canvas, 0 * segment.tokens, patch=(1, 2, 2), statistics=STATISTICS
    )
    assert (other[canvas.cond_mask] == canvas.latent[canvas.cond_mask]).all()
    np.testing.assert_allclose(
        other[~canvas.cond_mask],
        np.broadcast_to(STATISTICS.mean, (3, 4, 6, 3))[~canvas.cond_mask],
    )


def test_masks_are_whole_patches_of_the_same_latent():
    canvas = draw(0)
    known = np.zeros_like(canvas.cond_mask)
    known[0, 0, 0] = True
    with pytest.raises(ValueError, match="cuts through patches"):
        canvases.to_segment(
            canvases.Canvas(canvas.latent, known),
            patch=(1, 2, 2),
            text=TEXT,
            statistics=STATISTICS,
        )
    with pytest.raises(ValueError, match=r"mask of \(3, 4, 5\)"):
        canvases.Canvas(canvas.latent, known[:, :, :5])
    with pytest.raises(ValueError, match="use one above 0"):
        canvases.Canvas(canvas.latent, known, time_step=0.0)


def test_a_canvas_of_full_strength_tells_nothing_of_what_is_unknown():
    canvas = dataclasses.replace(draw(0), strength=1.0)
    segment = canvases.to_segment(
        canvas, patch=(1, 2, 2), text=TEXT, statistics=STATISTICS
    )
    assert not segment.tokens[~segment.cond_mask].any()
    assert segment.tokens[segment.cond_mask].any()
