"""The front door: every method, what it chooses, and what it says of it."""

import dataclasses

import numpy as np
import PIL.Image
import pytest

import soraflax
from data_pipelines.worlds import bodies, captions
from soraflax.generation import generator as generators
from soraflax.generation import model as models
from soraflax.pretrained import shipped
from tests.generation import tiny

FAST = soraflax.SamplingConfig(steps=2, guidance=1.0)
QUICK = {"config": FAST, "progress": False}
RNG = np.random.default_rng(0)
CLIP = soraflax.Video(RNG.integers(0, 255, (9, 32, 32, 3)).astype(np.uint8), 8.0)


@pytest.fixture(scope="module")
def model():
    return soraflax.Model(generators.Generator(tiny.model()))


def test_a_folder_is_loaded_and_makes_a_video(tmp_path):
    model = soraflax.load(tiny.save(tmp_path))
    assert isinstance(model, models.Model)
    video = model.generate("a red circle", size=(32, 16), frames=5, **QUICK)
    assert video.frames.shape == (5, 16, 32, 3) and video.fps == model.fps


def test_an_image_is_a_video_of_one_frame(model):
    assert model.image("a red circle", size=(32, 16), **QUICK).frames.shape[0] == 1


def test_seconds_become_the_nearest_length_that_can_be_made(model):
    video = model.generate("a circle", size=(16, 16), seconds=1.0, **QUICK)
    assert len(video) == model.grid.nearest_frames(1.0, model.fps)
    with pytest.raises(ValueError, match="use one of them"):
        model.generate("a circle", frames=5, seconds=1.0, **QUICK)


@pytest.mark.parametrize("task", ["animate", "extend", "backward", "loop", "connect"])
def test_what_is_given_is_in_the_result(model, task):
    if task == "animate":
        video = model.animate(CLIP.frames[0], "it moves", frames=5, **QUICK)
        np.testing.assert_array_equal(video.frames[0], CLIP.frames[0])
        return
    if task == "connect":
        video = model.connect(CLIP, CLIP, **QUICK)
        np.testing.assert_array_equal(video.frames[-9:], CLIP.frames)
    elif task == "backward":
        video = model.extend(CLIP, direction="backward", **QUICK)
        np.testing.assert_array_equal(video.frames[-9:], CLIP.frames)
        return
    else:
        video = getattr(model, task)(CLIP, **QUICK)
    assert len(video) > len(CLIP)
    np.testing.assert_array_equal(video.frames[:9], CLIP.frames)


@pytest.mark.parametrize("path", ["10,15:20,15", [((10, 15), (20, 15))]])
def test_a_body_follows_a_drawn_path(model, path):
    """Nearly no noise leaves the dragged clip, but for what the autoencoder loses."""
    frame = np.full((32, 32, 3), 236, np.uint8)
    frame[10:20, 6:16] = (214, 39, 40)
    video = model.animate(frame, "it moves", path=path, strength=0.5, frames=5, **QUICK)
    np.testing.assert_array_equal(video.frames[0], frame)
    options = video.metadata["options"]
    assert options == {"path": [[[10.0, 15.0], [20.0, 15.0]]], "strength": 0.5}
    still = model.animate(frame, "it moves", frames=5, **QUICK)
    assert still.metadata["options"] == {}
    assert (video.frames[1:] != still.frames[1:]).any()


def test_paths_of_an_image_are_refused_in_one_line(model):
    frame = np.full((32, 32, 3), 236, np.uint8)
    with pytest.raises(ValueError, match="begin it on a body"):
        model.animate(frame, path="1,1:20,15", frames=5, **QUICK)
    frame[10:20, 6:16] = 0
    with pytest.raises(ValueError, match="leave the last one out"):
        model.animate(frame, path="10,15:20,15", last=frame, frames=5, **QUICK)


def test_a_clip_is_edited_painted_widened_and_enlarged(model):
    edited = model.edit(CLIP, "a blue square", strength=0.5, **QUICK)
    assert edited.frames.shape == CLIP.frames.shape
    mask = np.zeros((32, 32), bool)
    mask[:16] = True
    painted = model.inpaint(CLIP, mask, **QUICK)
    np.testing.assert_array_equal(painted.frames[:, 16:], CLIP.frames[:, 16:])
    wide = model.outpaint(CLIP, (64, 32), **QUICK)
    np.testing.assert_array_equal(wide.frames[:, :, 16:48], CLIP.frames)
    large = model.upscale(CLIP, (64, 64), strength=0.4, **QUICK)
    assert large.size == (64, 64) and len(large) == len(CLIP)


