"""Generation with an untrained tiny model: what holds whatever the parameters are."""

import dataclasses

import jax
import numpy as np
import pytest

from soraflax.diffusion import guidance, samplers
from soraflax.generation import batching, sampling, tasks
from soraflax.generation import canvas as canvases
from soraflax.generation import generator as generators
from soraflax.ops import grid as grids
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models
from tests.generation import tiny

# Text and arguments of `Generator.prompt`.
PROMPTS = [
    ("a red circle moves right", {"size": (32, 32), "frames": 9, "seed": 3}),
    ("two squares", {"size": (48, 16), "frames": 5, "seed": 4, "fps": 4.0}),
    ("a still image", {"size": (16, 48), "frames": 1, "seed": 5}),
]
FAST = generators.SamplingConfig(steps=2, guidance=3.0)


@pytest.fixture(scope="module")
def generator():
    return generators.Generator(tiny.model())


def prompt(generator, index=0, **change):
    """The job of a prompt."""
    text, arguments = PROMPTS[index]
    return generator.prompt(change.pop("text", text), **(arguments | change))


@pytest.fixture(scope="module")
def jobs(generator):
    return [prompt(generator, index) for index in range(3)]


@pytest.fixture(scope="module")
def canvas(generator, jobs):
    return generator.canvas(jobs[0])


@pytest.fixture(scope="module")
def videos(generator, jobs):
    return generator(jobs, FAST)


def test_sizes_and_types(videos):
    assert [v.shape for v in videos] == [
        (9, 32, 32, 3),
        (5, 16, 48, 3),
        (1, 48, 16, 3),
    ]
    assert all(v.dtype == np.uint8 and v.std() > 0 for v in videos)


def test_the_same_again(generator, jobs, videos):
    for a, b in zip(videos, generator(jobs, FAST), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 99},
        {"text": "something else entirely"},
        {"fps": 2.0},
        {"negative": "blurry"},
    ],
)
def test_every_field_matters(generator, videos, change):
    (found,) = generator([prompt(generator, **change)], FAST)
    assert (found != videos[0]).any()


