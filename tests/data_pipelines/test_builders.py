"""Builders: captions in three forms, worlds that do not depend on workers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.builders import folder, world
from data_pipelines.worlds import bodies
from soraflax import media

CLIPS = Path(__file__).parent.parent / "data" / "clips"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with two good clips, one of them in a subfolder."""
    root = tmp_path / "clips"
    (root / "sub").mkdir(parents=True)
    shutil.copy(CLIPS / "shapes.png", root / "a.png")
    shutil.copy(CLIPS / "av1_video.mkv", root / "sub" / "b.MKV")
    return root


def _by_name(root: Path, captions: folder.Captions) -> dict[str, dict[str, str]]:
    root = root.resolve()
    return {
        path.relative_to(root).as_posix(): dict(texts)
        for path, texts in captions.texts.items()
    }


def test_captions_from_jsonl(clips: Path) -> None:
    lines = [
        {"file": "a.png", "caption": " a\n  circle ", "detailed": "", "likes": 3},
        {"file": "sub/b.MKV", "caption": "bars", "own words": "a test card"},
    ]
    (clips / "captions.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    found = folder.read_captions(clips)
    assert _by_name(clips, found) == {
        "a.png": {"caption": "a circle"},
        "sub/b.MKV": {"caption": "bars", "own words": "a test card"},
    }
    assert not found.failed


def test_captions_from_csv(clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text(
        '\ufefffile,caption,detailed\na.png,"a circle, red",\nsub/b.MKV,bars,"a\nb"\n',
        encoding="utf-8",
    )
    assert _by_name(clips, folder.read_captions(clips, path)) == {
        "a.png": {"caption": "a circle, red"},
        "sub/b.MKV": {"caption": "bars", "detailed": "a b"},
    }


@pytest.mark.parametrize("beside", [True, False])
def test_captions_from_text_files(clips: Path, tmp_path: Path, beside: bool) -> None:
    texts = clips if beside else tmp_path / "texts"
    (texts / "sub").mkdir(parents=True, exist_ok=True)
    (texts / "a.txt").write_text("a circle\n")
    (texts / "sub" / "b.txt").write_text("bars\n")
    found = folder.read_captions(clips, None if beside else texts)
    assert _by_name(clips, found) == {
        "a.png": {"caption": "a circle"},
        "sub/b.MKV": {"caption": "bars"},
    }


def test_caption_lines_that_fail_are_named(clips: Path) -> None:
    lines = [
        '{"file": "a.png", "caption": "first"}',
        '{"file": "a.png", "caption": "second"}',
        '{"file": "gone.mp4", "caption": "x"}',
        '{"caption": "x"}',
        "[1]",
        "{not json",
    ]
    (clips / "captions.jsonl").write_text("\n".join(lines))
    found = folder.read_captions(clips)
    assert _by_name(clips, found) == {"a.png": {"caption": "first"}}
    reasons = {line["input"]: line["reason"] for line in found.failed}
    assert list(reasons) == [f"captions.jsonl:{n}" for n in (2, 3, 4, 5, 6)]
    assert reasons["captions.jsonl:2"] == "file captioned before: a.png"
    assert reasons["captions.jsonl:3"] == "caption names a missing file: gone.mp4"
    assert "without a `file`" in reasons["captions.jsonl:4"]
    assert "not JSON" in reasons["captions.jsonl:6"]


def test_captions_given_by_name_are_found_beside_the_clips(clips: Path) -> None:
    (clips / "words.jsonl").write_text('{"file": "a.png", "caption": "first"}\n')
    found = folder.read_captions(clips, Path("words.jsonl"))
    assert _by_name(clips, found) == {"a.png": {"caption": "first"}}


def test_captions_that_name_nothing_are_refused(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(records.DatasetError, match=r"no captions\.jsonl"):
        folder.read_captions(clips)
    with pytest.raises(records.DatasetError, match="no such captions file"):
        folder.read_captions(clips, tmp_path / "gone.jsonl")
    with pytest.raises(records.DatasetError, match=r"come as \.jsonl, \.csv"):
        folder.read_captions(clips, tmp_path / "words.xml")
    path = tmp_path / "other.jsonl"
    path.write_text('{"file": "x.mp4", "caption": "x"}\n{"file": "y.mp4"}\n')
    with pytest.raises(records.DatasetError, match=r"none of its 2 lines.*x\.mp4"):
        folder.read_captions(clips, path)
    path.write_text("")
    with pytest.raises(records.DatasetError, match="none of its 0 lines"):
        folder.read_captions(clips, path)


def test_every_file_is_accounted_for(clips: Path) -> None:
    (clips / "bad.mp4").write_bytes(b"nothing like a video")
    (clips / "mute.gif").write_bytes(media.read_bytes(CLIPS / "movi_a_2.gif"))
    (clips / "notes.md").write_text("")
    (clips / "captions.jsonl").write_text(
        '{"file": "a.png", "caption": "x"}\n{"file": "bad.mp4", "caption": "x"}\n'
        '{"file": "sub/b.MKV", "caption": "x"}\n{"file": "gone.avi", "caption": "x"}\n'
    )
    captions = folder.read_captions(clips)
    good, report = folder.probe_clips(clips, captions)
    assert [clip.id for clip in good] == ["a.png", "sub/b.MKV"]
    assert {line["input"]: line.get("reason") for line in report} == {
        "captions.jsonl:4": "caption names a missing file: gone.avi",
        "a.png": None,
        "bad.mp4": "not a video or image",
        "mute.gif": "no caption",
        "sub/b.MKV": None,
        "notes.md": "not a video or image suffix: .md",
    }
    good, _ = folder.probe_clips(clips, captions, keep_uncaptioned=True)
    assert [clip.id for clip in good] == ["a.png", "mute.gif", "sub/b.MKV"]


def test_files_keep_their_bytes(clips: Path, tmp_path: Path) -> None:
    (clips / "a.txt").write_text("a circle")
    good, _ = folder.probe_clips(clips, folder.read_captions(clips))
    builder = folder.FolderClips(data_dir=tmp_path / "out", clips={"train": good})
    directory = builder.write()
    info = {"kind": "clips", "name": "folder"}
    records.write_metadata(tmp_path / "out", directory, info=info, report=[])
    (record,) = records.open_dataset(tmp_path / "out")
    assert record.video == (clips / "a.png").read_bytes()
    assert (record.id, record.frames, record.height, record.width) == (
        "a.png",
        1,
        80,
        120,
    )
    assert record.captions == {"caption": "a circle"}


def test_the_held_out_clips_depend_on_the_seed_alone() -> None:
    found = media.VideoInfo(1, 8, 8, 1.0, "", "")
    clips = [
        folder.ClipFile(f"{i}.png", Path(f"{i}.png"), found, {}) for i in range(20)
    ]
    one = folder.split(clips, validation=5, seed=0)
    assert len(one["validation"]) == 5 and len(one["train"]) == 15
    shuffled = folder.split(clips[::-1], validation=5, seed=0)
    assert set(shuffled["validation"] and (c.id for c in shuffled["validation"])) == {
        c.id for c in one["validation"]
    }
    assert folder.split(clips, validation=5, seed=1) != one


def test_a_world_is_the_same_whatever_the_workers() -> None:
    """Enough shots for processes to be started; tiny frames."""
    config = bodies.WorldConfig(sizes=((16, 16),), frames=(2,), gravity=0, bounce=0)
    shots = [world.ClipSpec(1, index, config) for index in range(64)]
    assert list(world.render_all(shots, workers=2)) == [world.render(s) for s in shots]


def test_rendered_records_hold_the_clip() -> None:
    config = bodies.VARIANTS["demo"]
    record = world.render(world.ClipSpec(4, 2, config))
    clip = bodies.render_clip(4, 2, config=config)
    np.testing.assert_array_equal(media.decode(record.video).frames, clip.video)
    assert record.captions == clip.captions and record.truth == clip.truth
    assert record.id == "bodies/4/000002"


def test_splits_of_a_world_share_no_stream_and_no_combination() -> None:
    shots = world.plan_splits(bodies.VARIANTS["demo"], count=10, validation=3, seed=2)
    assert [len(shots[k]) for k in ("train", "validation")] == [7, 3]
    assert {s.stream for s in shots["train"]} == {4}
    assert {s.stream for s in shots["validation"]} == {5}
    assert {s.config.holdout for s in shots["train"]} == {"exclude"}
    assert {s.config.holdout for s in shots["validation"]} == {"only"}
