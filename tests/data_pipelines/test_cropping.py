import numpy as np
import pytest

from data_pipelines import cropping, records, sources
from soraflax import media
from tests.data_pipelines import clip_data

SHAPES = ((1, 64, 64), (9, 64, 64), (5, 32, 48))


def batches(*, seed=0, host=(0, 1), batch=3, clips=12, **config):
    stored = [clip_data.clip(index) for index in range(clips)]
    return cropping.CropBatches(
        clips=sources.stream([stored], seed=seed),
        draws=len(stored),
        config=cropping.CropConfig(shapes=SHAPES, **config),
        batch=batch,
        seed=seed,
        host=host,
    )


def ramp(frames=9, height=40, width=60):
    """A clip whose pixels are their own row, column and frame."""
    video = np.empty((frames, height, width, 3), np.uint8)
    video[..., 0] = 4 * np.arange(height)[:, None]
    video[..., 1] = 4 * np.arange(width)
    video[..., 2] = 20 * np.arange(frames)[:, None, None]
    data = media.encode_lossless(video, 8.0)
    return records.ClipRecord("ramp", data, 8.0, frames, height, width, {})


def test_each_batch_has_one_shape_and_all_shapes_come():
    made = batches()
    seen = {made[step]["video"].shape for step in range(15)}
    assert seen == {(3, *shape, 3) for shape in SHAPES}
    assert made[0]["video"].dtype == np.uint8


def test_a_batch_is_a_function_of_seed_and_step():
    first, again, other = batches()[4], batches()[4], batches(seed=1)[4]
    np.testing.assert_array_equal(first["video"], again["video"])
    assert not np.array_equal(first["video"], other["video"])


def test_hosts_share_the_shape_and_divide_the_batch():
    whole = batches(batch=4)
    parts = [batches(batch=2, host=(index, 2)) for index in range(2)]
    for step in range(3):
        merged = np.concatenate([part[step]["video"] for part in parts])
        np.testing.assert_array_equal(merged, whole[step]["video"])


def test_weights_choose_shapes():
    made = batches(weights=(0.0, 1.0, 0.0))
    assert {made.shape(step) for step in range(20)} == {SHAPES[1]}


def test_a_native_crop_is_cut_out_unchanged():
    out = cropping.random_crop(
        ramp(),
        (5, 16, 24),
        frames=cropping.FrameCache(cropping.CropConfig(resize=0.0)),
        rng=np.random.default_rng(0),
    ).astype(int)
    assert out.shape == (5, 16, 24, 3)
    np.testing.assert_allclose(np.diff(out[..., 0], axis=1), 4, atol=5)
    np.testing.assert_allclose(np.diff(out[:, 0, 0, 2]), 20, atol=5)


def test_of_several_places_the_one_that_varies_most_is_taken():
    video = np.full((5, 64, 64, 3), 90, np.uint8)
    video[:, 40:56, 8:24] = 200
    clip = records.ClipRecord(
        "body", media.encode_lossless(video, 8.0), 8.0, 5, 64, 64, {}
    )

    def bodies(places: int) -> int:
        config = cropping.CropConfig(resize=0.0, places=places)
        frames, rng = cropping.FrameCache(config), np.random.default_rng(0)
        crops = [
            cropping.random_crop(clip, (5, 24, 24), frames=frames, rng=rng)
            for _ in range(40)
        ]
        return sum(int(crop.max() > 150 > crop.min()) for crop in crops)

    assert bodies(1) < 30
    assert bodies(16) == 40


def test_a_resized_crop_keeps_the_aspect_ratio():
    out = cropping.random_crop(
        ramp(height=64, width=64),
        (1, 32, 32),
        frames=cropping.FrameCache(cropping.CropConfig(resize=1.0)),
        rng=np.random.default_rng(1),
    ).astype(float)
    down = (out[0, -4, 8, 0] - out[0, 4, 8, 0]) / 24
    across = (out[0, 8, -4, 1] - out[0, 8, 4, 1]) / 24
    assert down == pytest.approx(across, rel=0.1) and 4.2 < down < 8.2


def test_frame_rate_is_subsampled():
    out = cropping.random_crop(
        ramp(),
        (3, 16, 16),
        frames=cropping.FrameCache(cropping.CropConfig(resize=0.0, fps=4.0)),
        rng=np.random.default_rng(0),
    ).astype(int)
    np.testing.assert_allclose(np.diff(out[:, 0, 0, 2]), 40, atol=5)


def test_large_clips_are_scaled_down_before_they_are_cropped():
    config = cropping.CropConfig(resize=0.0, max_side=30)
    store = cropping.FrameCache(config)
    assert cropping.reduced_size(ramp(), config) == (9, 20, 30)
    out = cropping.random_crop(
        ramp(), (1, 16, 16), frames=store, rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(np.diff(out[0, :, 0, 0].astype(int)), 8, atol=5)


def test_batches_do_not_depend_on_what_memory_holds():
    for step in range(4):
        kept, anew = batches(fps=4.0), batches(fps=4.0, memory=0)
        for made in (kept, anew, kept):
            np.testing.assert_array_equal(made[step]["video"], anew[step]["video"])


def test_a_clip_too_small_for_every_draw_is_enlarged_and_played_back():
    small = ramp(frames=3, height=20, width=30)
    made = cropping.CropBatches(
        clips=sources.stream([[small]], seed=0),
        draws=1,
        config=cropping.CropConfig(shapes=((6, 32, 32),), resize=0.0),
        batch=1,
        seed=0,
    )
    out = made[0]["video"][0].astype(int)
    assert out.shape == (6, 32, 32, 3)
    np.testing.assert_allclose(out[:, 0, 0, 2], [0, 20, 40, 20, 0, 20], atol=5)


def test_large_clips_are_preferred():
    """A 9-frame shape takes 9-frame clips, though most of the clips are shorter."""
    made = batches(batch=8, weights=(0.0, 1.0, 0.0), resize=0.0)
    green = made[0]["video"][:, :, 0, 0, 1].astype(int)
    assert np.mean(np.all(np.diff(green, axis=1) > 4, axis=1)) > 0.9


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"shapes": ()}, "give one or more"),
        ({"shapes": ((0, 8, 8),)}, "positive sizes"),
        ({"weights": (1.0,)}, "1 weights for 2 shapes: use 2"),
        ({"places": 0}, "places 0: use 1 or more"),
    ],
)
def test_bad_configs_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        cropping.CropConfig(**config)
