"""Transitions begin as both sides going on by themselves, dissolved."""

import dataclasses

import numpy as np
import pytest

from soraflax.generation import conditioning, generator, tasks, transitions
from tests.generation import tiny

STEPS = generator.SamplingConfig(steps=2, guidance=1.0)


@pytest.fixture(scope="module")
def model():
    return generator.Generator(tiny.model())


def clip(frames, level):
    noise = np.random.default_rng(level).integers(0, 20, (frames, 32, 32, 3))
    return (level + noise).astype(np.uint8)


def connected(model, *, strength=0.5, frames=8):
    how = {"frames": frames, "context": 4, "fps": 8.0, "strength": strength}
    return tasks.connect(model.grid, clip(9, 20), second=clip(11, 200), **how)


def test_sides_go_on_from_their_clips_over_all_new_frames(model):
    given = connected(model)
    assert given.sides is not None
    onward, before = given.sides
    new = int((~given.keep_mask.any(axis=(1, 2))).sum())
    assert new == 8
    # As many tokens as the transition itself, so that more of a clip is shown.
    assert onward.frames == given.frames == before.frames
    whole = np.flatnonzero(np.all(onward.keep_mask, axis=(1, 2)))
    shown = onward.video[whole[whole < len(onward.video)]]
    np.testing.assert_array_equal(shown, clip(9, 20)[-5:])
    kept = before.video[before.keep_mask.all(axis=(1, 2))]
    np.testing.assert_array_equal(kept, clip(11, 200)[:4])
    assert onward.length == 5 + new and before.length == 1 + new


def test_a_loop_and_pure_noise_have_no_sides(model):
    assert connected(model, strength=1.0).sides is None
    looped = tasks.loop(model.grid, clip(9, 20), frames=8, context=4, fps=8.0)
    assert looped.sides is None


def test_one_side_goes_over_into_the_other_and_nothing_else_changes(model):
    given = connected(model)
    job = conditioning.Job(given, "a")
    black, white = (np.full((13, 32, 32, 3), v, np.uint8) for v in (0, 255))
    mixed = transitions.dissolved(job, onward=black, before=white[:9])
    begun = mixed.conditioning
    new = np.logical_not(given.keep_mask.any(axis=(1, 2)))
    levels = begun.video[new].mean(axis=(1, 2, 3))
    assert (np.diff(levels) > 0).all()
    # Slow at both ends, symmetric about the middle.
    assert levels[0] < 255 / 9 / 2 and levels[0] + levels[-1] == pytest.approx(255, 1)
    assert np.diff(levels)[3] > 2 * levels[0]
    np.testing.assert_array_equal(begun.video[~new], given.video[~new])
    assert begun.sides is None and mixed.text == "a"


def test_each_side_is_what_it_is_alone(model):
    given = connected(model)
    job = conditioning.Job(given, "a red circle", seed=3)
    (begun,) = generator._begun(
        model, [job], config=STEPS, observer=generator.progress_lib.Observer()
    )
    assert given.sides is not None
    onward, before = given.sides
    seed = generator._next_seed(3)
    alone = [
        model([conditioning.Job(onward, "", seed=3)], STEPS)[0],
        model([conditioning.Job(before, "a red circle", seed=seed)], STEPS)[0],
    ]
    expected = transitions.dissolved(job, onward=alone[0], before=alone[1])
    np.testing.assert_array_equal(begun.conditioning.video, expected.conditioning.video)
    assert (begun.conditioning.video != given.video).any()


def test_steps_are_counted_over_both_sides_and_the_transition(model):
    job = conditioning.Job(connected(model), "a")
    plain = dataclasses.replace(model.prompt("a", size=(32, 32), frames=5))
    counted, previews = [], []

    def watch(step):
        counted.append((step.done, step.total))
        previews.append([latent.shape[0] for latent in step.latents()])

    videos = model([job, plain], STEPS, callback=watch)
    done, totals = zip(*counted, strict=True)
    assert list(done) == sorted(done) and done[-1] == totals[-1]
    assert {tuple(shapes) for shapes in previews} == {(4, 2)}
    np.testing.assert_array_equal(videos[0][:9], clip(9, 20))
    np.testing.assert_array_equal(videos[0][-11:], clip(11, 200))
