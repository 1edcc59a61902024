"""What commands leave on disk: whole results with their record, and previews."""

import argparse
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import resource
import shlex
import tracemalloc

import numpy as np
import pytest

import soraflax
from soraflax import media
from soraflax.cli import outputs
from soraflax.diffusion import samplers
from soraflax.generation import generator, provenance
from soraflax.media import common
from tests.cli import conftest
from tests.generation import tiny

SUFFIXES = (".mp4", ".mkv", ".gif", ".png")


def moving(frames=6, height=32, width=48):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (frames, height, width, 3)).astype(np.uint8)


def made(**changes):
    values = {
        "task": "generate",
        "prompt": "a “red” circle, 猫 👩‍👩‍👧",
        "negative": "",
        "seed": 3,
        "size": (48, 32),
        "frames": 6,
        "fps": 8.0,
        "sampling": generator.SamplingConfig(steps=4, sampler=samplers.Heun()),
        "command": ["soraflax", "generate", "a “red” circle"],
    }
    return provenance.Provenance(**(values | changes))


def below(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(path, *, frames=None, record=None):
    frames = moving(1 if path.suffix == ".png" else 6) if frames is None else frames
    outputs.write(
        path, iter(frames), fps=8.0, record=record or {"generator": "soraflax"}
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_record_is_in_the_file_and_beside_it(suffix, tmp_path):
    record = provenance.record(made(prompt="a “red” 猫 " * 400), tiny.model())
    path = tmp_path / "new" / f"out{suffix}"
    write(path, record=record)
    assert media.read_metadata(path) == record
    beside = outputs.sidecar(path).read_text(encoding="utf-8")
    assert json.loads(beside) == record
    assert "猫" in beside  # for people to read
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"{path.name}.json"}


def test_a_record_says_what_made_it():
    model = tiny.model()
    record = provenance.record(made(options={"strength": np.float32(0.5)}), model)
    assert record["generated"] is True
    assert record["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert (record["generator"], record["version"]) == (
        "soraflax",
        soraflax.__version__,
    )
    assert record["prompt"] == "a “red” circle, 猫 👩‍👩‍👧"
    assert (record["seed"], record["size"], record["fps"]) == (3, [48, 32], 8.0)
    assert record["sampling"]["steps"] == 4
    assert record["sampling"]["sampler"] == {"kind": "Heun"}
    assert record["options"] == {"strength": 0.5}
    assert record["checkpoint"]["transformer"] == model.digest
    assert record["checkpoint"]["autoencoder"] == model.autoencoder.digest
    assert shlex.split(record["command"])[2] == "a “red” circle"
    assert record == json.loads(json.dumps(record))


def test_a_result_made_from_files_is_a_composite_and_names_them(tmp_path):
    clip = tmp_path / "deep" / "clip.mp4"
    clip.parent.mkdir()
    clip.write_bytes(b"pixels")
    record = provenance.record(made(inputs={"video": clip}), tiny.model())
    assert record["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    digest = hashlib.sha256(b"pixels").hexdigest()
    assert record["inputs"] == {"video": {"file": "clip.mp4", "sha256": digest}}
    assert str(tmp_path) not in json.dumps(record)
    gone = made(inputs={"video": tmp_path / "gone.mp4"})
    with pytest.raises(media.MediaError, match=r"gone\.mp4: no such file"):
        provenance.record(gone, tiny.model())


def test_what_has_no_place_in_json_is_refused():
    with pytest.raises(TypeError):
        provenance.record(made(options={"x": object()}), tiny.model())
    with pytest.raises(ValueError, match="JSON"):
        provenance.record(made(fps=float("nan")), tiny.model())


def test_places_are_numbered_where_there_are_several():
    out = pathlib.Path("a/b.c.mp4")
    assert outputs.result_paths(out, 1) == [out]
    names = [str(path) for path in outputs.result_paths(out, 3)]
    assert names == ["a/b.c-0.mp4", "a/b.c-1.mp4", "a/b.c-2.mp4"]
    assert len({outputs.sidecar(path) for path in outputs.result_paths(out, 3)}) == 3


def test_results_of_one_stem_share_no_name():
    paths = [pathlib.Path(f"a{suffix}") for suffix in SUFFIXES]
    paths += outputs.result_paths(pathlib.Path("a-0.mp4"), 2)
    paths += outputs.result_paths(pathlib.Path("a.mp4"), 2)
    derived = [
        {path, outputs.sidecar(path)}
        | {outputs.preview_path(path, frames=frames) for frames in (1, 2)}
        for path in paths
    ]
    assert len(set.union(*derived)) == sum(map(len, derived))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_longest_name_can_be_written_twice(suffix, tmp_path):
    longest = common.MAX_NAME - len(".json")
    path = tmp_path / ("é" * 100 + "x" * (longest - 200 - len(suffix)) + suffix)
    frames = 1 if suffix == ".png" else 6
    for seed in (1, 2):
        outputs.check_result(path, frames=frames, fps=8.0, size=(48, 32))
        write(path, record={"generator": "soraflax", "seed": seed})
        assert json.loads(outputs.sidecar(path).read_text())["seed"] == seed
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("length", "previewed", "says"),
    [
        (255, False, "a name of 260 bytes: use 255 or fewer"),
        (251, False, "a name of 256 bytes"),
        (260, False, "a name of 260 bytes"),
        (244, True, "a name of 256 bytes"),
        (243, True, None),
        (250, False, None),
    ],
)
def test_every_name_is_checked_before_the_work(length, previewed, says, tmp_path):
    path = tmp_path / "deep" / ("x" * (length - 4) + ".mp4")
    refused = pytest.raises(media.MediaError, match=says)
    with refused if says else contextlib.nullcontext():
        outputs.check_result(
            path, frames=6, fps=8.0, size=(48, 32), previewed=previewed
        )
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_too_long_is_refused(tmp_path):
    deep = tmp_path.joinpath(*["x" * 200] * 21)
    with pytest.raises(media.MediaError, match=r"a path [0-9]+ bytes too long"):
        outputs.check_result(deep / "a.mp4", frames=6, fps=8.0, size=(48, 32))


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    path = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    with pytest.raises(media.MediaError, match="name is not UTF-8") as error:
        outputs.check_result(path, frames=6, fps=8.0, size=(48, 32))
    str(error.value).encode("utf-8")


def test_a_preview_replaces_nothing_but_a_preview(tmp_path):
    path = tmp_path / "out.mp4"
    preview = outputs.preview_path(path, frames=6)
    about: dict = {"frames": 6, "fps": 8.0, "size": (48, 32)}
    media.write_video(preview, moving(), fps=8.0)
    outputs.check_result(path, **about)
    with pytest.raises(
        media.MediaError, match=r"preview would replace .*which is none"
    ):
        outputs.check_result(path, **about, previewed=True)
    with pytest.raises(ValueError), outputs.PreviewWriter(path, shown, fps=2.0) as show:
        show(ramp(4))
        raise ValueError
    outputs.check_result(path, **about, previewed=True)


@pytest.fixture
def crowded(tmp_path, monkeypatch):
    """A directory in which much is in the way."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("file").write_text("")
    pathlib.Path("folder.mp4").mkdir()
    pathlib.Path("beside.mp4.json").mkdir()
    pathlib.Path("notes.mp4.json").write_text('{"mine": 1}')
    pathlib.Path("list.mkv.json").write_text("[1]")
    pathlib.Path("binary.mp4.json").write_bytes(b"\xff\xfe")
    pathlib.Path("deep.mp4.json").write_text("[" * 100_000)
    write(pathlib.Path("earlier.mp4"))
    pathlib.Path("link.mp4").symlink_to("earlier.mp4")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("out.avi", r"cannot write '\.avi': \.gif, \.mkv, \.mp4, \.png"),
        ("out", "cannot write 'no suffix'"),
        ("out.png", "a png holds one frame, not 6: use .gif"),
        ("folder.mp4", r"folder\.mp4: is a directory"),
        ("file/out.mp4", "file is a file, not a directory"),
        (
            "beside.mp4",
            r"replace beside\.mp4\.json, which soraflax did not write",
        ),
        ("notes.mp4", r"would replace notes\.mp4\.json"),
        ("list.mkv", r"would replace list\.mkv\.json"),
        ("binary.mp4", r"would replace binary\.mp4\.json"),
        ("deep.mp4", r"would replace deep\.mp4\.json"),
        ("earlier.mp4", r"would replace the input earlier\.mp4"),
        ("link.mp4", r"would replace the input earlier\.mp4"),
    ],
)
def test_bad_places_are_refused_before_the_work(name, says, crowded):
    before = below(crowded)
    with pytest.raises(media.MediaError, match=says) as error:
        outputs.check_result(
            pathlib.Path(name),
            frames=6,
            fps=8.0,
            size=(48, 32),
            inputs=[pathlib.Path("earlier.mp4"), pathlib.Path("gone.mp4")],
        )
    assert "\n" not in str(error.value)
    assert below(crowded) == before


def test_a_directory_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    for name in ("out.mp4", "new/deep/out.mp4"):
        with pytest.raises(media.MediaError, match="no permission to write to"):
            outputs.check_result(tmp_path / name, frames=6, fps=8.0, size=(48, 32))


def test_an_earlier_result_may_be_replaced(crowded):
    path = pathlib.Path("earlier.mp4")
    outputs.check_result(path, frames=6, fps=8.0, size=(48, 32))
    record = provenance.record(made(), tiny.model())
    write(path, record=record)
    assert json.loads(outputs.sidecar(path).read_text()) == record


@contextlib.contextmanager
def room_for(size):
    """Files of more than so many bytes cannot be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_an_earlier_result_as_it_was(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    write(path, record={"generator": "soraflax", "prompt": "x" * 2000})
    before, size = below(tmp_path), path.stat().st_size
    assert size > 2**12
    record = {"generator": "soraflax", "prompt": "y" * 2000}
    for room in (0, 2**10, size // 2, size - 1):
        with room_for(room), pytest.raises(media.MediaError, match=path.name) as error:
            write(path, record=record)
        assert "\n" not in str(error.value)
        assert below(tmp_path) == before
        with room_for(room), pytest.raises(media.MediaError):
            write(tmp_path / "new" / path.name, record=record)
        assert not (tmp_path / "new").exists()
    with room_for(size):
        write(path, record=record)
    assert media.read_metadata(path)["prompt"] == "y" * 2000


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, ""), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [0, 1])
def test_both_files_appear_or_neither(earlier, error, at, tmp_path, monkeypatch):
    """Whichever call of the file system is the one that fails."""
    path = tmp_path / "out.mkv"
    if earlier:
        write(path)
    before, calls = below(tmp_path), []
    replace = os.replace

    def fails(source, target):
        if os.fspath(target) in (str(path), str(outputs.sidecar(path))):
            calls.append(target)
        if len(calls) == at + 1 and target == calls[-1]:
            raise error
        replace(source, target)

    monkeypatch.setattr(common.os, "replace", fails)
    stopped = media.MediaError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(stopped):
        write(path, frames=moving()[::-1])
    monkeypatch.undo()
    assert below(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif"])
def test_frames_are_not_kept(suffix, tmp_path):
    """Minutes of video pass through in the memory of a few frames."""
    frame = moving(1, 96, 128)[0]
    drawn = (frame.copy() for _ in range(200))
    outputs.write(tmp_path / f"warm{suffix}", [frame] * 2, fps=8.0, record={})
    tracemalloc.start()
    outputs.write(tmp_path / f"out{suffix}", drawn, fps=8.0, record={})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * frame.nbytes


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif"])
def test_frames_that_stop_leave_what_was_there(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    write(path)
    before = below(tmp_path)

    def stopped():
        yield from moving(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, frames=stopped())
    assert below(tmp_path) == before


def test_a_file_system_without_links_keeps_earlier_results_too(tmp_path, monkeypatch):
    path = tmp_path / "out.mkv"
    write(path)
    before = below(tmp_path)

    def no_links(source, target):
        raise OSError(errno.EPERM, "operation not permitted")

    monkeypatch.setattr(common.os, "link", no_links)
    reversed_frames = moving()[::-1]
    write(path, frames=reversed_frames)
    np.testing.assert_array_equal(media.read_video(path).frames, reversed_frames)
    monkeypatch.setattr(common.os, "replace", refuse_second(os.replace))
    with pytest.raises(media.MediaError, match="no space"):
        write(path)
    monkeypatch.undo()
    np.testing.assert_array_equal(media.read_video(path).frames, reversed_frames)
    assert below(tmp_path).keys() == before.keys()


def refuse_second(replace):
    """Fails when the sidecar's turn comes."""

    def fails(source, target):
        if pathlib.Path(target).suffix == ".json" and "old" not in str(source):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    return fails


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "a red circle", "--checkpoint", "demo/video"],
        ["generate", "a “red” circle", "--checkpoint", "a b", "--size", "96x64"],
        ["generate", "--checkpoint=c", "--guidance=-1", "--", "-dash $HOME"],
        ["generate", "", "--checkpoint=c", "--negative-prompt=-x", "--seconds=2"],
    ],
)
def test_a_command_can_be_repeated(words):
    name, *words = words
    words = [name, "--num-videos=4", "--out=x.gif", *words]
    args = conftest.parsers()[0].parse_args(words)
    again = outputs.repeat_command(args, positional=["prompt"], seed=7)
    assert again[0] == "soraflax"
    parsed = conftest.parsers()[0].parse_args(shlex.split(shlex.join(again))[1:])
    expected = vars(args) | {"seed": 7, "num_videos": 1, "out": parsed.out}
    assert vars(parsed) == expected


