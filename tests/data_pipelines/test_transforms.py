import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines import transforms
from soraflax import media
from soraflax.ops import grid as grids
from soraflax.ops import patch
from tests.data_pipelines import clip_data

GRIDS = (
    grids.Grid(4, 8, (1, 2, 2)),
    grids.Grid(4, 8, (1, 2, 4)),
    grids.Grid(2, 4, (2, 2, 2)),
    grids.Grid(1, 1),
)


@st.composite
def plans(draw):
    grid = draw(st.sampled_from(GRIDS))
    config = transforms.FitConfig(
        max_tokens=draw(st.integers(1, 3000)),
        max_frames=draw(st.integers(grid.min_frames, 100)),
        max_side=draw(st.sampled_from([0, 40, 64, 256])),
        min_side=draw(st.sampled_from([0, 64])),
        fps=draw(st.sampled_from([0.0, 8.0, 24.0])),
    )
    native = draw(st.tuples(*[st.integers(1, n) for n in (400, 1500, 1500)]))
    fps = draw(st.sampled_from([1.0, 8.0, 29.97, 60.0]))
    return grid, config, native, fps


def plan_fit(grid, config, native, fps):
    """Outside of the strategy: what checks types there draws at random."""
    frames, height, width = native
    return transforms.plan_fit(
        frames, height, width=width, fps=fps, grid=grid, config=config
    )


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(plans())
def test_every_clip_gets_a_legal_size_within_the_limits(plan):
    grid, config = plan[:2]
    fit = plan_fit(*plan)
    latent = grid.latent_shape(fit.frames, fit.height, fit.width)
    assert patch.patch_grid(latent, grid.patch) == fit.grid
    assert 1 <= fit.tokens <= max(config.max_tokens, 1)
    assert fit.frames <= config.max_frames
    assert (
        fit.max_start >= 0
        and fit.max_start + min(fit.span, fit.native[0]) == fit.native[0]
    )
    assert fit.repeated_frames == 0 or fit.frames == grid.min_frames
    assert fit.fps == pytest.approx(fit.native_fps / fit.stride)
    if config.max_side:
        assert fit.height <= max(config.max_side, grid.patch_sides[0])
        assert fit.width <= max(config.max_side, grid.patch_sides[1])


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(plans())
def test_sides_are_within_a_grid_step_of_one_common_scale(plan):
    grid, fit = plan[0], plan_fit(*plan)
    _, height, width = fit.native
    # The scales at which each side is less than a grid step away, nothing enlarged
    # beyond the step that rounding may add.
    low = max(
        (fit.height - grid.patch_sides[0]) / height,
        (fit.width - grid.patch_sides[1]) / width,
    )
    high = min(
        (fit.height + grid.patch_sides[0]) / height,
        (fit.width + grid.patch_sides[1]) / width,
    )
    assert low <= high and low <= 1


def test_a_clip_on_the_grid_stays_as_it_is():
    for frames, height, width in ((17, 64, 96), (1, 64, 64), (9, 96, 64)):
        fit = _fit(frames, height, width)
        assert (fit.frames, fit.height, fit.width) == (frames, height, width)
        assert fit.trimmed_seconds == fit.max_start == fit.repeated_frames == 0


def test_long_fast_clips_are_subsampled_and_cut():
    fit = _fit(100, 64, 64, fps=24.0, config=transforms.FitConfig(max_frames=20, fps=8))
    assert (fit.frames, fit.stride, fit.fps) == (17, 3, 8.0)
    assert fit.trimmed_seconds == pytest.approx((100 - 51) / 24)


def test_short_clips_become_shorter_ones_or_images():
    assert [_fit(n, 64, 64).frames for n in (1, 3, 4, 5, 8, 9)] == [1, 1, 1, 5, 5, 9]


def test_a_patch_that_spans_time_holds_the_last_frame_of_a_short_clip():
    grid = grids.Grid(4, 8, (2, 2, 2))
    fit = _fit(2, 64, 64, grid=grid)
    assert (fit.frames, fit.repeated_frames, fit.grid) == (5, 3, (1, 4, 4))


def test_over_budget_frames_go_before_the_shorter_side_does():
    wide = transforms.FitConfig(max_tokens=64, max_frames=17)
    assert _fit(17, 128, 128, config=wide).frames == 17
    kept = transforms.FitConfig(max_tokens=64, max_frames=17, min_side=80)
    fit = _fit(17, 128, 128, config=kept)
    assert fit.frames < 17 and fit.height >= 80


def test_limits_that_admit_nothing_and_empty_clips_are_refused():
    with pytest.raises(ValueError, match="0 tokens"):
        _fit(1, 64, 64, config=transforms.FitConfig(max_tokens=0))
    with pytest.raises(ValueError, match="is empty"):
        _fit(0, 64, 64)


def test_report_says_what_became_of_each_clip():
    clips = [("a", _fit(100, 97, 64)), ("b", _fit(1, 640, 480))]
    lines = list(transforms.fit_report(clips))
    assert [line["id"] for line in lines] == ["a", "b"]
    assert lines[0]["native"] == {"frames": 100, "height": 97, "width": 64}
    assert lines[0]["fitted"]["height"] == 96
    assert lines[0]["trimmed_seconds"] == pytest.approx(19 / 8)
    json.dumps(lines)


