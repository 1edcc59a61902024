"""Requests become jobs as the library makes them; what is missing is one line."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from soraflax import media
from soraflax.diffusion import samplers
from soraflax.generation import generator
from soraflax.pretrained import sampling_defaults
from soraflax.serving import requests, uploads
from tests.generation import tiny

LIMITS = uploads.Limits(size=(128, 128), seconds=10.0, steps=50)


@pytest.fixture(scope="module")
def model():
    return generator.Generator(tiny.model())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of every role."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for name, frames in {"clip": 9, "second": 9, "image": 1, "last": 1}.items():
        pixels = rng.integers(0, 256, (frames, 32, 32, 3)).astype(np.uint8)
        media.write_video(folder / f"{name}.mkv", pixels, fps=8.0)
    return {
        role: folder / f"{role}.mkv" for role in ("clip", "second", "image", "last")
    }


def mask():
    """Painted over the left half, as a page sends it."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :16, 3] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def asked(task, files, **more):
    size = {"outpaint": (64, 32), "upscale": (64, 64)}.get(task, (32, 32))
    values = {"prompt": " a circle ", "mask": mask(), "files": files, "size": size}
    return requests.Request(task, **(values | more))


@pytest.mark.parametrize("task", requests.TASKS)
def test_every_task_becomes_a_job(model, files, task):
    made = requests.prepare(asked(task, files, seed=3), model, limits=LIMITS)
    assert (made.job.task, made.job.text, made.job.seed) == (task, "a circle", 3)
    roles = {
        "animate": {"image", "last_frame"},
        "connect": {"first", "second"},
        "inpaint": {"clip", "mask"},
    }
    given = {"clip"} if "clip" in requests.TASKS[task].files else set()
    assert set(made.inputs) == roles.get(task, given)
    strength = requests.TASKS[task].strength
    if strength is not None and task != "extend":
        assert made.job.options["strength"] == strength


@pytest.mark.parametrize("task", requests.TASKS)
def test_what_a_task_is_not_given_is_named(model, files, task):
    about = requests.TASKS[task]
    for role in set(about.files) - set(about.optional) - {"mask"}:
        less = {name: path for name, path in files.items() if name != role}
        with pytest.raises(ValueError, match=f"^{requests.NAMES[role]}: drop a file"):
            requests.prepare(asked(task, less), model, limits=LIMITS)
    if "mask" in about.files:
        with pytest.raises(ValueError, match="mask: paint over"):
            requests.prepare(asked(task, files, mask=""), model, limits=LIMITS)
    if about.prompt:
        with pytest.raises(ValueError, match="prompt: say what"):
            requests.prepare(asked(task, files, prompt=" "), model, limits=LIMITS)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"task": "paint"}, "task 'paint': use one of generate"),
        ({"size": (33, 32)}, "33 pixels wide: use 32 or 48"),
        ({"size": (1024, 1024)}, "1024x1024 pixels: use 128x128 or less here"),
        ({"seconds": 11.0}, "11 seconds: use 10 or less here"),
        ({"seconds": -1.0}, "use finite numbers above 0"),
        ({"steps": 51}, "51 steps: use 50 or less here"),
        ({"steps": 0}, "use 1 or more"),
        ({"sampler": "magic"}, "sampler 'magic': use one of euler"),
    ],
)
def test_what_cannot_be_made_is_refused(model, files, values, says):
    with pytest.raises(ValueError, match=says) as error:
        request = asked(**({"task": "generate", "files": files} | values))
        requests.prepare(request, model, limits=LIMITS)
    assert "\n" not in str(error.value)


def test_numbers_reach_the_sampler_and_the_job(model, files):
    request = asked(
        "extend",
        files,
        negative="a square",
        seconds=1.0,
        guidance=3.0,
        steps=7,
        sampler="unipc",
        strength=0.3,
        direction="backward",
    )
    made = requests.prepare(request, model, limits=LIMITS)
    config = made.config
    assert (config.steps, config.guidance) == (7, 3.0)
    assert config.sampler == samplers.SAMPLERS["unipc"]
    assert made.job.negative == "a square"
    assert made.job.options["direction"] == "backward"
    assert made.job.options["strength"] == 0.3


def test_a_body_of_an_image_follows_a_path(model, tmp_path):
    frame = np.full((1, 32, 32, 3), 236, np.uint8)
    frame[0, 10:20, 6:16] = (214, 39, 40)
    media.write_video(tmp_path / "i.png", frame, fps=1.0)

    def made(path):
        request = asked("animate", {"image": tmp_path / "i.png"}, path=path)
        return requests.prepare(request, model, limits=LIMITS).job

    moved = made("10,15:20,15")
    assert (moved.conditioning.video[-1, 10:20, 16:26] == (214, 39, 40)).all()
    assert moved.options["path"] == (((10.0, 15.0), (20.0, 15.0)),)
    assert len(made("").conditioning.video) == 1
    with pytest.raises(ValueError, match="outside of 32x32: use 31,15"):
        made("40,15:20,15")
    with pytest.raises(ValueError, match="17 paths: use 16 or fewer here"):
        made(" ".join(["10,15:20,15"] * 17))


@pytest.mark.parametrize("own", (None, ("ancestral", 48, 3.0), ("euler", 200, 3.0)))
def test_what_a_request_does_not_say_is_as_the_models_authors_do(model, own):
    config, plain = model.model.config, requests.PLAIN
    if own is not None:
        config = dataclasses.replace(
            config, sampling=sampling_defaults.SamplingDefaults(*own)
        )
    made = requests.sampling(asked("generate", {}), config, limits=LIMITS)
    name, steps, guidance = own or (plain.sampler, plain.steps, plain.guidance)
    assert made.sampler == samplers.SAMPLERS[name]
    assert (made.steps, made.guidance) == (min(steps, LIMITS.steps), guidance)


def test_clips_are_brought_to_what_suits_the_model_unless_they_stay(model, tmp_path):
    pixels = np.zeros((32, 96, 96, 3), np.uint8)
    media.write_video(tmp_path / "fast.mkv", pixels, fps=16.0)
    files = {"clip": tmp_path / "fast.mkv"}
    made = requests.prepare(asked("edit", files), model, limits=LIMITS)
    assert made.job.conditioning.size == (32, 32)
    assert made.job.conditioning.fps == 8.0 and len(made.job.notes) == 2
    made = requests.prepare(asked("edit", files, as_is=True), model, limits=LIMITS)
    assert made.job.conditioning.size == (96, 96)
    assert made.job.conditioning.fps == 16.0 and made.job.notes == ()


def test_two_clips_are_shown_at_the_rate_of_the_first(model, files, tmp_path):
    slow = tmp_path / "slow.mkv"
    media.write_video(slow, np.zeros((9, 32, 32, 3), np.uint8), fps=6.0)
    both = {"clip": files["clip"], "second": slow}
    made = requests.prepare(asked("connect", both), model, limits=LIMITS)
    assert made.job.conditioning.fps == 8.0
    assert "6 frames a second are shown at 8" in made.job.notes[0]
    with pytest.raises(ValueError, match="give both one rate"):
        requests.prepare(asked("connect", both, as_is=True), model, limits=LIMITS)


@pytest.mark.parametrize("text", ["96x64", " 96 × 64 ", "96X64 landscape"])
def test_a_size_is_read_as_it_is_typed(text):
    assert requests.parse_size(text) == (96, 64)


@pytest.mark.parametrize("text", ["", "96", "x64", "large", "-96x64", "9999999x1"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="use WIDTHxHEIGHT, for example 96x64"):
        requests.parse_size(text)
