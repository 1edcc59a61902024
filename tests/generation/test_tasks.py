"""Ways of prompting: what each keeps, and that it comes back bit for bit."""

import dataclasses
import itertools

import numpy as np
import pytest

from soraflax.generation import canvas as canvases
from soraflax.generation import generator as generators
from soraflax.generation import lengths, tasks
from soraflax.ops import grid as grids
from tests.generation import tiny

GRID = grids.Grid(temporal_ratio=4, spatial_ratio=8, channels=4, patch=(1, 2, 2))
PAIRS = grids.Grid(temporal_ratio=4, spatial_ratio=8, channels=4, patch=(2, 2, 2))
THIN_PAIRS = grids.Grid(4, 8, (2, 1, 1), channels=4)
FAST = generators.SamplingConfig(steps=2, guidance=1.0)


def clip(frames=13, size=(32, 32), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, *size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def generator():
    return generators.Generator(tiny.model())


def run(generator, given):
    (video,) = generator([generators.Job(given, "a red circle", seed=3)], FAST)
    return video


def half(frames=5, size=(32, 32)):
    mask = np.zeros((frames, *size), bool)
    mask[:, :, 7:25] = True
    return mask


def make(grid):
    """A given of every task that keeps something, by name."""
    image, a, b = clip(1)[0], clip(9), clip(11, seed=1)
    fps = 8.0
    return {
        "animate": tasks.animate(grid, image, frames=9, fps=fps),
        "animate to": tasks.animate(grid, image, frames=9, fps=fps, last=b[0]),
        "forward": tasks.extend(
            grid, b, direction="forward", frames=8, context=6, fps=fps
        ),
        "backward": tasks.extend(
            grid, b, direction="backward", frames=5, context=6, fps=fps
        ),
        "loop": tasks.loop(grid, a, frames=4, context=5, fps=fps),
        "connect": tasks.connect(grid, a, second=b, frames=4, context=5, fps=fps),
        "inpaint": tasks.inpaint(grid, clip(5), mask=half(), fps=fps),
        "outpaint": tasks.outpaint(grid, clip(5), size=(64, 32), fps=fps),
    }


# What each returns of what it was given, and where: (frames, where it lies, what).
KEPT = {
    "animate": (9, slice(0, 1), clip(1)),
    "animate to": (9, [0, 8], np.concatenate([clip(1), clip(11, seed=1)[:1]])),
    "forward": (19, slice(0, 11), clip(11, seed=1)),
    "backward": (16, slice(5, 16), clip(11, seed=1)),
    "loop": (13, slice(0, 9), clip(9)),
    "connect": (24, [*range(9), *range(13, 24)], None),
    "inpaint": (5, slice(0, 5), None),
    "outpaint": (5, slice(0, 5), None),
}


@pytest.mark.parametrize("task", list(KEPT))
def test_kept_pixels_come_back_bit_for_bit(generator, task):
    given = make(generator.grid)[task]
    frames, where, kept = KEPT[task]
    video = run(generator, given)
    width = 64 if task == "outpaint" else 32
    assert video.dtype == np.uint8 and video.shape == (frames, 32, width, 3)
    if task == "connect":
        kept = np.concatenate([clip(9), clip(11, seed=1)])
    if task == "inpaint":
        np.testing.assert_array_equal(video[~half()], clip(5)[~half()])
        assert (video[half()] != clip(5)[half()]).any()
    elif task == "outpaint":
        np.testing.assert_array_equal(video[:, :, 16:48], clip(5))
        assert video[:, :, :16].std() > 0 and video[:, :, 48:].std() > 0
    else:
        np.testing.assert_array_equal(video[where], kept)
        new = np.delete(np.arange(frames), np.r_[where])
        assert (video[new].reshape(len(new), -1).std(axis=1) > 0).all()


@pytest.mark.parametrize("grid", (GRID, PAIRS))
def test_every_task_stays_on_the_grid(grid):
    first = grid.min_frames
    clips = clip(21), clip(21, seed=1)
    cases = [
        tasks.extend(
            grid,
            clips[0],
            direction="forward",
            frames=grid.frame_step,
            context=14,
            fps=8.0,
        ),
        tasks.extend(
            grid, clips[0], direction="backward", frames=first, context=14, fps=8.0
        ),
        tasks.loop(grid, clips[0], frames=grid.frame_step, context=14, fps=8.0),
        tasks.connect(
            grid,
            clips[0],
            second=clips[1],
            frames=2 * grid.frame_step,
            context=14,
            fps=8.0,
        ),
    ]
    for given in cases:
        grid.latent_shape(*given.shape)
        np.testing.assert_array_equal(given.video[given.keep_mask].size > 0, True)
        assert (
            given.keep_mask.reshape(len(given.keep_mask), -1).all(axis=1).sum()
            <= 2 * 14
        )


@pytest.mark.parametrize("window", (0, 3, 5, 8, 16))
@pytest.mark.parametrize("grid", (GRID, PAIRS))
def test_contexts_are_legal_and_fill_a_window(grid, window):
    found = lengths.contexts(grid, window)
    video = clip(101, (16, 16))
    for name, (context, new) in found.items():
        if name == "between":
            given = tasks.loop(grid, video, frames=new, context=context, fps=8.0)
        else:
            given = tasks.extend(
                grid, video, direction=name, frames=new, context=context, fps=8.0
            )
        latent = grid.latent_shape(*given.shape)[0]
        whole = max(3, window // grid.patch[0] if window else 5)
        assert 0.5 * whole < latent / grid.patch[0] <= whole


def test_edit_and_upscale_start_from_the_clip(generator):
    video = clip(5)
    edited = tasks.edit(generator.grid, video, strength=0.5, fps=8.0)
    assert not edited.keep_mask.any() and edited.strength == 0.5
    assert run(generator, edited).shape == video.shape
    large = tasks.upscale(generator.grid, video, size=(64, 48), strength=0.3, fps=8.0)
    assert run(generator, large).shape == (5, 48, 64, 3)
    same = tasks.upscale(generator.grid, video, size=(32, 32), strength=0.3, fps=8.0)
    np.testing.assert_array_equal(same.video, video)


def test_the_less_strength_the_more_stays(generator):
    """Nothing moves at 0; the distance grows; at 1 the clip does not matter."""
    edited = tasks.edit(generator.grid, clip(5), strength=0.5, fps=8.0)
    canvas = generator.canvas(generators.Job(edited, "a square", seed=2))

    def fill(strength, latent=canvas.latent):
        part = dataclasses.replace(canvas, strength=strength, latent=latent)
        return generator.fill([part], FAST)[0]

    np.testing.assert_allclose(fill(0.0), canvas.latent, atol=1e-5)
    away = [np.abs(fill(s) - canvas.latent).mean() for s in (0.0, 0.2, 0.5, 0.9)]
    assert away == sorted(away) and away[-1] > 3 * away[1]
    np.testing.assert_array_equal(fill(1.0), fill(1.0, canvas.latent + 5))
    assert (fill(0.9) != fill(0.9, canvas.latent + 5)).any()


def test_outpainting_makes_a_large_clip_small_and_leaves_a_small_one():
    given = tasks.outpaint(GRID, clip(5, (64, 96)), size=(64, 96), fps=8.0)
    assert given.keep_mask.any(axis=(0, 2)).sum() == 48 and given.keep_mask[0, 48].all()
    odd = tasks.outpaint(GRID, clip(5, (30, 44)), size=(64, 64), fps=8.0)
    where = odd.keep_mask[0]
    assert where.sum() == 30 * 44
    np.testing.assert_array_equal(
        odd.video[:, where], clip(5, (30, 44)).reshape(5, -1, 3)
    )


def test_resizing_keeps_flat_colours_and_what_fits():
    video = np.full((2, 16, 32, 3), 77, np.uint8)
    assert (tasks.resize(video, (48, 48)) == 77).all()
    assert tasks.resize(video, (32, 16)) is video


C9 = clip(9)
ERRORS = {
    "frames off the grid": (
        lambda g: tasks.animate(g, C9[0], frames=10, fps=8.0),
        "^10 frames: use 9 or 13$",
    ),
    "one frame": (
        lambda g: tasks.animate(g, C9[0], frames=1, fps=8.0),
        "^1 frames: use 5 or more to move$",
    ),
    "another last frame": (
        lambda g: tasks.animate(g, C9[0], frames=5, fps=8.0, last=clip(1, (32, 48))[0]),
        "^32x32 and 48x32 pixels: give both one size, such as 32x32$",
    ),
    "a direction": (
        lambda g: tasks.extend(
            g,
            C9,
            direction="forwards",
            frames=4,
            context=5,
            fps=8.0,  # pyright: ignore
        ),
        "^direction 'forwards': use 'forward' or 'backward'$",
    ),
    "a long context": (
        lambda g: tasks.extend(
            g, C9, direction="forward", frames=4, context=11, fps=8.0
        ),
        "^a clip of 9 frames, a context of 11: use 9 or less$",
    ),
    "a short clip": (
        lambda g: tasks.extend(
            g, C9[:2], direction="backward", frames=5, context=4, fps=8.0
        ),
        "^a clip of 2 frames: 4 or more are needed$",
    ),
    "no context": (
        lambda g: tasks.loop(g, C9, frames=4, context=0, fps=8.0),
        "^a context of 0 frames: use 1 or more$",
    ),
    "new frames forward": (
        lambda g: tasks.extend(
            g, C9, direction="forward", frames=5, context=5, fps=8.0
        ),
        "^5 new frames: use 4 or 8$",
    ),
    "new frames backward": (
        lambda g: tasks.extend(
            g, C9, direction="backward", frames=4, context=5, fps=8.0
        ),
        "^4 new frames: use 1 or 5$",
    ),
    "two sizes": (
        lambda g: tasks.connect(
            g, C9, second=clip(9, (32, 48)), frames=4, context=5, fps=8.0
        ),
        "^32x32 and 48x32 pixels: give both one size, such as 32x32$",
    ),
    "a side off the grid": (
        lambda g: tasks.extend(
            g, clip(9, (32, 40)), direction="forward", frames=4, context=5, fps=8.0
        ),
        "^40 pixels wide: use 32 or 48$",
    ),
    "a mask of another size": (
        lambda g: tasks.inpaint(g, C9, mask=np.ones((9, 32, 48), bool), fps=8.0),
        "^a mask of 9 frames of 48x32 on a clip of 9 frames of 32x32$",
    ),
    "a mask of nothing": (
        lambda g: tasks.inpaint(g, C9, mask=np.zeros((9, 32, 32), bool), fps=8.0),
        "^the mask marks nothing",
    ),
    "a mask of everything": (
        lambda g: tasks.inpaint(g, C9, mask=np.ones((9, 32, 32), bool), fps=8.0),
        "^the mask marks everything",
    ),
    "a mask of numbers": (
        lambda g: tasks.inpaint(g, C9, mask=np.ones((9, 32, 32), np.uint8), fps=8.0),
        "^a mask of uint8: give bool$",
    ),
    "a frame that is filled": (
        lambda g: tasks.outpaint(g, C9, size=(32, 32), fps=8.0),
        "^a clip of 9 frames of 32x32 fills 32x32: use a larger size$",
    ),
    "smaller": (
        lambda g: tasks.upscale(g, C9, size=(16, 32), strength=0.5, fps=8.0),
        "^a clip of 9 frames of 32x32 is larger than 16x32: use 32x32 or more$",
    ),
    "a strength": (
        lambda g: tasks.edit(g, C9, strength=1.2, fps=8.0),
        r"^strength 1.2: use a value in \[0, 1\], such as 1$",
    ),
    "no frame rate": (
        lambda g: tasks.edit(g, C9, strength=0.5, fps=0.0),
        "^0.0 frames per second: use a rate above 0$",
    ),
}


@pytest.mark.parametrize("case", list(ERRORS))
def test_what_does_not_fit_names_what_does(case):
    make_it, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        make_it(GRID)


def test_numbers_out_of_range_are_refused_before_any_work():
    given = tasks.edit(GRID, C9, strength=0.5, fps=8.0)
    with pytest.raises(ValueError, match=r"^strength 2.0: use a value in"):
        generators.Job(given, refine_strength=2.0)
    with pytest.raises(ValueError, match=r"^seed -1: use one from 0 to 4294967295$"):
        generators.Job(given, seed=-1)


@pytest.mark.parametrize(
    ("frames", "found"), [(1, [1]), (9, [9]), (10, [9, 1]), (23, [9, 9, 5])]
)
def test_pieces_are_as_long_as_they_can_be(frames, found):
    assert lengths.pieces(GRID, frames, longest=9) == found


@pytest.mark.parametrize(
    ("frames", "near"), [(2, "1 or 5"), (8, "5 or 9"), (11, "10 or 14")]
)
def test_other_numbers_name_the_nearest(frames, near):
    with pytest.raises(ValueError, match=f"^{frames} new frames: use {near}$"):
        lengths.pieces(GRID, frames, longest=9)


@pytest.mark.parametrize(("grid", "most"), [(GRID, 1), (GRID, 9), (THIN_PAIRS, 13)])
def test_the_nearest_number_is_the_nearest(grid, most):
    sums = {
        full * most + rest
        for full in range(60)
        for rest in range(grid.min_frames, most + 1, grid.frame_step)
    }
    for frames in np.arange(0.25, 40, 0.25):
        found = lengths.nearest_pieces(grid, frames, longest=most)
        assert found in sums
        assert abs(found - frames) == min(abs(each - frames) for each in sums)
        sizes = lengths.pieces(grid, found, longest=most)
        assert sum(sizes) == found and max(sizes) <= most


def before(generator, video, frames, *, seed=0, text="", longest=5):
    """New frames before a clip, in pieces."""
    given = tasks.extend(
        generator.grid,
        video,
        direction="backward",
        frames=frames,
        context=min(8, len(video)),
        fps=8.0,
        longest_piece=longest,
    )
    assert given.length == len(video) + frames
    job = generators.Job(given, text=text, seed=seed)
    (found,) = generator([job], dataclasses.replace(FAST, steps=1))
    return found


def test_every_piece_before_a_clip_is_another(generator):
    video = clip(6, (16, 32))
    whole = before(generator, video, 11)
    assert whole.shape == (17, 16, 32, 3)
    np.testing.assert_array_equal(whole[-6:], video)
    pieces = [whole[1:6], whole[6:11]]
    assert (pieces[0] != pieces[1]).any()
    # What is next to the video was made first, so it does not depend on the rest.
    np.testing.assert_array_equal(before(generator, video, 5)[-11:], whole[-11:])
    others = [
        before(generator, video, 5, seed=1),
        before(generator, video, 5, text="a red circle"),
        before(generator, 255 - video, 5),
    ]
    for one, two in itertools.combinations([whole[-11:], *others], 2):
        assert (one[:5] != two[:5]).any()


def test_jobs_of_other_numbers_of_pieces_are_made_together(generator):
    """Bit for bit as alone, with one count of all steps and a latent a job."""
    config = dataclasses.replace(FAST, steps=1)
    jobs = [
        generators.Job(
            tasks.extend(
                generator.grid,
                clip(6, (16, 32), seed=index),
                direction="backward",
                frames=frames,
                context=4,
                fps=8.0,
                longest_piece=5,
            ),
            seed=index,
        )
        for index, frames in enumerate((11, 5, 10))
    ]
    steps = []
    together = generator(
        jobs,
        config,
        callback=lambda step: steps.append(
            (step.done, step.total, len(step.latents()))
        ),
    )
    for job, video in zip(jobs, together, strict=True):
        np.testing.assert_array_equal(generator([job], config)[0], video)
    assert [done for done, _, _ in steps] == list(range(1, len(steps) + 1))
    assert steps[-1][0] == steps[-1][1]
    assert {count for _, _, count in steps} == {3}


def test_no_seed_of_a_piece_leaves_its_range(generator):
    video = np.zeros((4, 16, 32, 3), np.uint8)
    found = before(generator, video, 2, seed=canvases.MAX_SEED, longest=1)
    assert found.shape == (6, 16, 32, 3)
