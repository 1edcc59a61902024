"""`soraflax reconstruct`: what it writes and says, and what it refuses."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import media
from soraflax.autoencoding import padding, streaming
from soraflax.cli import checkpoints, main, reconstruction
from soraflax.evaluation import metrics
from soraflax.nn import autoencoder
from tests.generation import tiny
from tests.media import test_sound

CONFIG = autoencoder.VARIANTS["tiny"]
SIZE = CONFIG.video_shape(4, 2, 3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a clip that fits, as a video and as an array."""
    monkeypatch.chdir(tmp_path)
    clip = pixels(SIZE)
    media.write_video("clip.mkv", clip, fps=8.0)
    np.save("clip.npy", reconstruction.as_float(clip))
    return tmp_path


def pixels(size):
    """Smooth frames that move."""
    t, y, x = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    waves = [np.sin(0.3 * x + 0.5 * t), np.cos(0.2 * y - 0.4 * t), np.sin(0.1 * x * y)]
    return (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def run(capsys, *words):
    try:
        status = main.main(["reconstruct", *map(str, words)])
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr()


def below(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def last_line(output):
    """Of standard error, without the progress bar before it."""
    return output.err.strip().replace("\r", "\n").split("\n")[-1].strip()


@functools.partial(jax.jit, static_argnums=0)
def whole(module, params, video):
    return module.apply({"params": params}, video).video


def one_shot(checkpoint, video):
    model = checkpoints.load_autoencoder(checkpoint)
    module = autoencoder.Autoencoder(model.config)
    made = whole(module, model.on_device, jnp.asarray(video)[None])
    return np.clip(np.asarray(made[0]), -1, 1)


def test_an_array_comes_out_as_the_one_shot_result(capsys, checkpoint, place):
    words = ["clip.npy", "--checkpoint", checkpoint, "--out", "new/out.npy", "--json"]
    status, output = run(capsys, *words)
    assert status == 0
    video, made = np.load("clip.npy"), np.load("new/out.npy")
    assert made.dtype == np.float32
    expected = one_shot(checkpoint, video)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    report = json.loads(output.out)
    assert report.keys() == {f.name for f in dataclasses.fields(reconstruction.Report)}
    assert (report["frames"], report["height"], report["width"]) == SIZE
    assert report["latent"] == [4, 2, 3, CONFIG.latent_channels]
    r, s = CONFIG.temporal_ratio, CONFIG.spatial_ratio
    ratio = 3 * s * s * (1 + 3 * r) / (4 * CONFIG.latent_channels)
    assert report["compression"] == pytest.approx(ratio)
    assert report["psnr"] == pytest.approx(float(metrics.psnr(video, made)), rel=1e-4)
    assert report["ssim"] == pytest.approx(float(metrics.ssim(video, made)), rel=1e-4)
    assert report["host_bytes"] > 2**26
    assert report["frames_per_second"] * report["seconds"] == pytest.approx(SIZE[0])


def test_frames_split_over_devices_come_out_the_same(capsys, checkpoint, place):
    np.save("wide.npy", np.repeat(np.load("clip.npy"), 2, axis=2))
    found = []
    for devices in (1, 2):
        words = ["wide.npy", "--checkpoint", checkpoint, "--out", "out.npy"]
        assert run(capsys, *words, "--devices", devices)[0] == 0
        found.append(np.load("out.npy"))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        (2, "3 latent cells does not divide over 2 devices; nearest that does: 4"),
        (99, "--devices 99: there are 8"),
    ],
)
def test_impossible_splits_are_refused(capsys, checkpoint, place, devices, says):
    words = ["clip.npy", "--checkpoint", checkpoint, "--out", "out.npy"]
    status, output = run(capsys, *words, "--devices", devices)
    assert status == 2 and says in last_line(output)
    assert not (place / "out.npy").exists()