def test_clips_come_from_files_and_arrays_too(model, tmp_path):
    path = CLIP.save(tmp_path / "clip.mkv")
    of_file = model.extend(path, **QUICK)
    of_video = model.extend(CLIP, **QUICK)
    of_array = model.extend(CLIP.frames, **QUICK)
    np.testing.assert_array_equal(of_file.frames, of_video.frames)
    np.testing.assert_array_equal(of_array.frames, of_video.frames)
    assert of_file.metadata["inputs"]["clip"]["file"] == "clip.mkv"


def test_a_clip_off_the_grid_is_resized_and_that_is_said(model):
    odd = soraflax.Video(CLIP.frames[:, :30], 8.0)
    video = model.extend(odd, **QUICK)
    assert video.size == (32, 32)
    assert "32x30 becomes 32x32" in video.metadata["notes"][0]


def test_the_record_says_how_it_was_made(model):
    video = model.edit(CLIP, "a blue square", strength=0.5, seed=7, **QUICK)
    record = video.metadata
    assert record["generated"] and record["task"] == "edit" and record["seed"] == 7
    assert record["options"] == {"strength": 0.5}
    assert record["inputs"]["clip"]["pixels"] == [9, 32, 32, 3]
    assert record["checkpoint"]["transformer"] == tiny.model().digest


def test_one_seed_gives_the_same_pixels_alone_and_in_company(model):
    job = generators.Job(
        soraflax.tasks.generate(model.grid, size=(16, 16), frames=5, fps=8.0),
        "a circle",
        seed=3,
    )
    alone = model.generate("a circle", size=(16, 16), frames=5, seed=3, **QUICK)
    other = dataclasses.replace(job, seed=4)
    beside = model.run([other, job], FAST, progress=False)
    np.testing.assert_array_equal(alone.frames, beside[1].frames)


def test_progress_and_steps_are_reported(model):
    counts, shapes = [], []

    def callback(step: soraflax.Step) -> None:
        counts.append((step.done, step.total))
        shapes.append(step.latents()[0].shape)

    told = []
    model.generate(
        "a circle",
        size=(16, 16),
        frames=5,
        config=FAST,
        progress=lambda done, total: told.append((done, total)),
        callback=callback,
    )
    assert counts == told == [(1, 2), (2, 2)]
    assert shapes == [model.grid.latent_shape(5, height=16, width=16)] * 2


def test_a_callback_can_stop_early(model):
    config = dataclasses.replace(FAST, steps=5)
    seen = []

    def stop(step: soraflax.Step) -> bool:
        seen.append(step.done)
        return step.done == 2

    video = model.extend(CLIP, config=config, progress=False, callback=stop)
    assert seen == [1, 2]
    np.testing.assert_array_equal(video.frames[:9], CLIP.frames)


def test_bad_input_is_one_line(model):
    with pytest.raises(ValueError, match="pixels wide: use 96 or 112"):
        model.generate("a circle", size=(100, 64), **QUICK)
    with pytest.raises(ValueError, match="give one of them"):
        model.animate(CLIP, **QUICK)


def test_a_clip_is_said_in_words_that_make_a_prompt(model, tmp_path):
    """By the shipped captioner, or one that is given; from pixels or a file."""
    world = dataclasses.replace(bodies.VARIANTS["videos"], sizes=((64, 64),))
    shown = bodies.render_clip(5, 3, config=world)
    clip = soraflax.Video(shown.video, shown.fps)
    said = model.caption(clip)
    read, truth = captions.parse(said), shown.truth["attributes"]
    assert all(read[k] == truth[k] for k in ("colour", "size", "background", "count"))
    clip.save(tmp_path / "clip.mkv")  # lossless
    assert model.caption(tmp_path / "clip.mkv") == said
    captioner = soraflax.Captioner.load()
    picture = PIL.Image.fromarray(shown.video[0])
    said = model.caption(picture, captioner=captioner)
    assert said == model.caption(shown.video[0]) == captioner(shown.video[:1])
    given = {"captioner": shipped.CAPTIONER, "beams": 2}
    assert model.caption(clip, **given) == captioner(clip, beams=2)
    for wrong, message in (
        ({"captioner": tmp_path}, "no trained model"),
        ({"captioner": tmp_path / "nowhere"}, "no such directory"),
        ({"beams": 0}, "0 beams: use 1"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            model.caption(clip, **wrong)
    with pytest.raises(ValueError, match="give uint8"):
        model.caption(shown.video / 255)
    with pytest.raises(ValueError, match="no such file"):
        model.caption(tmp_path / "nothing.mp4")