def test_guidance_one_ignores_the_negative_prompt(generator):
    plain = dataclasses.replace(FAST, guidance=1.0)
    a, b = (
        generator([prompt(generator, negative=negative)], plain)[0]
        for negative in ("", "blurry")
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", list(samplers.SAMPLERS))
def test_nothing_compiles_again(generator, name):
    """For what fits the row: text, seed, size, mask, strength, steps, guidance."""
    sampler = samplers.SAMPLERS[name]
    generator([prompt(generator)], dataclasses.replace(FAST, sampler=sampler))
    before = generator.denoiser.compiled
    job = prompt(generator, text="it falls", size=(48, 32), frames=5, fps=6.0, seed=8)
    canvas = generator.canvas(dataclasses.replace(job, negative="bad"))
    canvas = dataclasses.replace(canvas, strength=0.6)
    canvas.cond_mask[0] = True
    config = generators.SamplingConfig(
        steps=3, guidance=1.7, sampler=sampler, rescale=0.3, zero_init=1
    )
    generator.fill([canvas], config)
    assert generator.denoiser.compiled == before


def partly_known(shape=(3, 4, 4, 4), strength=1.0):
    rng = np.random.default_rng(0)
    known = np.zeros(shape[:3], bool)
    known[0] = True
    latent = rng.normal(size=shape).astype(np.float32)
    return canvases.Canvas(latent, known, strength=strength, text="a dot", seed=1)


@pytest.mark.parametrize("name", list(samplers.SAMPLERS))
def test_every_sampler_fills_every_canvas(generator, name):
    image = dataclasses.replace(canvases.Canvas.empty((1, 4, 4, 4)), seed=1)
    work = [partly_known(), partly_known(strength=0.0), partly_known(strength=0.4)]
    config = dataclasses.replace(FAST, steps=3, sampler=samplers.SAMPLERS[name])
    found = generator.fill([image, *work], config)
    assert all(np.isfinite(latent).all() for latent in found)
    for canvas, latent in zip(work, found[1:], strict=True):
        np.testing.assert_array_equal(latent[0], canvas.latent[0])
    np.testing.assert_allclose(found[2], work[1].latent, atol=1e-5)
    assert np.abs(found[3] - work[2].latent).max() > 1e-3


def test_steps_outside_of_the_interval_cost_one_copy(generator, canvas):
    copies = []
    step = generator.denoiser._step
    base = dataclasses.replace(FAST, steps=4)
    plain = generator.fill([canvas], dataclasses.replace(base, guidance=1.0))
    try:
        generator.denoiser._step = lambda spec, *args, **rest: (
            copies.append(spec.guided) or step(spec, *args, **rest)
        )
        nothing, some = (
            generator.fill([canvas], dataclasses.replace(base, interval=interval))
            for interval in ((0.0, 0.0), (0.0, 0.85))
        )
        every = generator.fill([canvas], base)
    finally:
        generator.denoiser._step = step
    first, second, third = copies[:4], copies[4:8], copies[8:]
    assert not any(first) and all(third)
    assert second == sorted(second) and 0 < sum(second) < 4
    np.testing.assert_array_equal(nothing[0], plain[0])
    assert (some[0] != plain[0]).any() and (some[0] != every[0]).any()


def test_refinements_of_guidance_matter_unless_they_are_0(generator, canvas):
    config = dataclasses.replace(FAST, steps=3)
    plain = generator.fill([canvas], config)[0]
    same = dataclasses.replace(config, rescale=0.0, zero_init=0, interval=(0.0, 1.0))
    np.testing.assert_array_equal(generator.fill([canvas], same)[0], plain)
    for change in ({"rescale": 0.8}, {"zero_init": 1}):
        other = generator.fill([canvas], dataclasses.replace(config, **change))[0]
        assert np.isfinite(other).all() and np.abs(other - plain).max() > 1e-3


def test_skip_guidance_costs_a_copy_where_it_is_asked_for(generator, canvas):
    copies, step = [], generator.denoiser._step
    base = dataclasses.replace(FAST, steps=4)
    skips = {
        name: guidance.SkipGuidance((0,), 1.0, interval)
        for name, interval in (("none", (0.0, 0.0)), ("some", (0.0, 0.85)))
    }
    plain = generator.fill([canvas], base)[0]
    try:
        generator.denoiser._step = lambda spec, *args, **rest: (
            copies.append(spec.copies) or step(spec, *args, **rest)
        )
        found = {
            name: generator.fill([canvas], dataclasses.replace(base, skip=skip))[0]
            for name, skip in skips.items()
        }
        alone = dataclasses.replace(base, guidance=1.0, skip=skips["some"])
        without = generator.fill([canvas], alone)[0]
    finally:
        generator.denoiser._step = step
    assert copies[:4] == [2] * 4
    assert copies[4:8] == sorted(copies[4:8]) and {*copies[4:8]} == {2, 3}
    assert {*copies[8:]} == {1, 2}
    np.testing.assert_array_equal(found["none"], plain)
    for other in (found["some"], without):
        assert np.isfinite(other).all() and np.abs(other - plain).max() > 1e-3


def test_skip_guidance_is_equation_3(generator, canvas):
    """By a model whose block adds nothing, in a sampler's one step to level 0."""
    config = dataclasses.replace(FAST, steps=1, guidance=1.0)
    skip = guidance.SkipGuidance((0,), 0.5)
    found = generator.fill([canvas], dataclasses.replace(config, skip=skip))[0]

    def silent(path, leaf):
        return 0 * leaf if {"out", "down"} & {key.key for key in path} else leaf

    params = dict(generator.model.params)
    params["stack"] = jax.tree_util.tree_map_with_path(silent, params["stack"])
    fewer = dataclasses.replace(generator.model, params=params)
    plain = generator.fill([canvas], config)[0]
    skipped = generators.Generator(fewer).fill([canvas], config)[0]
    # Its end is linear in the prediction.
    np.testing.assert_allclose(found, plain + 0.5 * (plain - skipped), atol=1e-3)
    assert np.abs(plain - skipped).max() > 1e-2


def test_a_block_that_the_model_does_not_have_is_refused(generator, canvas):
    config = dataclasses.replace(FAST, skip=guidance.SkipGuidance((99,)))
    with pytest.raises(ValueError, match="skipped block 99: the model has 0 to"):
        generator.fill([canvas], config)


def test_steps_show_latents_with_what_is_known(generator):
    canvas, image = partly_known(), canvases.Canvas.empty((1, 4, 6, 4))
    seen = []
    filled = generator.fill(
        [canvas, image],
        dataclasses.replace(FAST, steps=3),
        callback=lambda step: seen.append(step.latents()),
    )
    assert len(seen) == 3
    for first, second in seen:
        assert first.shape == canvas.latent.shape and second.shape == (1, 4, 6, 4)
        assert np.isfinite(first).all() and np.isfinite(second).all()
        np.testing.assert_array_equal(first[0], canvas.latent[0])
    assert (seen[0][0][1:] != seen[-1][0][1:]).any()
    untouched = generator.fill([canvas, image], dataclasses.replace(FAST, steps=3))
    np.testing.assert_array_equal(filled[0], untouched[0])


def test_a_callback_stops_with_what_is_made_so_far(generator):
    canvas, config = partly_known(), dataclasses.replace(FAST, steps=5)
    seen = []

    def stop(step):
        seen.append(step.latents()[0])
        return step.done == 2

    (filled,) = generator.fill([canvas], config, callback=stop)
    assert len(seen) == 2
    np.testing.assert_array_equal(filled, seen[-1])
    np.testing.assert_array_equal(filled[0], canvas.latent[0])


def test_a_stopped_job_has_all_its_frames_and_what_was_given(generator):
    video = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
    given = tasks.extend(
        generator.grid, video, direction="backward", frames=5, context=4, fps=8.0
    )
    steps = []

    def stop(step):
        steps.append((step.done, step.total))
        return True

    (stopped,) = generator([generators.Job(given)], FAST, callback=stop)
    assert steps == [(1, 4)]
    assert stopped.shape == (14, 32, 32, 3)
    np.testing.assert_array_equal(stopped[5:], video)


def test_known_latents_come_back_bit_for_bit(generator):
    canvas = partly_known()
    (filled,) = generator.fill([canvas], FAST)
    np.testing.assert_array_equal(filled[0], canvas.latent[0])
    assert (filled[1:] != canvas.latent[1:]).any()
    latent = canvas.latent + canvas.cond_mask[..., None]
    (other,) = generator.fill([dataclasses.replace(canvas, latent=latent)], FAST)
    assert (np.abs(other[1:] - filled[1:]) > 1e-6).any()


def test_progress_counts_every_step(generator, canvas):
    seen = []
    config = dataclasses.replace(FAST, rows=1)
    generator.fill(
        [dataclasses.replace(canvas, seed=i) for i in range(30)],
        config,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = seen[-1][1]
    assert total > 2
    assert seen == [(i + 1, total) for i in range(total)]


def test_nothing_asked_nothing_made(generator):
    assert generator([]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 80}, "80 frames: use 77 or 81"),
        ({"size": (97, 64)}, "97 pixels wide: use 96 or 112"),
        ({"size": (16000, 16000)}, "16000 pixels high: use 8192 or less"),
        ({"size": (8192, 8192)}, "786432 tokens, more than 131072: use"),
        ({"frames": 10**6 + 1}, "1000001 frames: use 65533 or less"),
        ({"fps": 0.0}, "0.0 frames per second"),
        ({"seed": -1}, "seed -1: use one from 0"),
        ({"seed": 2**32}, "seed 4294967296"),
        ({"text": "word " * 500}, "at most 32 fit"),
    ],
)
def test_impossible_prompts_are_refused(generator, change, message):
    with pytest.raises(ValueError, match=message):
        generator([prompt(generator, **change)], FAST)