@pytest.mark.parametrize("which", ["video", "ae"])
@pytest.mark.parametrize("out", ["out.mp4", "out.mkv", "out.gif", "out.npy"])
def test_every_output_is_written_and_reported(capsys, checkpoint, place, which, out):
    words = ["clip.mkv", "--checkpoint", checkpoint.parent / which, "--out", out]
    status, output = run(capsys, *words, "--chunk", 1)
    assert status == 0
    for word in (out, "PSNR", "SSIM", "times fewer", "frames per second", "GiB"):
        assert word in output.out
    expected = one_shot(checkpoint, np.load("clip.npy"))
    if out == "out.npy":
        np.testing.assert_allclose(np.load(out), expected, atol=1e-5)
        return
    video = media.read_video(out)
    assert video.fps == pytest.approx(8.0, rel=0.01)
    assert video.frames.shape == (*SIZE, 3)
    if out == "out.mkv":  # the others do not keep the noise of an untrained decoder
        far = np.abs(video.frames.astype(int) - reconstruction.as_bytes(expected))
        assert far.max() <= 1
    assert media.read_metadata(out)["reconstruction_of"] == "clip.mkv"


def test_padding_gives_back_the_clip_s_own_size(capsys, checkpoint, place):
    size = (SIZE[0] + 1, SIZE[1] - 1, SIZE[2] + 1)
    video = reconstruction.as_float(pixels(size))
    np.save("odd.npy", video)
    words = ["odd.npy", "--checkpoint", checkpoint, "--out", "out.npy", "--json"]
    status, output = run(capsys, *words, "--fit", "pad")
    assert status == 0
    made, report = np.load("out.npy"), json.loads(output.out)
    assert made.shape == video.shape
    assert report["latent"] == [5, 2, 4, CONFIG.latent_channels]
    assert report["psnr"] == pytest.approx(float(metrics.psnr(video, made)), rel=1e-4)
    fit = padding.grid_padding(CONFIG, size, rule="pad")
    expected = one_shot(checkpoint, np.stack(list(fit.pad(video))))
    kept = tuple(slice(n) for n in size)
    np.testing.assert_allclose(made, expected[kept], atol=1e-5)


def test_ssim_can_be_left_out(capsys, checkpoint, place):
    words = ["clip.npy", "--checkpoint", checkpoint, "--out", "out.npy", "--json"]
    found = []
    for more in ([], ["--no-ssim"]):
        status, output = run(capsys, *words, *more)
        assert status == 0
        found.append(json.loads(output.out))
    assert found[0]["psnr"] == found[1]["psnr"]
    assert found[0]["ssim"] > 0 and found[1]["ssim"] is None


def test_an_image_and_frames_too_small_for_ssim(capsys, checkpoint, place):
    s = CONFIG.spatial_ratio
    media.write_video("dot.png", pixels((1, s, s)), fps=1.0)
    words = ["dot.png", "--checkpoint", checkpoint, "--out", "out.png"]
    status, output = run(capsys, *words, "--dtype", "bfloat16")
    assert status == 0
    assert media.read_video("out.png").frames.shape == (1, s, s, 3)
    small = s < metrics.WINDOW
    assert ("too small" in output.out) == small
    status, output = run(capsys, *words, "--json")
    assert (json.loads(output.out)["ssim"] is None) == small


def npy(name, shape, value=0.0, at=None):
    video = np.zeros((*shape, 3), np.float32)
    if at is not None:
        video[at] = value
    np.save(name, video)


