"""The detectors of curation on labelled clips of the world, and the search."""

from pathlib import Path

import pytest

from experiments.benchmarks import curation


@pytest.fixture(scope="module")
def shots() -> list[curation.Shot]:
    return curation.world_shots(6, seed=3)


@pytest.mark.parametrize("detector", curation.DETECTORS)
def test_precision_and_recall(detector: str, shots: list[curation.Shot]) -> None:
    (line,) = curation.detector_lines(shots, [detector])
    assert line["positives"] >= 10
    assert line["precision"] >= 0.95 and line["recall"] >= 0.95, line


def test_a_search_finds_what_was_planted() -> None:
    line = curation.search_line(20_000)
    assert line["recall"] == 1.0
    assert line["false"] <= 3 and line["chance"] < 0.1


def test_a_tally_counts_what_is_wrong() -> None:
    tally = curation.Tally()
    for found, true in ((True, True), (True, False), (False, True), (False, False)):
        tally.add("x", found=found, true=true)
    assert (tally.precision, tally.recall, len(tally.wrong)) == (0.5, 0.5, 2)


def test_synthetic_files_are_different(tmp_path: Path) -> None:
    folder = curation.synthetic_files(tmp_path / "files", 40)
    data = {path.read_bytes() for path in folder.iterdir()}
    assert len(data) == 40


def test_a_film_from_frames_at_hand_is_that_decoded_again(
    shots: list[curation.Shot],
) -> None:
    line = curation.film_line(shots[:3], height=64)
    assert line["ok"], line
    assert line["shots"] == 3 and line["frames"] == sum(
        len(s.frames) for s in shots[:3]
    )
