"""Damaged files of every kind through a curation; `make fuzz` takes many more."""

from tests.data_pipelines.curate import fuzz


def test_a_hundred_damaged_files_are_all_accounted_for() -> None:
    counts, found = fuzz.run(100, seed=2)
    assert found == []
    assert counts["failed"] > 20 and counts["kept"] > 10 and counts["rejected"] > 5