@pytest.fixture
def bad(place):
    """Clips that cannot be reconstructed, beside the one that can."""
    frames, height, width = SIZE
    npy("long.npy", (frames + 1, height, width))
    npy("wide.npy", (frames, height, width + 1))
    npy("thin.npy", (frames, height, 1))
    npy("none.npy", (0, height, width))
    npy("nan.npy", SIZE, np.nan, at=3)
    npy("bytes.npy", SIZE, 255.0, at=(0, 0))
    np.save("grey.npy", np.zeros(SIZE, np.float32))
    np.save("double.npy", np.zeros((*SIZE, 3)))
    np.save("object.npy", np.array([{}], object), allow_pickle=True)
    data = pathlib.Path("clip.npy").read_bytes()
    pathlib.Path("short.npy").write_bytes(data[:-1])
    claim = {"descr": "<f4", "fortran_order": False, "shape": (17, 16384, 16384, 3)}
    with open("huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, claim)
    data = pathlib.Path("clip.mkv").read_bytes()
    pathlib.Path("cut.mkv").write_bytes(data[: len(data) // 2])
    pathlib.Path("text.mp4").write_text("not a video\n" * 99)
    pathlib.Path("folder.mp4").mkdir()
    return place


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gone.mp4"], "gone.mp4: no such file"),
        (["text.mp4"], "text.mp4: not a video"),
        (["folder.mp4"], "folder.mp4: is a directory"),
        (["cut.mkv"], "cut.mkv"),
        (["long.npy"], f"{SIZE[0] + 1} frames: use {SIZE[0]} or "),
        (["long.npy"], "or say --fit pad"),
        (["wide.npy"], f"{SIZE[2] + 1} pixels: use {SIZE[2]} or "),
        (["thin.npy"], "at least 2 pixels wide"),
        (["thin.npy", "--fit", "pad"], "at least 2 pixels wide"),
        (["none.npy"], "no frames"),
        (["none.npy", "--fit", "pad"], "no frames"),
        (["nan.npy"], "frame 3 has NaN"),
        (["bytes.npy"], "frame 0 has pixels from 0 to 255: scale them"),
        (["grey.npy"], "a video is [T, H, W, 3]"),
        (["double.npy"], "save it as float32"),
        (["object.npy"], "holds object"),
        (["short.npy"], "truncated"),
        (["huge.npy"], "at most 8192 pixels wide"),
        (["huge.npy", "--fit", "pad"], "at most 8192 pixels wide"),
        (["clip.npy", "--out", "a.avi"], "cannot write '.avi'"),
        (["clip.npy", "--out", "a.png"], "a png holds one frame"),
        (["clip.npy", "--out", "folder.mp4"], "folder.mp4: is a directory"),
        (["clip.npy", "--out", "text.mp4/a.npy"], "text.mp4 is a file"),
        (["clip.npy", "--out", "clip.npy"], "is the clip itself"),
        (["clip.npy", "--fps", "0"], "fps=0.0: use 0.01"),
        (["clip.npy", "--fps", "nan"], "fps=nan"),
        (["clip.npy", "--chunk", "0"], "use 1 or more"),
        (["clip.npy", "--tile", "64"], "64"),
        (["clip.npy", "--fit", "stretch"], "invalid choice"),
        (["clip.npy", "--checkpoint", "nowhere"], "nowhere: no such directory"),
        (["clip.npy", "--overlap", "-1"], "overlap"),
    ],
)
def test_bad_input_is_one_line_and_no_file(capsys, checkpoint, bad, words, says):
    before = below(bad)
    if "--out" not in words:
        words = [*words, "--out", "new/out.mp4"]
    status, output = run(capsys, *["--checkpoint", checkpoint, *words])
    assert status == 2
    assert output.out == ""
    assert output.err.endswith("\n") and output.err.count("\n") == 1
    assert says in last_line(output)
    assert below(bad) == before
    assert not (bad / "new").exists()


def decoded_until(error):
    """A stream that fails after its first chunk."""

    def stream(model, frames, *, config):
        del model, config
        yield np.stack([next(frames)])
        raise error

    return stream


def test_ctrl_c_leaves_nothing(capsys, checkpoint, place, monkeypatch):
    monkeypatch.setattr(streaming, "reconstruct", decoded_until(KeyboardInterrupt()))
    before = below(place)
    for out in ("out.mp4", "out.npy"):
        words = ["clip.mkv", "--checkpoint", checkpoint, "--out", f"new/{out}"]
        status, output = run(capsys, *words)
        assert status == 130
        assert "nothing was written" in last_line(output)
        assert below(place) == before and not (place / "new").exists()


def test_a_clip_that_ends_badly_is_noticed(capsys, checkpoint, place, monkeypatch):
    """Even by a stream that stops asking when it has all frames."""

    def frugal(model, frames, *, config):
        del model, config
        for _ in range(SIZE[0]):
            yield np.stack([next(frames)])

    def cut(clip):
        yield from clip
        raise media.MediaError("clip.mkv: truncated")

    model = checkpoints.load_autoencoder(checkpoint)
    fit = padding.grid_padding(CONFIG, SIZE, rule="refuse")
    monkeypatch.setattr(streaming, "reconstruct", frugal)
    pairs = reconstruction.paired_chunks(
        cut(np.load("clip.npy")), model, fit=fit, config=streaming.StreamConfig()
    )
    with pytest.raises(media.MediaError, match="truncated"):
        list(pairs)


def test_a_broken_model_is_said_to_be(capsys, checkpoint, place, monkeypatch):
    def broken(model, frames, *, config):
        del model, config
        yield np.full((3, *SIZE[1:], 3), np.nan, np.float32)

    monkeypatch.setattr(streaming, "reconstruct", broken)
    words = ["clip.mkv", "--checkpoint", checkpoint, "--out", "out.mp4"]
    status, output = run(capsys, *words)
    assert status == 2
    assert "frames 0 to 2 are not finite" in last_line(output)
    assert not (place / "out.mp4").exists()


def test_frames_are_held_only_until_they_are_decoded(checkpoint):
    """Constant memory: no more frames are ahead than a chunk takes."""
    model = checkpoints.load_autoencoder(checkpoint)
    drawn = 0

    def clip():
        nonlocal drawn
        for frame in pixels((1 + 12 * CONFIG.temporal_ratio, *SIZE[1:])):
            drawn += 1
            yield frame

    size = (1 + 12 * CONFIG.temporal_ratio, *SIZE[1:])
    fit = padding.grid_padding(CONFIG, size, rule="refuse")
    done, ahead = 0, 0
    config = streaming.StreamConfig(chunk=2)
    for _, made in reconstruction.paired_chunks(clip(), model, fit=fit, config=config):
        done += len(made)
        ahead = max(ahead, drawn - done)
    assert done == size[0]
    assert ahead <= 4 * CONFIG.temporal_ratio


def test_bytes_and_floats_are_inverse():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    values = reconstruction.as_float(levels)
    assert (values.min(), values.max(), values.dtype) == (-1.0, 1.0, np.float32)
    np.testing.assert_array_equal(reconstruction.as_bytes(values), levels)


def test_the_sound_stays_beside_its_frames(capsys, checkpoint, place):
    sound = media.PlacedSound(test_sound.CLIP, 0.5)
    frames = pixels(SIZE)
    media.write_frames("heard.mkv", frames, fps=24.0, sounds=[sound])
    expected = test_sound.packets(pathlib.Path("heard.mkv"))
    assert len(expected) > 10
    for words, kept, says in (
        (["--out", "a.mkv"], True, ""),
        (["--out", "a.mkv", "--no-audio"], False, ""),
        (["--out", "a.npy"], False, "a .npy has none of aac: use .mkv"),
        (["--out", "a.mp4", "--fps", "8"], False, "8 frames per second are not its"),
    ):
        arguments = ["heard.mkv", "--checkpoint", checkpoint, "--no-ssim", *words]
        status, output = run(capsys, *arguments)
        assert status == 0
        assert says in output.err and ("left out" in output.err) == bool(says)
        if words[1] != "a.npy":
            found = test_sound.packets(pathlib.Path(words[1]))
            assert found == (expected if kept else [])
