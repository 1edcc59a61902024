"""The step of a file: every hostile one is a row with a reason."""

import json
import os
import sys
from pathlib import Path

import pytest

from data_pipelines import storage
from data_pipelines.curate import observation, probing, settings
from soraflax import media
from tests.data_pipelines.curate import raw_files

DATA = Path(__file__).parents[2] / "data"


def _step(folder: Path, **changes: float) -> probing.FileStep:
    store = storage.Store(str(folder / "store"))
    probe = settings.ProbeSettings(**changes)
    return probing.FileStep(store, probe, settings.CutSettings())


def test_hostile_files_are_rows_with_a_reason(tmp_path: Path) -> None:
    good = raw_files.save(tmp_path / "good.mp4", raw_files.world(0)).read_bytes()
    hostile = {
        "empty.mp4": b"",
        "noise.mp4": os.urandom(4000),
        "playlist.mp4": b"#EXTM3U\n/etc/passwd\n",
        "cut.mp4": good[: len(good) // 2],
        "flipped.mp4": good[:3000] + bytes(64) + good[3064:],
        "zeros.webm": bytes(10_000),
        "text.gif": "GIF but not".encode("utf-16"),
    }
    step = _step(tmp_path)
    for name, data in hostile.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    for name in (*hostile, "gone.mp4"):
        path = str(tmp_path / name)
        row = step({"name": name, "path": path})
        assert row["error"] and "\n" not in row["error"], name
        assert not row["error"].startswith(path), name
        assert row["step"] == ("read" if name == "gone.mp4" else "probe")
        if name != "gone.mp4":  # remembered, and the same
            again = step({"name": name, "path": path})
            assert again["error"] == row["error"] and again["ran"] == []


def test_odd_files_are_measured_as_they_are_shown(tmp_path: Path) -> None:
    step = _step(tmp_path)
    faults = DATA / "faults"
    for name in ("late_start.mkv", "mat_hflip.mp4", "sar2.mp4", "exif2.jpg"):
        row = step({"name": name, "path": str(faults / name)})
        video = media.read_video(faults / name)
        assert "error" not in row, row
        info = row["info"]
        assert (info["frames"], info["height"], info["width"]) == video.frames.shape[:3]
        assert info["fps"] == pytest.approx(video.fps)
        assert row["shots"][0]["first"] == 0
        assert row["shots"][-1]["last"] == len(video) - 1


def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    raw_files.save(tmp_path / "a.mp4", raw_files.world(0))
    step = _step(tmp_path, total_seconds=1e-6)
    row = step({"name": "a.mp4", "path": str(tmp_path / "a.mp4")})
    assert row["error"] == "takes more than 1e-06 s in all: given up"
    patient = _step(tmp_path)({"name": "a.mp4", "path": str(tmp_path / "a.mp4")})
    assert "error" not in patient and patient["ran"] == ["probe", "shots"]


def test_a_changed_file_is_measured_again(tmp_path: Path) -> None:
    path, step = tmp_path / "a.mp4", _step(tmp_path)
    raw_files.save(path, raw_files.world(0))
    first = step({"name": "a.mp4", "path": str(path)})
    assert step({"name": "a.mp4", "path": str(path)}) == first | {"ran": []}
    raw_files.save(path, raw_files.world(1))
    second = step({"name": "a.mp4", "path": str(path)})
    assert second["sha256"] != first["sha256"] and second["ran"] == ["probe", "shots"]
    assert json.loads(json.dumps(second)) == second


def test_an_observation_survives_its_bytes(tmp_path: Path) -> None:
    path = raw_files.save(tmp_path / "a.mp4", raw_files.world(0))
    seen = probing.probe_file(str(path), settings.ProbeSettings())
    data = seen.to_bytes()
    again = observation.Observation.from_bytes(data)
    assert again.to_bytes() == data
    assert len(again.thumbnails) == len(again.at) > 3
    assert again.at[-1] == again.frames - 1 == 16
    with pytest.raises(ValueError, match="damaged observation"):
        observation.Observation.from_bytes(data[:-50])


def test_a_missing_detector_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    path = raw_files.save(tmp_path / "a.mp4", raw_files.world(0))
    rules = settings.ProbeSettings(detector="pyscenedetect")
    with pytest.raises(ImportError, match=r"soraflax\[scenes\]"):
        probing.probe_file(str(path), rules)


def test_a_scorer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="give module:function"):
        observation.load_scorer("nowhere:f")
    with pytest.raises(ValueError, match="unknown detector 'x'; there are: histogram"):
        settings.ProbeSettings(detector="x")
