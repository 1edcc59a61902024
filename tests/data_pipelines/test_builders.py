"""Builders: folders of clips, and worlds that do not depend on workers."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.builders import captions, files, folder, world
from data_pipelines.worlds import bodies
from soraflax import media
from soraflax.media import formats

CLIPS = Path(__file__).parent.parent / "data" / "clips"


def test_every_file_is_accounted_for(clips: Path) -> None:
    (clips / "bad.mp4").write_bytes(b"nothing like a video")
    (clips / "mute.gif").write_bytes(media.read_bytes(CLIPS / "movi_a_2.gif"))
    (clips / "notes.md").write_text("")
    (clips / "captions.jsonl").write_text(
        '{"file": "a.png", "caption": "x"}\n{"file": "bad.mp4", "caption": "x"}\n'
        '{"file": "sub/b.MKV", "caption": "x"}\n{"file": "gone.avi", "caption": "x"}\n'
    )
    found = files.find_files(clips)
    texts = captions.read_captions(found)
    good, report = folder.probe_clips(found, texts)
    assert [clip.id for clip in good] == ["a.png", "sub/b.MKV"]
    assert {line["input"]: line.get("reason") for line in report} == {
        "captions.jsonl:4": "caption names a missing file: gone.avi",
        "a.png": None,
        "bad.mp4": f"not a video or image: use {formats.READ}",
        "mute.gif": "no caption",
        "sub/b.MKV": None,
        "notes.md": "not a video or image suffix: .md",
    }
    good, _ = folder.probe_clips(found, texts, keep_uncaptioned=True)
    assert [clip.id for clip in good] == ["a.png", "mute.gif", "sub/b.MKV"]


def test_files_keep_their_bytes(clips: Path, tmp_path: Path) -> None:
    (clips / "a.txt").write_text("a circle")
    found = files.find_files(clips)
    good, _ = folder.probe_clips(found, captions.read_captions(found))
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


def test_clips_that_are_one_file_are_held_out_together(tmp_path: Path) -> None:
    info = media.VideoInfo(1, 8, 8, 1.0, "", "")
    clips = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"")
        for name in (path.name, f"link{number}.png"):
            link = tmp_path / name
            if not link.exists():
                link.symlink_to(path)
            clips.append(folder.ClipFile(name, link, info, {}))
    for seed in range(5):
        parts = folder.split(clips, validation=5, seed=seed)
        held, kept = ({c.path.resolve() for c in part} for part in parts.values())
        assert not held & kept
        assert len(parts["validation"]) == 4


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


@pytest.mark.parametrize("name", list(world.WORLDS))
def test_every_world_has_records_of_its_own_name(name: str) -> None:
    config = world.WORLDS[name].VARIANTS["demo"]
    record = world.render(world.ClipSpec(4, 0, config))
    assert record.id == f"{name}/4/000000"
    assert record.captions["detailed"].startswith(record.captions["short"])
    assert media.decode(record.video).frames.shape[0] == record.frames


def test_splits_of_a_world_share_no_stream_and_no_combination() -> None:
    shots = world.plan_splits(bodies.VARIANTS["demo"], count=10, validation=3, seed=2)
    assert [len(shots[k]) for k in ("train", "validation")] == [7, 3]
    assert {s.stream for s in shots["train"]} == {4}
    assert {s.stream for s in shots["validation"]} == {5}
    assert {s.config.holdout for s in shots["train"]} == {"exclude"}
    assert {s.config.holdout for s in shots["validation"]} == {"only"}