def test_decoded_window_starts_where_it_was_told():
    clip = clip_data.clip(3)
    assert clip.frames == 21
    fit = _fit(21, 80, 48, config=transforms.FitConfig(max_frames=5))
    video = transforms.decode_fitted(clip.video, fit, start=7)
    assert video.shape == (5, 80, 48, 3)
    np.testing.assert_allclose(video[:, 0, 0, 1], 8 * np.arange(7, 12), atol=3)


def test_short_clip_is_held_and_a_wrong_announcement_is_refused():
    video = np.zeros((2, 16, 16, 3), np.uint8)
    video[1] = 200
    data = media.encode_lossless(video, 8.0)
    grid = grids.Grid(4, 8, (2, 2, 2))
    out = transforms.decode_fitted(data, _fit(2, 16, 16, grid=grid))
    np.testing.assert_allclose(out[:, 0, 0, 0], [0, 200, 200, 200, 200], atol=3)
    with pytest.raises(ValueError, match="5 frames of 16x16 were announced, 2 frames"):
        transforms.decode_fitted(data, _fit(5, 16, 16), name="x")


def test_resize_keeps_flat_colour_and_does_not_alias():
    flat = np.full((2, 30, 50, 3), 77, np.uint8)
    assert (transforms.resize(flat, 16, width=32) == 77).all()
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = transforms.resize(np.repeat(checker[None, ..., None], 3, -1), 16, width=16)
    assert np.abs(small.astype(int) - 127).max() < 16


def test_captions_follow_weights_and_dropout():
    captions = {"short": "s", "detailed": "d"}
    config = transforms.CaptionConfig(
        names=("short", "detailed", "absent"), weights=(3.0, 1.0, 9.0), dropout=0.2
    )
    rng = np.random.default_rng(0)
    drawn = [transforms.choose_caption(captions, config, rng=rng) for _ in range(4000)]
    share = {text: drawn.count(text) / len(drawn) for text in set(drawn)}
    assert share == pytest.approx({"": 0.2, "s": 0.6, "d": 0.2}, abs=0.03)


def test_captions_fall_back_on_what_the_clip_has():
    rng = np.random.default_rng(0)
    config = transforms.CaptionConfig(names=("human",), dropout=0.0)
    assert transforms.choose_caption({"short": "s"}, config, rng=rng) == "s"
    assert transforms.choose_caption({}, config, rng=rng) == ""
    with pytest.raises(ValueError, match="2 caption weights for 1"):
        transforms.CaptionConfig(names=("a",), weights=(1.0, 2.0))


def test_latent_becomes_a_normalised_segment_with_physical_time():
    transform = transforms.LatentTransform(
        patch=(1, 2, 2),
        mean=np.full(4, 1.0, np.float32),
        std=np.full(4, 2.0, np.float32),
        reference_fps=8.0,
        captions=transforms.CaptionConfig(dropout=0.0, max_length=5),
        encode=clip_data.encode_text,
    )
    latent = np.full((3, 4, 6, 4), 5.0, np.float16)
    segment = transform(
        latent, fps=4.0, captions={"a": "abcdef"}, rng=np.random.default_rng(0)
    )
    assert segment.tokens.shape == (3 * 2 * 3, 16) and (segment.tokens == 2).all()
    assert segment.positions[:, 0].tolist() == [0.0] * 6 + [2.0] * 6 + [4.0] * 6
    assert segment.positions[:6, 1:].tolist() == [
        [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]
    ]  # fmt: skip
    assert not segment.cond_mask.any() and clip_data.decode_text(segment.text) == "abcd"


def _fit(frames, height, width, *, fps=8.0, grid=None, config=None):
    return transforms.plan_fit(
        frames,
        height,
        width=width,
        fps=fps,
        grid=grid or grids.Grid(4, 8, (1, 2, 2)),
        config=config or transforms.FitConfig(),
    )


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 999))
def test_windows_begin_inside_and_have_something_to_do(frames, probability, seed):
    rng = np.random.default_rng(seed)
    start, given = transforms.sample_window(frames, probability, rng=rng)
    if frames < 3 or not probability:
        assert (start, given) == (0, 0)
    if start:
        assert start >= 1 and given >= 1 and start + given < frames
    else:
        assert given == 0


def test_windows_begin_at_every_frame_as_often_as_asked():
    rng = np.random.default_rng(0)
    drawn = [transforms.sample_window(5, 0.5, rng=rng) for _ in range(2000)]
    assert {start for start, _ in drawn} == {0, 1, 2, 3}
    assert {given for start, given in drawn if start == 1} == {1, 2, 3}
    assert 0.45 < np.mean([start > 0 for start, _ in drawn]) < 0.55
    before = rng.bit_generator.state
    assert transforms.sample_window(5, 0.0, rng=rng) == (0, 0)
    assert rng.bit_generator.state == before
