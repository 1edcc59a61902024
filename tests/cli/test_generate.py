"""`soraflax generate` and `image`, typed as a user would, the wrong ways too."""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from soraflax import media
from soraflax.cli import main, options, outputs, progress, sampling
from soraflax.diffusion import samplers
from soraflax.generation import caching, generator, tasks
from soraflax.pretrained import shipped, training_data
from tests.generation import tiny

SMALL = "generate 'a red circle' --size 32x16 --frames 5"
LONG = "generate 'a red circle' --size 32x16 --frames 33"  # four windows


def frames(path):
    return media.read_video(path).frames


def record(path):
    return json.loads(pathlib.Path(f"{path}.json").read_text())


@pytest.mark.parametrize(
    ("line", "shape", "fps"),
    [
        (f"{SMALL} --out a.mkv", (5, 16, 32, 3), 8),
        (f"{SMALL} --out deep/a.gif --fps 4", (5, 16, 32, 3), 4),
        (SMALL, (5, 16, 32, 3), 8),
        ("generate a --size 32x16 --frames 1 --out a.png", (1, 16, 32, 3), 1),
        ("generate a --size 32x16 --seconds 1.125 --out a.mkv", (9, 16, 32, 3), 8),
        (f"{LONG} --out a.mkv", (33, 16, 32, 3), 8),
        ("image a --size 32x32", (1, 32, 32, 3), 1),
        ("image a --size 96x16 --tile 64x16 --out a.mp4", (1, 16, 96, 3), 1),
    ],
)  # fmt: skip
def test_what_is_asked_for_is_made(run, line, shape, fps):
    status, (path,), told = run(line)
    assert (status, told) == (0, [])
    video = media.read_video(path)
    assert (video.frames.shape, video.fps) == (shape, fps)
    assert media.read_metadata(path) == record(path)
    assert record(path)["frames"] == shape[0]
    assert sorted(p.name for p in pathlib.Path(path).parent.iterdir()) == sorted(
        [pathlib.Path(path).name, pathlib.Path(path).name + ".json"]
    )


def test_without_a_checkpoint_it_is_the_shipped_model(
    capsys, place, checkpoint, monkeypatch
):
    monkeypatch.setattr(shipped, "FOLDER", checkpoint / "model")
    for line in (f"{SMALL} --out a.mkv", "reconstruct a.mkv --out b.mkv"):
        words = shlex.split(line) + ["--steps", "1"] * line.startswith("generate")
        assert main.main(words) == 0, capsys.readouterr().err
    again = shlex.split(record("a.mkv")["command"])[1:]
    assert not any("checkpoint" in word for word in again)
    assert record("a.mkv")["checkpoint"]["transformer"] == tiny.model().digest


