"""Every hostile file in a curation: typed and named, or kept as what it shows."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from data_pipelines import records, storage
from data_pipelines.curate import (
    curation,
    probing,
    publishing,
    runners,
    settings,
)
from soraflax import media
from soraflax.media import guard
from tests.data_pipelines.curate import hostile, raw_files

NAMES = [*hostile.files(), "gone.mp4", "link.mp4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The dataset's folder, lines of its report by name, and what was expected."""
    folder = tmp_path_factory.mktemp("hostile")
    expected = hostile.write(folder / "raw")
    (folder / "outside.mp4").write_bytes(b"not to be read")
    job = curation.CurationJob(
        pattern=f"{folder}/raw/*",
        output=str(folder / "data"),
        store=storage.Store(str(folder / "store")),
    )
    free = {n: settings.Bounds() for n in ("motion", "frozen", "brightness", "borders")}
    rules = settings.CurationSettings(limits=free)
    curation.curate(job, rules, runner=runners.Local())
    lines = {line["input"]: line for line in records.read_report(folder / "data")}
    return {"data": folder / "data", "lines": lines, "expected": expected}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_becomes_what_it_should(made: dict[str, Any], name: str) -> None:
    line, expected = made["lines"][name], made["expected"][name]
    assert line["outcome"] == expected.outcome, line
    said = [line.get("reason", ""), *line.get("notes", ())]
    assert any(expected.said in text for text in said), line
    assert "\n" not in "".join(said)
    if expected.size is not None:
        assert (line["frames"], line["height"], line["width"]) == expected.size
    quarantined = (made["data"] / publishing.QUARANTINE).read_text().splitlines()
    in_log = name in {json.loads(entry)["clip"] for entry in quarantined}
    assert in_log == (expected.outcome != "kept")


def test_nothing_else_is_in_the_report_but_captions_of_no_use(
    made: dict[str, Any],
) -> None:
    others = {n: line for n, line in made["lines"].items() if n not in NAMES}
    assert all(line["outcome"] != "kept" for line in others.values())
    reasons = {name: line["reason"] for name, line in others.items()}
    assert any("captioned before" in r for r in reasons.values())
    assert sum("missing file" in r for r in reasons.values()) >= 1
    assert any("not JSON" in r for r in reasons.values())
    assert any("not UTF-8" in r for r in reasons.values())
    outside = [n for n in reasons if "outside.mp4" in n or "passwd" in n]
    assert len(outside) == 2
    assert all("not among the files" in reasons[n] for n in outside)


def test_what_is_kept_decodes_with_its_caption(made: dict[str, Any]) -> None:
    info = records.read_info(made["data"])
    clips = {
        clip.id: clip
        for split in info["splits"]
        for clip in records.open_dataset(made["data"], split, verify=True)
    }
    kept = {n for n, e in made["expected"].items() if e.outcome == "kept"}
    assert set(clips) == kept
    for clip in clips.values():
        shape = media.decode(clip.video, name=clip.id).frames.shape
        assert shape == (clip.frames, clip.height, clip.width, 3)
        assert 0 < clip.fps < 1000
    assert clips[hostile.DECOMPOSED].captions == {"caption": "a name in two forms"}
    long = clips["one_frame.mp4"].captions["caption"]
    assert "\0" not in long and 59_000 < len(long) < 61_000


def test_a_decoder_that_hangs_is_given_up(tmp_path: Path) -> None:
    path = raw_files.save(tmp_path / "a.mp4", raw_files.world(0))
    rules = settings.ProbeSettings(seconds=1.0)
    guard.probe(path, limits=rules.limits)  # a worker that waits
    (idle,) = guard._idle
    os.kill(idle.process.pid, signal.SIGSTOP)
    store = storage.Store(str(tmp_path / "store"))
    step = probing.FileStep(store, rules, settings.CutSettings())
    row = step({"name": "a.mp4", "path": str(path)})
    assert row["error"] == "no frame within 1 s: given up" and row["step"] == "probe"
