"""Given pixels: what is held, what needs a second pass, what is returned."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from soraflax.generation import conditioning as givens
from soraflax.ops import grid as grids
from tests.generation import tiny

GRID = grids.Grid(temporal_ratio=4, spatial_ratio=8, channels=4, patch=(1, 2, 2))
PAIRS = grids.Grid(temporal_ratio=4, spatial_ratio=8, channels=4, patch=(2, 2, 2))


def clip(frames=9, size=(32, 32), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, *size, 3)).astype(np.uint8)


def frames_kept(*kept, size=(32, 32)):
    flags = np.asarray(kept, bool)[:, None, None]
    return np.broadcast_to(flags, (len(kept), *size)).copy()


def box(frames=9, size=(32, 32)):
    kept = np.ones((frames, *size), bool)
    kept[:, 8:24, 8:24] = False
    return kept


def test_unknown_pixels_come_from_later_then_from_earlier():
    video = clip(5, (1, 2))
    kept = np.zeros((5, 1, 2), bool)
    kept[1, 0, 0] = kept[3, 0, 0] = kept[2, 0, 1] = True
    found = givens.fill_unknown(video, kept)
    np.testing.assert_array_equal(found[:, 0, 0], video[[1, 1, 3, 3, 3], 0, 0])
    np.testing.assert_array_equal(found[:, 0, 1], video[[2] * 5, 0, 1])


def test_what_is_never_kept_comes_from_around():
    video = np.full((3, 8, 8, 3), 255, np.uint8)
    video[:, :, :4] = [10, 20, 30]
    kept = np.zeros((3, 8, 8), bool)
    kept[:, :, :4] = True
    found = givens.fill_unknown(video, kept)
    assert (found == np.asarray([10, 20, 30])).all()
    ring = clip(1, (16, 16))
    kept = np.ones((1, 16, 16), bool)
    kept[:, 5:10, 3:9] = False
    found = givens.fill_unknown(ring, kept)
    np.testing.assert_array_equal(found[kept], ring[kept])
    low, high = ring.min(axis=(0, 1, 2)), ring.max(axis=(0, 1, 2))
    assert ((found >= low) & (found <= high)).all()
    other = np.where(kept[..., None], ring, 255 - ring).astype(np.uint8)
    np.testing.assert_array_equal(givens.fill_unknown(other, kept), found)


def test_nothing_kept_is_nothing_to_fill_from():
    with pytest.raises(ValueError, match=r"^nothing is kept: there is nothing to fill"):
        givens.fill_unknown(clip(), np.zeros((9, 32, 32), bool))


@pytest.mark.parametrize(
    ("kept", "again"),
    [
        (frames_kept(0, 0, 0, 0, 0, 0, 0, 0, 0), False),
        (frames_kept(1, 0, 0, 0, 0, 0, 0, 0, 0), False),
        (frames_kept(1, 1, 1, 1, 1, 0, 0, 0, 0), False),
        (frames_kept(1, 1, 1, 1, 1, 1, 1, 1, 1), False),
        (frames_kept(1, 1, 0, 0, 0, 0, 0, 0, 0), True),
        (frames_kept(0, 0, 0, 0, 0, 1, 1, 1, 1), True),
        (frames_kept(1, 0, 0, 0, 0, 0, 0, 0, 1), True),
        (frames_kept(0, 0, 0, 0, 1, 0, 0, 0, 0), True),
        (box(), True),
    ],
)
def test_which_masks_need_a_second_pass(kept, again):
    assert givens.may_need_refinement(kept, GRID) is again


def test_a_second_pass_of_patches_of_two_frames():
    assert givens.may_need_refinement(frames_kept(*[1] * 5, *[0] * 8), PAIRS) is False
    assert givens.may_need_refinement(frames_kept(*[1] * 9, *[0] * 4), PAIRS) is True
    assert givens.may_need_refinement(frames_kept(1, *[0] * 12), PAIRS) is True


@pytest.fixture(scope="module")
def encoder():
    return tiny.model().autoencoder


def grid_of(encoder):
    c = encoder.config
    return grids.Grid(
        c.temporal_ratio, c.spatial_ratio, (1, 2, 2), channels=c.latent_channels
    )


def encode(encoder, given):
    return givens.encode(given, encoder, grid=grid_of(encoder), reference_fps=8.0)


@pytest.mark.parametrize("frames", (1, 5, 9))
def test_kept_starts_have_the_latents_of_any_continuation(encoder, frames):
    """The claim behind `needs_refinement`, asked of the encoder itself."""
    grid = grid_of(encoder)
    kept = frames_kept(*np.arange(13) < frames)
    canvas = encode(encoder, givens.Conditioning(clip(13), kept, 8.0, 13))
    known = 1 + (frames - 1) // grid.temporal_ratio
    np.testing.assert_array_equal(
        canvas.cond_mask.reshape(len(canvas.cond_mask), -1).all(axis=1),
        np.arange(len(canvas.cond_mask)) < known,
    )
    for seed in range(2):
        whole = np.where(kept[..., None], clip(13), clip(13, seed=seed))
        pixels = (whole / 127.5 - 1).astype(np.float32)
        latent = np.asarray(encoder.encode(pixels[None]))[0]
        np.testing.assert_allclose(
            canvas.latent[:known], latent[:known], atol=1e-4 * np.abs(latent).max()
        )


def test_kept_ends_have_other_latents_after_another_start(encoder):
    kept = frames_kept(*np.arange(13) >= 9)
    first = encode(encoder, givens.Conditioning(clip(13), kept, 8.0, 13))
    assert givens.may_need_refinement(kept, grid_of(encoder))
    made = np.where(kept[..., None], clip(13), clip(13, seed=1))
    given = givens.Conditioning(clip(13), kept, 8.0, 13)
    second = givens.refined(
        given, made, model=encoder, grid=grid_of(encoder), first=first, strength=0.5
    )
    np.testing.assert_array_equal(second.cond_mask, first.cond_mask)
    assert second.strength == 0.5
    known = first.cond_mask
    assert (np.abs(second.latent[known] - first.latent[known]) > 1e-3).any()


def test_the_second_pass_holds_wholly_kept_patches_only(encoder):
    kept = frames_kept(1, 0, 0, 0, 0, 0, 0, 0, 1)
    given = givens.Conditioning(clip(), kept, 8.0, 9)
    first = encode(encoder, given)
    assert first.cond_mask[:, 0, 0].tolist() == [True, False, True]
    second = givens.refined(
        given,
        clip(seed=1),
        model=encoder,
        grid=grid_of(encoder),
        first=first,
        strength=0.5,
    )
    assert second.cond_mask[:, 0, 0].tolist() == [True, False, False]


def test_kept_patches_on_literal_masks():
    kept = np.zeros((9, 32, 48), bool)
    kept[:, :16, :16] = True
    kept[4, 16:, 32:] = True
    kept[5:, 16:, 16:31] = True
    last = givens.kept_patches(kept, GRID, whole=False)
    assert last.astype(int).tolist() == [
        [[1, 0, 0], [0, 0, 0]],
        [[1, 0, 0], [0, 0, 1]],
        [[1, 0, 0], [0, 0, 0]],
    ]
    whole = givens.kept_patches(kept, GRID, whole=True)
    assert whole.astype(int).tolist() == [[[1, 0, 0], [0, 0, 0]]] * 3
    pairs = givens.kept_patches(frames_kept(*[1] * 5, *[0] * 8), PAIRS, whole=True)
    assert pairs[:, 0, 0].tolist() == [True, False]


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(seed=st.integers(0, 9999), share=st.floats(0, 1))
def test_wholly_kept_patches_are_kept_in_their_last_frame(seed, share):
    kept = np.random.default_rng(seed).random((9, 32, 32)) < share
    kept[:, :16] = True
    whole, last = (givens.kept_patches(kept, GRID, whole=w) for w in (True, False))
    assert not (whole & ~last).any() and whole[:, 0].all()


def test_strength_below_one_starts_from_the_clip(encoder):
    given = givens.Conditioning(clip(), np.zeros((9, 32, 32), bool), 4.0, 9, 0.5)
    canvas = encode(encoder, given)
    pixels = (clip() / 127.5 - 1).astype(np.float32)
    whole = np.asarray(encoder.encode(pixels[None]))[0]
    scale = np.abs(whole).max()
    np.testing.assert_allclose(canvas.latent, whole, atol=1e-4 * scale)
    assert (canvas.strength, canvas.time_step) == (0.5, 2.0)
    plain = encode(encoder, dataclasses.replace(given, strength=1.0))
    assert not plain.latent.any() and not plain.cond_mask.any()


def test_pasted_and_assembled():
    kept = frames_kept(0, 1, 1, 0, 0, size=(2, 2))
    before, after, made = (clip(n, (2, 2), seed=n) for n in (3, 2, 5))
    given = givens.Conditioning(
        clip(5, (2, 2)), kept, 8.0, 5, before=before, after=after, result_frames=4
    )
    pasted = given.paste(made)
    np.testing.assert_array_equal(pasted[[0, 3, 4]], made[[0, 3, 4]])
    np.testing.assert_array_equal(pasted[1:3], clip(5, (2, 2))[1:3])
    np.testing.assert_array_equal(
        given.assemble(pasted), np.concatenate([before, pasted[:4], after])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"keep_mask": np.zeros((9, 32, 16), bool)},
            r"^mask of \(9, 32, 16\) on a video",
        ),
        (
            {"keep_mask": np.zeros((9, 32, 32), np.uint8)},
            "a mask of uint8: give uint8 and",
        ),
        ({"video": clip().astype(np.float32)}, "^a video of float32"),
        ({"fps": 0.0}, "^0.0 frames per second: use a rate above 0$"),
        ({"fps": float("nan")}, "^nan frames per second"),
        ({"frames": 5}, "^9 frames given of 5$"),
        ({"frames": 13, "strength": 0.5}, "give all, or use strength 1$"),
        ({"strength": 1.5}, r"^strength 1.5: use a value in \[0, 1\], such as 1$"),
        ({"strength": -0.1}, r"^strength -0.1: use a value in \[0, 1\], such as 0$"),
    ],
)
def test_impossible_givens_are_refused(change, message):
    values = {"video": clip(), "keep_mask": np.zeros((9, 32, 32), bool), "fps": 8.0}
    values["frames"] = 9
    with pytest.raises(ValueError, match=message):
        givens.Conditioning(**(values | change))
