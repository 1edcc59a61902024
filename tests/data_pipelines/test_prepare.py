"""The command, as users call it: folders and worlds in, datasets out."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import prepare, records, vocabulary
from data_pipelines.worlds import bodies
from soraflax import media

CLIPS = Path(__file__).parent.parent / "data" / "clips"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Four small files of different kinds with captions."""
    root = tmp_path / "clips"
    root.mkdir()
    names = ("shapes.png", "av1_video.mkv", "movi_a_2.gif", "testsrc2_12bit_hdr.mp4")
    for name in names:
        shutil.copy(CLIPS / name, root)
    lines = (CLIPS / "captions.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["file"] in names]
    (root / "captions.jsonl").write_text("\n".join(kept) + "\n")
    return root


def _run(*args: object) -> int:
    return prepare.main([str(arg) for arg in args])


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, without the progress bars before it."""
    out = capsys.readouterr()
    lines = [line for line in out.err.replace("\r", "\n").splitlines() if line]
    assert lines[-1].startswith("prepare: ")
    assert sum(line.startswith("prepare: ") for line in lines) == 1
    assert not out.out
    return lines[-1]


def test_the_shipped_clips_all_become_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "data"
    captions = CLIPS / "captions.jsonl"
    assert _run("--input", CLIPS, "--captions", captions, "--output", output) == 0
    splits = ("train", "validation")
    train, held = (records.open_dataset(output, s, verify=True) for s in splits)
    assert (len(train), len(held)) == (19, 2)
    names = {clip.id for clip in (*train, *held)}
    assert names == {p.name for p in CLIPS.iterdir() if p.suffix in media.SUFFIXES}
    for clip in (*train, *held):
        assert set(clip.captions) == {"caption", "detailed"}
        video = media.decode(clip.video, max_frames=1)
        assert video.frames.shape == (1, clip.height, clip.width, 3)
        assert video.fps == pytest.approx(clip.fps)
    assert train.info["outcomes"] == {"kept": 21, "ignored": 1}
    assert "21 clips (19 train, 2 validation)" in capsys.readouterr().out


def test_failures_are_reported_and_strict_refuses_them(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "cut.mp4").write_bytes(
        media.read_bytes(CLIPS / "testsrc2_12bit_hdr.mp4")[:30000]
    )
    with (clips / "captions.jsonl").open("a") as file:
        file.write('{"file": "cut.mp4", "caption": "x"}\n')
        file.write('{"file": "gone.mp4", "caption": "x"}\n')
    output = tmp_path / "data"
    assert _run("--input", clips, "--output", output, "--strict") == 2
    assert "2 failed (strict); first: captions.jsonl:6" in _error(capsys)
    assert not output.exists()
    assert _run("--input", clips, "--output", output) == 0
    out = capsys.readouterr().out
    assert "failed: captions.jsonl:6: caption names a missing file: gone.mp4" in out
    assert "failed: cut.mp4: " in out
    report = {line["input"]: line for line in records.read_report(output)}
    assert len(report) == 6
    assert report["cut.mp4"]["outcome"] == "failed"
    kept = [line for line in report.values() if line["outcome"] == "kept"]
    assert {line["split"] for line in kept} == {"train", "validation"}


@pytest.mark.parametrize(
    ("args", "splits"),
    [
        ([], {"train": 3, "validation": 1}),
        (["--validation-fraction", "0"], {"train": 4}),
        (["--validation-fraction", "0.5"], {"train": 2, "validation": 2}),
        (["--validation-count", "3"], {"train": 1, "validation": 3}),
    ],
)
def test_how_many_are_held_out(
    clips: Path, tmp_path: Path, args: list[str], splits: dict[str, int]
) -> None:
    assert _run("--input", clips, "--output", tmp_path / "data", *args) == 0
    assert records.read_info(tmp_path / "data")["splits"] == splits


def test_clips_without_captions_are_kept_on_request(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "captions.jsonl").unlink()
    output = tmp_path / "data"
    assert _run("--input", clips, "--output", output) == 2
    assert "name a captions file with --captions" in _error(capsys)
    assert _run("--input", clips, "--output", output, "--keep-uncaptioned") == 0
    clip = records.open_dataset(output)[0]
    assert clip.captions == {}


def test_bad_folders_end_in_one_line(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"file": "x.mp4", "caption": "x"}\n')
    output = tmp_path / "data"
    cases = [
        (["--input", tmp_path / "gone"], "no such folder of clips"),
        (["--input", wrong], "none of its 1 lines names a file"),
        (["--input", CLIPS / "shapes.png"], "is a file, not a folder of clips"),
        (["--input", empty], "no video or image files in it"),
        (["--input", clips, "--captions", wrong], "none of its 1 lines names a file"),
        (["--input", clips, "--captions", tmp_path / "no.csv"], "no such captions"),
        (["--input", clips, "--validation-count", "4"], "use 3 or less"),
        (["--input", clips, "--validation-fraction", "1"], "use 0 or more, below 1"),
    ]
    for args, message in cases:
        assert _run(*args, "--output", output) == 2
        assert message in _error(capsys)
        assert not output.exists()
    assert _run("--input", clips, "--output", wrong / "x" / "data") == 2
    captured = capsys.readouterr().err
    assert captured.endswith("wrong.jsonl is a file, not a directory\n")
    assert "probing" not in captured
    for path in clips.iterdir():
        if path.suffix != ".jsonl":
            path.write_bytes(b"damaged")
    assert _run("--input", clips, "--output", output) == 2
    assert "no clip can be used; first: av1_video.mkv: not a video" in _error(capsys)
    assert {p.name for p in tmp_path.iterdir()} == {"clips", "empty", "wrong.jsonl"}


def test_names_that_no_file_can_have_are_reported(clips: Path, tmp_path: Path) -> None:
    with (clips / "captions.jsonl").open("a") as file:
        file.write('{"file": "a\\u0000.mp4", "caption": "x"}\n')
        file.write(json.dumps({"file": "a" * 300 + ".mp4", "caption": "x"}) + "\n")
    assert _run("--input", clips, "--output", tmp_path / "data") == 0
    report = records.read_report(tmp_path / "data")
    failed = [line["reason"] for line in report if line["outcome"] == "failed"]
    assert len(failed) == 2
    assert "impossible file 'a\\x00.mp4': embedded null" in failed[0]
    assert "File name too long" in failed[1]


@pytest.mark.parametrize("main", [prepare.main, vocabulary.main])
def test_bad_arguments_are_one_line(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--count", "abc", "--world", "bodies", "--output", "x"])
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "--help" in error
    assert "abc" in error


def test_an_output_in_the_way_is_kept_unless_told(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "data"
    assert _run("--input", clips, "--output", output) == 0
    capsys.readouterr()
    before = (output / "manifest.json").read_bytes()
    assert _run("--input", clips, "--output", output) == 2
    assert "--overwrite replaces it" in _error(capsys)
    assert (output / "manifest.json").read_bytes() == before
    more = ["--overwrite", "--validation-fraction", "0"]
    assert _run("--input", clips, "--output", output, *more) == 0
    assert records.read_info(output)["splits"] == {"train": 4}
    capsys.readouterr()
    assert _run("--input", clips, "--output", clips, "--overwrite") == 2
    assert "holds no dataset, so it is not overwritten" in _error(capsys)


def test_a_world_becomes_the_same_dataset_every_time(tmp_path: Path) -> None:
    made = [tmp_path / "one", tmp_path / "two"]
    for output in made:
        args = ["--world", "bodies", "--count", 12, "--seed", 3, "--workers", 1]
        assert _run(*args, "--output", output) == 0
    for name in (records.MANIFEST, records.INFO, records.REPORT):
        assert (made[0] / name).read_bytes() == (made[1] / name).read_bytes()
    train = records.open_dataset(made[0], verify=True)
    assert train.info["splits"] == {"train": 11, "validation": 1}
    assert train.info["captions"] == {"short": 12, "detailed": 12}
    config = bodies.VARIANTS["demo"]
    exclude = {"holdout": "exclude"}
    clip = bodies.render_clip(6, 4, config=type(config)(**(vars(config) | exclude)))
    np.testing.assert_array_equal(media.decode(train[4].video).frames, clip.video)
    assert train[4].truth == clip.truth


def test_clips_that_a_program_renders_become_a_dataset(tmp_path: Path) -> None:
    config = bodies.VARIANTS["images"]
    made = [bodies.render_clip(4, index, config=config) for index in range(3)]
    output = tmp_path / "own"
    clips = {"train": iter(made[:2]), "validation": made[2:]}
    info = prepare.prepare_rendered("own", output, clips=clips, about={"mine": 1})
    assert info["splits"] == {"train": 2, "validation": 1}
    assert info["about"] == {"mine": 1} and info["captions"]["detailed"] == 3
    (record,) = records.open_dataset(output, "validation")[:]
    assert record.id == "own/validation/000000"
    assert record.captions == made[2].captions and record.truth == made[2].truth
    decoded = media.decode(record.video, name="record").frames
    assert (decoded == made[2].video).all()
    with pytest.raises(records.DatasetError):
        prepare.prepare_rendered("own", output, clips=clips, about={})


def test_bad_worlds_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (["--world", "planets"], "unknown world 'planets'; there are: bodies, room"),
        (["--world", "bodies", "--variant", "x"], "there are: demo"),
        (["--world", "bodies", "--count", 0], "count=0"),
        (["--world", "bodies", "--seed", -1], "seed=-1"),
    ]
    for args, message in cases:
        assert _run(*args, "--output", tmp_path / "data") == 2
        assert message in _error(capsys)
    assert not list(tmp_path.iterdir())


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        _run("--help")
    out = capsys.readouterr().out
    assert "--world bodies --variant demo" in out and "--captions" in out


def test_what_people_have_on_their_disks(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links, names that are not UTF-8 and captions with controls, beside good clips."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(CLIPS / "shapes.png", elsewhere / "far.png")
    (clips / "linked").symlink_to(elsewhere)
    (clips / "round").symlink_to(clips)
    (clips / "same.png").symlink_to(clips / "shapes.png")
    shutil.copy(
        CLIPS / "shapes.png",
        os.path.join(os.fsencode(clips), b"caf\xe9.png").decode(
            "utf-8", "surrogateescape"
        ),
    )
    with (clips / "captions.jsonl").open("a") as file:
        for name in ("linked/far.png", "same.png"):
            line = {"file": name, "caption": "smile \ud83d\x07"}
            file.write(json.dumps(line) + "\n")
    output = tmp_path / "data"
    assert _run("--input", clips, "--output", output) == 0
    report = {line["input"]: line for line in records.read_report(output)}
    assert report["caf\\xe9.png"]["outcome"] == "failed"
    assert report["round"]["outcome"] == "ignored"
    kept = {name for name, line in report.items() if line["outcome"] == "kept"}
    assert {"linked/far.png", "same.png", "shapes.png"} < kept
    clip = {c.id: c for c in records.open_dataset(output)} | {
        c.id: c for c in records.open_dataset(output, "validation")
    }
    assert clip["same.png"].captions == {"caption": "smile \ufffd"}
    assert clip["shapes.png"].captions != clip["same.png"].captions
    out = capsys.readouterr().out
    assert "failed: caf\\xe9.png: its name is not UTF-8: rename it" in out
    assert "changed: same.png: caption: 1 bytes or surrogates" in out


def test_an_output_whose_name_is_not_utf8_is_refused_first(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = os.fsdecode(os.fsencode(tmp_path) + b"/data\xff")
    assert _run("--input", clips, "--output", output) == 2
    assert "its name is not UTF-8" in _error(capsys)
    assert not os.path.exists(output)
