"""What the page shows: escaped, told in a line, and found below any path."""

import pathlib

import pytest

from soraflax.serving import job_queue, panels, studio

EVIL = '<img src=x onerror="alert(1)">'


def result(**changes):
    values = {
        "video": pathlib.Path("/tmp/a b/generate-seed0.mp4"),
        "lossless": pathlib.Path("/tmp/a b/generate-seed0.mkv"),
        "gif": pathlib.Path("/tmp/a b/generate-seed0.gif"),
        "record": pathlib.Path("/tmp/a b/generate-seed0.json"),
        "metadata": {"task": "generate", "prompt": EVIL, "seed": 0},
        "size": (96, 64),
        "frames": 17,
        "fps": 8.0,
        "notes": (EVIL,),
        "seconds": 1.25,
    }
    return studio.Result(**(values | changes))


def upload(**changes):
    values = {
        "thumbnail": pathlib.Path("/tmp/x/thumbnail.mp4"),
        "first": pathlib.Path("/tmp/x/first.png"),
        "size": (96, 64),
        "frames": 17,
        "fps": 8.0,
    }
    return studio.Upload(**(values | changes))


@pytest.mark.parametrize(
    "shown",
    [
        panels.error_status(EVIL),
        panels.result_stage(result()),
        panels.result_status(result()),
        panels.record(result().metadata),
        panels.upload(pathlib.Path(EVIL), upload()),
    ],
)
def test_nothing_that_was_typed_becomes_markup(shown):
    assert "<img src=x" not in shown and "&lt;img" in shown


def test_files_are_named_relative_to_the_page():
    name = panels.url(pathlib.Path("/tmp/a b/c.mp4"))
    assert name == "gradio_api/file=/tmp/a%20b/c.mp4"
    assert name in panels.result_stage(result()).replace("generate-seed0", "c")


def test_a_video_plays_by_itself_and_an_image_is_a_picture():
    stage = panels.result_stage(result())
    assert "<video" in stage and "autoplay loop muted playsinline controls" in stage
    assert "<video" not in panels.result_stage(result(frames=1))


def test_downloads_are_what_there_is():
    status = panels.result_status(result())
    assert [f">{name}</a>" in status for name in ("mp4", "gif", "record")] == [True] * 3
    assert "17 frames, 2.12 s" in status and "made in 1.2 s" in status
    image = {"video": pathlib.Path("a.png"), "gif": None, "frames": 1}
    status = panels.result_status(result(**image))
    assert ">png</a>" in status and ">gif</a>" not in status and "frames" not in status


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "Starting"),
        ({"position": 1}, "Waiting, next in the queue: 1 job before it"),
        ({"position": 3}, "Waiting, in the queue: 3 jobs before it"),
        ({"state": "running"}, "Preparing"),
        ({"state": "running", "done": 3, "total": 25}, "Step 3 of 25"),
        ({"state": "running", "done": 25, "total": 25}, "Decoding"),
    ],
)
def test_progress_is_told_in_words_and_a_bar(values, says):
    status = panels.progress_status(job_queue.Ticket(**values))
    assert says in status and "<progress" in status


def test_notes_are_told_while_it_is_made():
    status = panels.progress_status(job_queue.Ticket(notes=("clip: resized", EVIL)))
    assert "<li>clip: resized</li>" in status and "<img src=x" not in status


def test_a_cancelled_job_says_when_it_stops():
    ticket = job_queue.Ticket(state="running", done=3, total=25)
    ticket.cancel()
    assert "stops at the next step" in panels.progress_status(ticket)


def test_a_preview_and_the_frame_before_it():
    preview = studio.Preview(b"GIF89a", 4)
    assert 'data-preview="4"' in panels.preview_stage(preview, (96, 64))
    assert "aspect-ratio: 96 / 64" in panels.preview_stage(None, (96, 64))


def test_a_mask_is_painted_over_the_first_frame():
    brush = panels.brush(upload())
    assert "first.png" in brush and '<canvas width="576" height="384"' in brush
    assert "<canvas" not in panels.brush(None)
