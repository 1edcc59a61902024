"""Curation by Beam's DirectRunner: the bytes that processes here make."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from data_pipelines import records, storage
from data_pipelines.curate import curation, runners, settings
from tests.data_pipelines.curate import raw_files


def _digests(dataset: Path) -> dict[str, str]:
    return {
        path.relative_to(dataset).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in dataset.rglob("*")
        if path.is_file()
    }


@pytest.mark.filterwarnings("default")
def test_the_direct_runner_makes_the_same_dataset(tmp_path: Path) -> None:
    raw = raw_files.write(tmp_path / "raw")
    made = {}
    for name, runner in {
        "local": runners.Local(),
        "beam": runners.Beam(["--runner=DirectRunner"]),
    }.items():
        job = curation.CurationJob(
            pattern=f"{raw}/**/*",
            output=str(tmp_path / name),
            store=storage.Store(str(tmp_path / f"{name}.store")),
        )
        info = curation.curate(job, settings.CurationSettings(), runner=runner)
        made[name] = (info, _digests(tmp_path / name))
    assert made["beam"] == made["local"]
    clips = records.open_dataset(tmp_path / "beam", verify=True)
    assert sorted(clip.id for clip in clips) == raw_files.KEPT
    again = dataclasses.replace(job, overwrite=True)
    info = curation.curate(again, settings.CurationSettings(), runner=runner)
    assert info["ran"] == {}