def test_impossible_canvas_is_refused(generator):
    side = 2 * int(grids.MAX_TOKENS**0.5) + 2
    canvas = canvases.Canvas.empty((1, side, side, generator.grid.channels))
    with pytest.raises(ValueError, match="pixels or less, or tiles"):
        generator.fill([canvas], FAST)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generators.SamplingConfig(steps=0), "use 1 or more"),
        (lambda: generators.SamplingConfig(guidance=float("nan")), "finite"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_latents_that_are_no_numbers_are_refused(generator, strange, monkeypatch):
    job, sampled = prompt(generator), generator.denoiser.sample

    def broken(*args):
        for state in sampled(*args):
            yield state.replace(x=state.x.at[:, 0].set(strange))

    monkeypatch.setattr(generator.denoiser, "sample", broken)
    with pytest.raises(ValueError, match="standard deviations, which is no picture"):
        generator([job], FAST)


def tiles(generator, count, **change):
    canvas = generator.canvas(prompt(generator, **change))
    return generator.schedule([canvas] * count, FAST).tiles(0)


def test_rows_hold_what_they_can(generator):
    shape = tiny.ROW
    many = tiles(generator, 25)
    rows = batching.pack_rows(many, shape)
    assert sorted(tile.number for row in rows for tile in row) == list(range(25))
    for row in rows:
        assert len(row) <= shape.segments
        assert sum(len(tile.segment) for tile in row) <= shape.tokens
        assert sum(len(tile.segment.text) for tile in row) <= shape.text


def test_capacity_follows_what_is_asked(generator):
    def capacity(count, **change):
        found = tiles(generator, count, **change)
        return batching.row_shape(found, tiny.ROW, block=32).tokens

    assert capacity(1) == 256
    assert capacity(50) == tiny.ROW.tokens
    assert capacity(1, size=(320, 320), frames=9) == 1216


def test_noise_is_a_function_of_seed_number_and_step():
    segments = np.asarray([[1, 1, 2, 2, 0]], np.int32)
    seeds = np.asarray([[0, 7, 7]], np.uint32)
    noise_ids = np.asarray([[0, 1, 0, 1, 0]], np.int32)

    def draw(step):
        return np.asarray(
            sampling.token_noise(
                segments, seeds=seeds, noise_ids=noise_ids, index=np.int32(step), size=4
            )
        )

    np.testing.assert_array_equal(draw(0)[0, :2], draw(0)[0, 2:4])
    assert (draw(0)[0, 0] != draw(0)[0, 1]).all()
    assert (draw(0)[0, :4] != draw(1)[0, :4]).all()


def test_saved_and_loaded(tmp_path, videos):
    model = tiny.model()
    ae = tmp_path / "ae" / "model"
    tiny.save(tmp_path)
    assert models.load_autoencoder(ae).encoder_digest == model.config.autoencoder
    for place in ("video", "video/model"):
        loaded = models.load_video_model(tmp_path / place)
        assert loaded.config == model.config
        assert loaded.tokenizer == model.tokenizer
        jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    loads = [generators.Generator.load(tmp_path / "video") for _ in range(2)]
    first, second = (load([prompt(load, 2)], FAST)[0] for load in loads)
    assert first.tobytes() == second.tobytes()
    np.testing.assert_allclose(first.astype(int), videos[2].astype(int), atol=1)
    with pytest.raises(ValueError, match="'autoencoder', not 'video'"):
        generators.Generator.load(ae)
    with pytest.raises(ValueError, match="'video', not 'autoencoder'"):
        models.load_autoencoder(tmp_path / "video")
    other = dataclasses.replace(model.config, autoencoder="0" * 64)
    with pytest.raises(ValueError, match="trained on latents of 000000000000"):
        models.save_video_model(
            tmp_path / "other",
            model.params,
            config=other,
            autoencoder_dir=ae,
            vocabulary=model.tokenizer,
        )
    with pytest.raises(FileNotFoundError, match="no such directory"):
        generators.Generator.load(tmp_path / "nowhere")


def test_two_experts_share_the_levels(generator, jobs, tmp_path):
    """Alike they are one; else the second takes over at the boundary, in one file."""
    one = tiny.model()
    other = jax.tree.map(lambda a: 0.5 * a, one.params)
    work = [generator.canvas(job) for job in jobs]

    def fill(high, low, boundary):
        config = dataclasses.replace(one.config, boundary=boundary)
        params = {"high": high, "low": low}
        model = dataclasses.replace(one, config=config, params=params)
        return model, generators.Generator(model).fill(work, FAST)

    alone = generator.fill(work, FAST)
    cases = [
        (one.params, one.params, 0.5, True),
        (one.params, other, 0.9, False),
    ]
    for high, low, boundary, same in cases:
        model, found = fill(high, low, boundary)
        for a, b in zip(found, alone, strict=True):
            error = np.abs(a - b).max() / np.abs(b).max()
            assert error <= 1e-5 if same else error > 1e-2
    tiny.save(tmp_path)
    models.save_video_model(
        tmp_path / "two",
        model.params,
        config=model.config,
        autoencoder_dir=tmp_path / "ae",
        vocabulary=model.tokenizer,
    )
    again = models.load_video_model(tmp_path / "two")
    assert again.config == model.config and again.digest == model_io.digest(
        model.params
    )
