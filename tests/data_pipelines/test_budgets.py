"""Token budgets: the largest size that fits, a curriculum, and the same for all."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from data_pipelines import budgets, latents, pipeline, records, sources, transforms
from data_pipelines import reading as reading_lib
from soraflax.ops import packing
from tests.data_pipelines import clip_data, test_pipeline

CURRICULUM = budgets.BudgetConfig(
    tokens=(16, 48, 100), weights=((1, 0, 0), (1, 1, 2)), starts=(0, 40)
)
CACHE = latents.LatentCacheConfig(
    fit=transforms.FitConfig(max_frames=17), budgets=(16, 48, 100)
)
ROW = packing.RowShape(tokens=128, text=128, segments=8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return clip_data.write_clips(tmp_path_factory.mktemp("data") / "clips", train=6)


@pytest.fixture(scope="module")
def cached(clips, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "latents"
    latents.cache_latents(clips, path, encoder=clip_data.encoder(), config=CACHE)
    return latents.open_latents(path)


def tokens(record):
    t, h, w, _ = record.latent.shape
    return t * (h // 2) * (w // 2)


def video_latents(clips, config=CURRICULUM):
    return budgets.VideoLatents(
        records.open_dataset(clips),
        clip_data.encoder(),
        dataclasses.replace(CACHE, budgets=()),
        np.zeros(5, np.float32),
        np.ones(5, np.float32),
        config,
        seed=4,
    )


def test_a_curriculum_draws_what_its_stage_allows():
    early = [CURRICULUM.draw(index, seed=1) for index in range(40)]
    late = [CURRICULUM.draw(index, seed=1) for index in range(40, 1040)]
    assert set(early) == {16}
    assert np.mean(np.array(late) == 100) == pytest.approx(0.5, abs=0.05)
    assert late == [CURRICULUM.draw(index, seed=1) for index in range(40, 1040)]
    assert late != [CURRICULUM.draw(index, seed=2) for index in range(40, 1040)]


def test_a_clip_is_cached_once_for_every_budget(cached):
    assert cached.budgets == (16, 48, 100) and len(cached) == 18
    ids = [record.id for record in cached]
    assert ids[:3] == ["clip-0@16", "clip-0@48", "clip-0@100"]
    for record in cached:
        assert tokens(record) <= int(record.id.split("@")[1])
    sizes = [tokens(record) for record in cached[:3]]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("kind", ["cached", "video"])
def test_every_draw_fits_its_budget_and_the_largest_size_is_taken(clips, cached, kind):
    source = {
        "cached": budgets.BudgetedLatents(cached, CURRICULUM, (1, 2, 2), seed=4),
        "video": video_latents(clips),
    }[kind]
    assert len(source) == 6
    seen = {}
    for index in range(120):
        record = source.draw(0, index)
        budget = CURRICULUM.draw(index, seed=4)
        seen.setdefault(budget, set()).add(record.latent.shape)
    assert set(seen) == {16, 48, 100} and all(len(v) == 1 for v in seen.values())
    grid = clip_data.encoder().grid((1, 2, 2))
    for budget, (shape,) in seen.items():
        fit = transforms.FitConfig(max_tokens=budget, max_frames=17)
        plan = transforms.plan_fit(17, 64, width=96, fps=8.0, grid=grid, config=fit)
        assert (shape[0], shape[1] // 2, shape[2] // 2) == plan.grid


def test_latents_cached_once_are_cut_in_time_to_fit():
    source = clip_data.Latents(40)
    config = budgets.BudgetConfig(tokens=(48,))
    fitted = budgets.BudgetedLatents(source, config, (1, 2, 2), seed=0)
    for index in range(40):
        record, whole = fitted.draw(index, 0), source[index]
        assert tokens(record) <= 48 or record.latent.shape[0] == 1
        frames = len(record.latent)
        np.testing.assert_array_equal(record.latent, whole.latent[:frames])
        assert frames == len(whole.latent) or tokens(whole) > 48


@pytest.mark.parametrize("kind", ["cached", "video"])
def test_batches_follow_from_the_seed_alone_and_resume(clips, cached, kind):
    source = cached if kind == "cached" else video_latents(clips)
    settings = test_pipeline.config(row=ROW, budgets=CURRICULUM, seed=4)

    def batches(**read):
        config = dataclasses.replace(settings, read=reading_lib.ReadConfig(**read))
        return iter(
            pipeline.make_dataset(
                config, encode=clip_data.encode_text, latents=[source]
            )
        )

    whole = batches(threads=0, ahead=0)
    first = test_pipeline.take(whole, 4)
    state = clip_data.plain(whole.get_state())
    later = test_pipeline.take(whole, 4)
    eager = batches(threads=3, buffer=6, ahead=2)
    assert test_pipeline.equal(test_pipeline.take(eager, 4), first)
    eager.set_state(state)
    assert test_pipeline.equal(test_pipeline.take(eager, 4), later)
    eager.close()


def test_a_clip_that_cannot_be_decoded_is_replaced(clips, capsys):
    class Damaged:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            clip = records.open_dataset(clips)[index]
            return dataclasses.replace(clip, video=b"no video") if index == 2 else clip

    source = dataclasses.replace(video_latents(clips), clips=Damaged())
    stream = sources.stream([source], seed=0)
    found: list[Any] = [stream[index] for index in range(12)]
    assert "clip-2" not in {clip.id for clip in found}
    assert "another takes its place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": (0, 4)}, "use 1 token or more"),
        ({"tokens": (4,), "starts": (1,)}, "begin with 0 and increase"),
        ({"tokens": (4,), "starts": (0, 9)}, "2 starts for 1 stages: use 1"),
        ({"tokens": (4, 8), "weights": ((1.0,),)}, "1 weights for 2 budgets: use 2"),
        ({"tokens": (4,), "weights": ((float("nan"),),)}, "use finite numbers of 0"),
        ({"tokens": (4, 8), "weights": ((0.0, 0.0),)}, "one above 0"),
        ({"tokens": (4, 8), "weights": ((-1.0, 2.0),)}, "use finite numbers of 0"),
    ],
)
def test_budgets_that_cannot_be_drawn_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        budgets.BudgetConfig(**changes)


def test_a_budget_below_those_of_the_cache_is_refused(cached):
    config = budgets.BudgetConfig(tokens=(8, 100))
    with pytest.raises(ValueError, match="cached for 16 or more: use 16"):
        budgets.BudgetedLatents(cached, config, (1, 2, 2), seed=0)
    with pytest.raises(ValueError, match="use increasing numbers"):
        latents.LatentCacheConfig(budgets=(48, 16))
