"""A studio makes what is asked for, shows how far it is, and keeps a record of it."""

import dataclasses
import json
import threading

import numpy as np
import pytest

import soraflax
from soraflax import media
from soraflax.generation import generator, guardrails
from soraflax.pretrained import training_data
from soraflax.serving import job_queue, requests, studio, uploads
from tests.generation import tiny
from tests.media import test_sound

SETTINGS = studio.Settings(
    limits=uploads.Limits(size=(128, 128), seconds=10.0), queue=1, size=(32, 16)
)
LONG = 600.0  # seconds; a job takes less


@pytest.fixture(scope="module")
def model():
    return soraflax.Model(generator.Generator(tiny.model()))


@pytest.fixture
def place(model):
    with studio.Studio(model, SETTINGS) as found:
        yield found


def asked(task="generate", **more):
    values = {"prompt": "a circle", "size": (32, 16), "seconds": 0.6, "steps": 2}
    return requests.Request(task, **(values | more))


def test_a_video_its_files_and_its_record(place):
    ticket = place.submit(asked(seed=5))
    assert ticket.wait(LONG) and ticket.state == "done", ticket.error
    result = ticket.result
    assert (result.size, result.frames, result.fps) == ((32, 16), 5, 8.0)
    record = json.loads(result.record.read_text())
    assert record["seed"] == 5 and record["prompt"] == "a circle"
    assert record["sampling"]["steps"] == 2 and record["generated"] is True
    for path in (result.video, result.gif, result.lossless):
        assert media.probe(path).frames == 5
        assert media.read_metadata(path) == record
    assert result.video.name == "generate-seed5.mp4"
    assert any("seconds become" in note for note in result.notes)
    expected = place.model.generate(
        "a circle",
        size=(32, 16),
        frames=5,
        seed=5,
        config=soraflax.SamplingConfig(steps=2, guidance=2.0),
        progress=False,
    )
    made = media.read_video(result.lossless).frames
    np.testing.assert_array_equal(made, expected.frames)


def test_previews_are_pictures_that_move(place):
    ticket = place.submit(asked())
    assert ticket.wait(LONG)
    assert ticket.preview.number >= 1
    preview = media.decode(ticket.preview.gif)
    assert preview.size == (32, 16) and len(preview) == 2  # latent frames
    assert (ticket.done, ticket.total) == (2, 2)


def test_an_image_is_a_png_without_a_gif(place):
    ticket = place.submit(asked("image"))
    assert ticket.wait(LONG)
    assert ticket.result.video.suffix == ".png" and ticket.result.gif is None
    assert ticket.result.lossless == ticket.result.video


def test_what_cannot_be_made_is_refused_before_it_waits(place):
    with pytest.raises(ValueError, match="33 pixels wide: use 32 or 48"):
        place.submit(asked(size=(33, 16)))
    assert place.queue.is_idle