def test_flags_are_repeated_as_they_were_given():
    args = argparse.Namespace(
        command="edit", video=pathlib.Path("a.mp4"), prompt=None, fast=True, slow=False,
        mask=["a.png", "b.png"], size=(96, 64), preview=True, seed=0,
    )  # fmt: skip
    words = outputs.repeat_command(args, positional=("video", "prompt"), seed=1)
    flags = ["--fast", "--mask=a.png", "--mask=b.png", "--size=96x64", "--seed=1"]
    assert words == ["soraflax", "edit", *flags, "a.mp4"]


def test_notes_are_told_a_line_each(capsys):
    notes = ["a\nb.png: resized", "prompt of 99 tokens: 63 are used"]
    outputs.print_notes("animate", notes)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "soraflax animate: a b.png: resized",
        "soraflax animate: prompt of 99 tokens: 63 are used",
    ]


@dataclasses.dataclass
class Clock:
    now: float = 0.0

    def __call__(self):
        return self.now


def ramp(frames, level=0):
    """Latents that differ from frame to frame: equal ones are one frame of a gif."""
    return np.full((frames, 8, 8, 4), level) + 8 * np.arange(frames).reshape(
        -1, 1, 1, 1
    )


def shown(latent):
    return np.broadcast_to(latent[..., :3], (*latent.shape[:3], 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("frames", "name"), [(1, "out.mp4.preview.png"), (4, "out.mp4.preview.gif")]
)
def test_previews_come_at_most_so_often_and_go_with_the_result(frames, name, tmp_path):
    clock = Clock()
    out = tmp_path / "out.mp4"
    written = []
    with outputs.PreviewWriter(out, shown, fps=2.0, every=5.0, clock=clock) as preview:
        assert preview.path is None
        for second in range(12):
            clock.now = float(second)
            if preview(ramp(frames, 20 * second)):
                written.append(second)
                assert preview.path == tmp_path / name
                video = media.read_video(preview.path)
                assert video.frames.shape == (frames, 8, 8, 3)
                assert abs(int(video.frames[0, 0, 0, 0]) - 20 * second) <= 5
                assert media.read_metadata(preview.path)["generated"] is True
        write(out)
    assert written == [0, 5, 10]
    assert {p.name for p in tmp_path.iterdir()} == {"out.mp4", "out.mp4.json"}


def test_slow_previews_come_less_often(tmp_path):
    clock, written = Clock(), []

    def slow(latent):
        clock.now += 2.0
        return shown(latent)

    preview = outputs.PreviewWriter(
        tmp_path / "out.mp4", slow, fps=2.0, every=5.0, clock=clock
    )
    while clock.now < 100:
        now, due = clock.now, preview.due
        assert preview(ramp(4)) == due
        written += [now] if due else []
        clock.now += 1.0
    assert written == [0, 20, 40, 60, 80]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_last_preview_stays_when_the_work_stops(error, tmp_path):
    with (
        pytest.raises(error),
        outputs.PreviewWriter(tmp_path / "out.mp4", shown, fps=2.0) as preview,
    ):
        preview(ramp(4))
        raise error
    preview_path = tmp_path / "out.mp4.preview.gif"
    assert media.read_video(preview_path).frames.shape == (4, 8, 8, 3)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_preview_that_cannot_be_written_does_not_stop_the_work(tmp_path, capsys):
    latent = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 4))
    with outputs.PreviewWriter(tmp_path / "out.mp4", shown, fps=2.0) as preview:
        with room_for(64):
            assert not preview(latent)
        assert not preview(latent)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no more previews" in error
    assert list(tmp_path.iterdir()) == []
