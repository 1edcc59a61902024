"""Digests: every file of a committed step, by shares, in the form of old steps too."""

import hashlib
import json
import pathlib

import pytest

from soraflax.train import digests


@pytest.fixture
def step(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "7"
    for name, data in {
        "config/metadata": b"{}",
        "state/ocdbt.process_0/d/a": b"abc" * 1000,
        "state/ocdbt.process_1/d/b": b"xyz" * 2000,
        "state/manifest": b"m",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_shares_and_the_rest_are_every_file(step: pathlib.Path) -> None:
    digests.write_share(step / "state", 0)
    digests.write_share(step / "state", 1)
    digests.seal(step)
    names = {str(path.relative_to(step)) for path in digests.files(step)}
    assert set(digests.read(step)) == names
    assert {path.name for path in step.iterdir()} == {"config", "state", "digests.json"}
    digests.verify(step)


def test_a_time_of_commit_added_later_is_no_damage(step: pathlib.Path) -> None:
    path = step / digests.METADATA
    path.write_text('{"items": ["state"], "commit_timestamp_nsecs": null}')
    digests.seal(step)
    path.write_text('{"items": ["state"], "commit_timestamp_nsecs": 5}')
    digests.verify(step)
    path.write_text('{"items": ["stale"], "commit_timestamp_nsecs": 5}')
    with pytest.raises(digests.CheckpointError, match="damaged"):
        digests.verify(step)


def test_readers_share_all_files(step: pathlib.Path) -> None:
    digests.seal(step)
    expected = digests.read(step)
    parts = [digests.share(expected, i, count=3) for i in range(3)]
    assert sorted(name for part in parts for name in part) == sorted(expected)
    assert all(parts)


def test_steps_sealed_by_earlier_versions(step: pathlib.Path) -> None:
    sums = {
        str(path.relative_to(step)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in digests.files(step)
    }
    (step / digests.DIGESTS).write_text(json.dumps(sums))
    digests.verify(step)
    (step / "state/manifest").write_bytes(b"n")
    with pytest.raises(digests.CheckpointError, match="damaged"):
        digests.verify(step)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"files": 3}', '{"files": {}}'])
def test_damaged_digests_are_refused(step: pathlib.Path, text: str) -> None:
    (step / digests.DIGESTS).write_text(text)
    with pytest.raises(digests.CheckpointError, match=r"digests\.json"):
        digests.verify(step)