def test_a_full_queue_refuses_before_it_reads(place, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def work(ticket):
        begun.set()
        go_on.wait(LONG)

    place.queue.submit(work)
    assert begun.wait(LONG)
    place.queue.submit(work)
    monkeypatch.setattr(requests, "prepare", None)
    with pytest.raises(job_queue.QueueFullError):
        place.submit(asked())
    go_on.set()


def test_a_job_is_cancelled_at_a_step(place, monkeypatch):
    stepped, go_on = threading.Event(), threading.Event()
    step = job_queue.Ticket.step

    def slow(ticket, at):
        stepped.set()
        go_on.wait(LONG)
        return step(ticket, at)

    monkeypatch.setattr(job_queue.Ticket, "step", slow)
    ticket = place.submit(asked(steps=100))
    assert stepped.wait(LONG)
    place.queue.cancel(ticket)
    go_on.set()
    assert ticket.wait(LONG)
    assert ticket.state == "cancelled" and ticket.result is None
    assert ticket.done == 1


def test_files_are_those_of_the_latest_and_go_with_the_studio(model, monkeypatch):
    monkeypatch.setattr(studio, "_KEPT", 2)
    with studio.Studio(model, SETTINGS) as place:
        path = media.Video(np.zeros((2, 16, 32, 3), np.uint8), 8.0).save(
            place.folder / "clip.mp4"
        )
        seen = [place.inspect(path, name="clip") for _ in range(3)]
        assert [upload.first.exists() for upload in seen] == [False, True, True]
        assert media.probe(seen[-1].thumbnail).frames == 2
        assert (seen[-1].size, seen[-1].frames, seen[-1].fps) == ((32, 16), 2, 8.0)
    assert not place.folder.exists()


def test_an_upload_that_cannot_be_read_is_one_line(place):
    path = place.folder / "clip.mp4"
    path.write_bytes(b"text" * 99)
    with pytest.raises(media.MediaError, match=r"^clip: clip\.mp4: not a video"):
        place.inspect(path, name="clip")


def test_suggested_sizes_are_on_the_grid_and_about_as_large(place):
    sizes = place.sizes()
    assert sizes[0][1] == place.size == SETTINGS.size
    assert len({size for _, size in sizes}) == len(sizes)
    for _, size in sizes:
        place.model.grid.check_frame(size)
    with pytest.raises(ValueError, match="use 32 or 48"):
        studio.Studio(place.model, studio.Settings(size=(33, 16)))


def trained(model, seen):
    known = model.generator.model
    config = dataclasses.replace(known.config, trained_on=seen)
    return soraflax.Model(
        generator.Generator(dataclasses.replace(known, config=config))
    )


def test_sizes_and_notes_follow_the_training(model):
    seen = training_data.TrainingData(
        sides=(32, 96), aspects=(1.0, 1.5), frames=(1, 17), fps=(8.0, 8.0), words=("a",)
    )
    with studio.Studio(trained(model, seen)) as place:
        assert place.size == (96, 64)
        assert [size for _, size in place.sizes()] == [(96, 64), (80, 80)]
        ticket = place.submit(asked(size=(32, 32)))
        assert any("'circle' was never seen" in note for note in ticket.notes)
        assert ticket.wait(LONG) and ticket.state == "done", ticket.error
        assert any("'circle' was never seen" in note for note in ticket.result.notes)
    assert studio.trained_size(model) == (64, 64)


@pytest.mark.parametrize(
    ("task", "clip", "expected"),
    [
        ("generate", None, (32, 16)),
        ("edit", (64, 64), (32, 16)),
        ("upscale", None, (32, 16)),
        ("upscale", (32, 16), (64, 32)),
        ("outpaint", (32, 16), (64, 16)),
        ("outpaint", (16, 32), (16, 64)),
    ],
)
def test_a_task_suggests_a_size_that_it_can_make(place, task, clip, expected):
    assert place.suggested_size(task, clip) == expected


@pytest.fixture
def loud(tmp_path):
    """A clip with sound, of 24 frames a second; and one without."""
    sound = media.PlacedSound(test_sound.CLIP, 1.0)
    frames = np.random.default_rng(0).integers(0, 256, (25, 16, 32, 3)).astype(np.uint8)
    for name, sounds in (("loud.mkv", [sound]), ("mute.mkv", [])):
        media.write_frames(tmp_path / name, frames, fps=24.0, sounds=sounds)
    return tmp_path / "loud.mkv", tmp_path / "mute.mkv"


def test_a_clip_keeps_its_sound(place, loud):
    """Also where frames are left out, which makes it no slower."""
    ticket = place.submit(asked("edit", files={"clip": loud[0]}))
    assert ticket.wait(LONG) and ticket.state == "done", ticket.error
    assert ticket.result.frames == 9
    for path in (ticket.result.video, ticket.result.lossless):
        times = [time for time, _ in test_sound.packets(path)]
        expected = [t for t, _ in test_sound.packets(loud[0]) if t < 25 / 24]
        assert len(times) == len(expected)
        np.testing.assert_allclose(times, expected, atol=3e-3)
    assert list(place.folder.glob("tmp*")) == []


def test_the_second_clip_is_heard_at_its_time(place, loud):
    files = {"clip": loud[1], "second": loud[0]}
    ticket = place.submit(asked("connect", files=files, seconds=0.5))
    assert ticket.wait(LONG) and ticket.state == "done", ticket.error
    result = ticket.result
    times = [time for time, _ in test_sound.packets(result.video)]
    first = (result.frames - 9) / result.fps  # one of three frames is kept
    assert times[0] == pytest.approx(first, abs=0.05)
    assert any("second clip: the sound is kept" in note for note in result.notes)


def test_sound_that_cannot_be_read_is_left_out(place, loud, monkeypatch):
    def damaged(path, target, *, name):
        raise media.MediaError(f"{name}: sound: invalid data")

    monkeypatch.setattr(studio.guard, "extract_sound", damaged)
    ticket = place.submit(asked("edit", files={"clip": loud[0]}))
    assert ticket.wait(LONG) and ticket.state == "done", ticket.error
    assert "clip: sound: invalid data: its sound is left out" in ticket.result.notes
    assert test_sound.packets(ticket.result.video) == []


def test_a_guard_refuses_before_and_after(model):
    def no_blue(text, video):
        return (
            "no blue" if "blue" in text and (video is None) == ("!" in text) else None
        )

    settings = dataclasses.replace(SETTINGS, guard=guardrails.Guardrails((no_blue,)))
    with studio.Studio(model, settings) as place:
        with pytest.raises(guardrails.RefusedError, match="prompt refused: no blue"):
            place.submit(asked(prompt="blue!"))
        ticket = place.submit(asked(prompt="blue"))
        assert ticket.wait(LONG) and ticket.state == "failed"
        assert ticket.error == "result refused: no blue" and ticket.result is None