def test_what_is_far_from_training_is_said_in_a_line(
    capsys, place, checkpoint, load, monkeypatch
):
    model = load(checkpoint).model
    seen = training_data.TrainingData((16, 32), (0.5, 2.0), (1, 17), (8.0, 8.0), ("a",))
    config = dataclasses.replace(model.config, trained_on=seen)
    model = generator.Generator(dataclasses.replace(model, config=config))
    monkeypatch.setattr(generator.Generator, "load", lambda _, cache: model)
    words = ["--checkpoint", str(checkpoint), "--steps", "1", "--out", "a.mkv"]
    assert main.main([*shlex.split(SMALL), *words]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    note = "the words 'red', 'circle' were never seen in training; known are 1 words"
    assert line.startswith(f"soraflax generate: {note}")
    assert record("a.mkv")["notes"] == [line.partition(": ")[2]]


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("frames", [5, 33])
def test_what_leaves_the_finite_numbers_is_one_line_and_no_file(
    run, place, steps, frames
):
    line = f"{SMALL} --frames {frames} --steps {steps} --guidance 1e20 --out a.mkv"
    status, _, told = run(shlex.split(line))
    assert status == 2
    assert len(told) == 1 and "no picture: use less guidance" in told[0]
    assert not list(place.iterdir())


PROMPTS = {
    "empty": ("", "", ["the prompt is empty: what is made is left to chance"]),
    "long": ("x" * 100_000, "x" * 30, ["of 100,001 tokens: the first 31 are used"]),
    "right to left": ("שלום עולם عربى", "שלום עולם عربى", []),
    "emoji": ("👩‍👩‍👧 🎈", "👩‍👩‍👧 🎈", []),
    "control": ("a\x00\x1b[31m\n\u202eb", "a[31m b", ["U+0000, U+001B", "U+202E"]),
    "no text": ("\x07", "", ["U+0007", "counts as empty"]),
    "dash": ("-dash", "-dash", []),
    "flag": ("--seed", "--seed", []),
    "surrogate": ("a\udcffb", "a\ufffdb", ["1 bytes or surrogates"]),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_any_text_is_a_prompt_and_its_command_makes_the_same_again(run, name):
    prompt, read, says = PROMPTS[name]
    line = ["generate", "--size", "32x16", "--frames", "5", "--out", "a.mkv"]
    status, _, told = run(line, "--", prompt)
    assert status == 0
    assert len(told) == len(says)
    assert all(text in line for text, line in zip(says, told, strict=True))
    found = record("a.mkv")
    assert found["prompt"] == read == media.read_metadata("a.mkv")["prompt"]
    assert len(found["notes"]) == len(says)
    name, *words = shlex.split(found["command"])[1:]
    assert run([name, "--out", "b.mkv", *words])[0] == 0
    np.testing.assert_array_equal(frames("a.mkv"), frames("b.mkv"))


@pytest.mark.parametrize(
    "how",
    [
        "--frames 5 --sampler unipc --cache --steps 4 --guidance-interval 0.1,0.9",
        "--frames 5 --sampler dpm++ --guidance-rescale 0.5 --zero-init 1 --steps 2",
        "--frames 5 --negative-prompt=-blurry --sampler ddim --seed 4294967295",
        "--seconds 1 --fps 4.5 --cache=0.1 --steps 4",
        "--frames 5 --skip-guidance 0.5 --skip-blocks 0 --steps 2",
        "--frames 5 --guidance -1 --tile 32x16 --devices 1",
    ],
)
def test_every_flag_is_in_the_command(run, how):
    assert run(f"generate --size 32x16 --out a.mkv a {how}")[0] == 0
    name, *words = shlex.split(record("a.mkv")["command"])[1:]
    assert run([name, "--out", "b.mkv", *words])[0] == 0
    np.testing.assert_array_equal(frames("a.mkv"), frames("b.mkv"))
    assert record("a.mkv") == record("b.mkv")


def test_several_videos_have_seeds_of_their_own(run, monkeypatch):
    line = f"{SMALL} --num-videos 3 --seed 7"
    status, paths, told = run(f"{line} --out a.mkv")
    assert (status, told) == (0, [])
    assert paths == ["a-0.mkv", "a-1.mkv", "a-2.mkv"]
    assert [record(path)["seed"] for path in paths] == [7, 8, 9]
    assert (frames(paths[0]) != frames(paths[1])).any()
    run(f"{SMALL} --seed 8 --out one.mkv")
    np.testing.assert_array_equal(frames("one.mkv"), frames(paths[1]))
    monkeypatch.setattr(sampling, "MAX_TOGETHER", 2)
    status, again, _ = run(f"{line} --out b.mkv")
    for before, after in zip(paths, again, strict=True):
        np.testing.assert_array_equal(frames(before), frames(after))


def test_how_many_videos_are_held_at_once(checkpoint, load, monkeypatch):
    model = load(checkpoint)
    job = generator.Job(tasks.image(model.grid, size=(32, 16)))
    config = generator.SamplingConfig()
    assert sampling.jobs_together(model, job, config=config) == 64
    monkeypatch.setattr(sampling, "MAX_TOGETHER_BYTES", 3 * 3 * 32 * 16)
    assert sampling.jobs_together(model, job, config=config) == 3
    long = tasks.generate(model.grid, size=(32, 16), frames=33, fps=8.0)
    assert sampling.jobs_together(model, generator.Job(long), config=config) == 1


def test_a_picture_and_a_video_of_one_name_have_records_of_their_own(run, place):
    run("generate a --size 32x16 --frames 1 --out a.png")
    run(f"{SMALL} --out a.mkv")
    assert record("a.png")["frames"] == 1 and record("a.mkv")["frames"] == 5


def test_seconds_are_said_as_they_are_made(run):
    """To the nearest length that can be made."""
    status, _, told = run("generate a --size 32x16 --seconds 1.2 --out a.mkv")
    assert status == 0
    assert len(told) == 1
    assert "1.2 seconds become 1.12: 9 frames at 8 a second" in told[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--frames 80", "80 frames: use 77 or 81"),
        ("--size 97x64", "97 pixels wide: use 96 or 112"),
        ("--size 64x97", "97 pixels high: use 96 or 112"),
        ("--size 0x0", "0x0 pixels: use 16x16"),
        ("--size 16000x64", "16000 pixels wide: use 8192 or less"),
        ("--size 8192x8192 --frames 1", "use 5792x5792 pixels or less, or tiles"),
        ("--seconds 1e6", "use at most 8192 seconds"),
        ("--seconds 1e308", "use at most 8192 seconds"),
        ("--frames 1000000000000", "use 65533 or less"),
        ("--seconds inf", "argument --seconds: inf: use a finite number"),
        ("--seconds 0", "argument --seconds: 0: use a number above 0"),
        ("--fps -2", "argument --fps: -2: use a number above 0"),
        ("--fps 1e5", "fps=100000.0: use 1000"),
        ("--fps 60 --out a.gif", "fps=60.0: use 50"),
        ("--out a.mp3", "cannot write '.mp3': .gif, .mkv, .mp4, .png"),
        ("--out a.png", "a png holds one frame, not 17"),
        ("--out folder.mp4", "folder.mp4: is a directory"),
        ("--out . --num-videos 2", ".: is a directory"),
        ("--out file/deep/a.mp4", "file is a file, not a directory"),
        ("--out notes.mp4", "would replace notes.mp4.json"),
        ("--seed -1", "seed -1: use one from 0 to 4294967295"),
        ("--seed 4294967295 --num-videos 2", "seed 4294967296: use one from 0 to"),
        ("--seed one", "invalid int value: 'one'"),
        ("--steps 0", "0 is too small: use 1 or more"),
        ("--steps 1000000000000", "is too large: use 10000 or less"),
        ("--num-videos 1000000000", "is too large: use 10000 or less"),
        ("--sampler heun --cache", "which calls the model twice a step: use one"),
        ("--sampler magic", "invalid choice: 'magic'"),
        ("--cache=-0.5", "-0.5 is too small: use 0 or more"),
        ("--devices 99", "--devices 99: there are 8; use that many or less"),
        ("--low-guidance 3", "--low-guidance is of models with two experts"),
        ("--devices 8 --size 48x32", "6 latent cells does not divide over 8 devices; "),
        ("--zero-init -1", "zero-init -1: use 0 steps or more"),
        ("--zero-init 5 --steps 4", "leaves noise: use 3 or less"),
        ("--guidance nan", "nan: use a finite number"),
        ("--guidance-interval 0.9,0.1", "need 0 <= LOW <= HIGH <= 1"),
        ("--guidance-interval x", "is not LOW,HIGH, for example 0.1,0.9"),
        ("--guidance-rescale 1.5", "1.5 is not in [0, 1]: use 1"),
        ("--skip-blocks 9", "skipped block 9: the model has 0 to"),
        ("--skip-blocks x", "'x' is not N or N,N, numbers from 0"),
        ("--skip-guidance -1", "-1 is too small: use 0 or more"),
        ("--skip-guidance 1", "name blocks of the middle as --skip-blocks"),
        ("--tile 20x20", "20 pixels high in a tile: use 16 or 32"),
        ("--tile 32x32", "tiles of 32x32 pixels that share 32: use sides of 48"),
        ("--frames 5 --seconds 1", "not allowed with argument --frames"),
        ("more words", "unrecognized arguments: more words"),
        ("--checkpoint nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(run, place, monkeypatch, words, says):
    (place / "file").write_text("")
    (place / "folder.mp4").mkdir()
    (place / "notes.mp4.json").write_text("{}")
    monkeypatch.setattr(sampling, "sample", None)
    before = sorted(place.rglob("*"))
    status, paths, told = run(f"generate 'a red circle' {words}")
    assert (status, paths) == (2, [])
    assert len(told) == 1
    assert says in told[0]
    assert told[0].startswith("soraflax")
    assert sorted(place.rglob("*")) == before


@contextlib.contextmanager
def room_for(size):
    """No file may be larger."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("line", [SMALL, LONG])
def test_a_full_disk_leaves_nothing(run, place, line):
    assert run(f"{line} --out {place.parent / 'whole.mkv'}")[0] == 0  # compiles
    with room_for(512):
        status, paths, told = run(f"{line} --out deep/a.mkv")
    assert (status, paths) == (2, [])
    assert len(told) == 1
    assert "deep/a.mkv: file too large" in told[0]
    assert list(place.iterdir()) == []


def interrupt(monkeypatch, *, when):
    """Ctrl-C at the first step of which `when` (steps so far) is true."""
    plain, steps = sampling.Watch.__call__, []

    def call(self, step):
        plain(self, step)
        steps.append(step.done)
        if when(len(steps)):
            raise KeyboardInterrupt

    monkeypatch.setattr(sampling.Watch, "__call__", call)


@pytest.mark.parametrize("line", [SMALL, LONG])
def test_ctrl_c_says_that_nothing_was_written(run, place, monkeypatch, line):
    interrupt(monkeypatch, when=lambda count: count == 1)
    status, paths, told = run(f"{line} --out deep/a.mkv")
    assert (status, paths) == (130, [])
    assert told == ["soraflax generate: stopped; nothing was written"]
    assert list(place.iterdir()) == []


@pytest.fixture(autouse=True)
def heed_ctrl_c():
    """Also where the tests run behind a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Deaf:
    """Ignores Ctrl-C, as whatever the garbage collector calls does."""

    def __del__(self):
        raise KeyboardInterrupt


def test_ctrl_c_counts_where_python_ignores_it(run, place, monkeypatch):
    plain = sampling.Watch.__call__

    def call(self, step):
        plain(self, step)
        time.sleep(0.01)
        if step.done == 1:
            Deaf()

    monkeypatch.setattr(sampling.Watch, "__call__", call)
    status, paths, told = run(f"{SMALL} --steps 5000")
    assert (status, paths) == (130, [])
    assert told == ["soraflax generate: stopped; nothing was written"]
    assert list(place.iterdir()) == []


def test_ctrl_c_leaves_the_videos_before(run, place, monkeypatch):
    interrupt(monkeypatch, when=lambda count: count == 10)
    status, paths, told = run(f"{LONG} --num-videos 3 --out a.mkv --preview")
    assert (status, paths) == (130, ["a-0.mkv", "a-1.mkv"])
    whole = "a-0.mkv to a-1.mkv are whole"
    preview = "the last preview is a-2.mkv.preview.gif"
    assert told == [f"soraflax generate: stopped; {whole}, {preview}"]
    names = [
        "a-0.mkv",
        "a-0.mkv.json",
        "a-1.mkv",
        "a-1.mkv.json",
        "a-2.mkv.preview.gif",
    ]
    assert sorted(path.name for path in place.iterdir()) == names
    assert frames("a-1.mkv").shape == (33, 16, 32, 3)


def test_ctrl_c_leaves_the_last_preview(place, checkpoint):
    """For once as a user does it: from outside, at whatever moment."""
    words = shlex.split(f"{SMALL} --checkpoint {checkpoint} --steps 9999 --preview")
    command = [sys.executable, "-m", "soraflax.cli.main", *words]
    root = str(pathlib.Path(main.__file__).parents[2])
    env = os.environ | {"PYTHONPATH": root}
    preview = place / "out.mp4.preview.gif"
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe) as process:
        while not preview.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, b"")
    says = b"soraflax generate: stopped; the last preview is out.mp4.preview.gif\n"
    assert err.splitlines(keepends=True)[-1] == says  # after lines of progress
    assert list(place.iterdir()) == [preview]
    assert frames(preview).shape[1:] == (16, 32, 3)
    assert media.read_metadata(preview)["preview_of"] == "out.mp4"


def test_previews_go_once_the_videos_are_there(run, place, monkeypatch):
    seen = []
    plain = outputs.PreviewWriter.__call__

    def call(self, latent):
        seen.append(plain(self, latent) and self.path.name)
        return True

    monkeypatch.setattr(outputs.PreviewWriter, "__call__", call)
    status, _, _ = run(f"{SMALL} --num-videos 2 --preview --out a.mkv")
    assert status == 0
    assert seen == ["a-0.mkv.preview.gif", "a-1.mkv.preview.gif"]
    assert len(list(place.iterdir())) == 4


def test_long_videos_are_written_while_they_are_made(run, monkeypatch):
    """Frames come window by window: no more steps are done than they need."""
    steps, drawn = [], []
    plain = sampling.Watch.__call__

    def call(self, step):
        plain(self, step)
        steps.append((step.done, step.total))

    def write(path, frames, **made):
        for frame in frames:
            assert frame.shape == (16, 32, 3)
            drawn.append(len(steps))

    monkeypatch.setattr(sampling.Watch, "__call__", call)
    monkeypatch.setattr(outputs, "write", write)
    assert run("generate a --size 32x16 --seconds 60 --out a.mkv")[0] == 0
    windows = steps[-1][1]
    assert (len(drawn), windows) == (481, 60)
    # A window adds two latent frames, 8 of video; the decoder may hold back a few.
    needed = 1 + np.maximum(0, np.arange(481) - 5) // 8
    assert (np.asarray(drawn) <= needed + 1).all()


def test_videos_are_made_on_several_devices(run):
    for count in (1, 2):
        status, _, told = run(f"{SMALL} --devices {count} --out {count}.mkv --steps 2")
        assert (status, told) == (0, [])
    one, two = frames("1.mkv").astype(int), frames("2.mkv").astype(int)
    assert one.std() > 0
    assert np.abs(one - two).max() <= 1


def test_steps_and_frames_are_said_in_a_pipe(run, monkeypatch):
    """Those of a video in windows too, whose last frames come after the steps."""
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "_TICK", 1e6)
    status, _, told = run(f"{LONG} --out a.mkv --steps 2")
    assert status == 0
    told = [line.removeprefix("soraflax generate: ") for line in told]
    assert told[0].startswith("reading the model (")
    assert any(line.startswith("compiling, and step 1 (") for line in told)
    steps = [line.partition(",")[0] for line in told if line.startswith("step ")]
    assert steps == [f"step {number} of 8" for number in range(1, 9)]
    at = told.index(next(line for line in told if line.startswith("step 8")))
    assert told[at].endswith("0 s left")
    assert told[at + 1].startswith("decoding (")
    assert told[-1].startswith("frame 33 of 33 written")
    _, _, told = run(f"{SMALL} --out b.mkv --num-videos 2 --steps 2")
    assert [line for line in told if "step 2 of 2" in line]


def test_flags_know_what_the_library_has():
    assert set(options.SAMPLERS) == set(samplers.SAMPLERS)
    assert caching.StepCacheConfig().threshold == options.CACHE
