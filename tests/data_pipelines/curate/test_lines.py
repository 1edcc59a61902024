"""Values on disk are those that were given, in order and by name."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.curate import lines

VALUES: list[Any] = [{"a": [1, 2.5, None]}, "half \ud83d of one", [], "x\ny", 0]


def test_values_come_back_by_number_and_in_order(tmp_path: Path) -> None:
    kept = lines.LineFile(tmp_path / "kept.jsonl")
    assert list(kept) == [] and not kept
    assert [kept.append(value) for value in VALUES] == list(range(len(VALUES)))
    assert list(kept) == VALUES == [kept[n] for n in range(len(VALUES))]
    kept.append("last")  # after some were read
    assert kept[-1] == "last" and len(kept) == len(VALUES) + 1
    assert list(kept) == list(kept) == [*VALUES, "last"]
    assert list(lines.read(kept.path)) == [*VALUES, "last"]
    with pytest.raises(IndexError):
        kept[len(kept)]


def test_what_was_appended_is_in_the_file_when_it_is_flushed(tmp_path: Path) -> None:
    kept = lines.LineFile(tmp_path / "kept.jsonl")
    kept.append({"name": "a"})
    kept.flush()
    assert json.loads(kept.path.read_text()) == {"name": "a"}
    again = lines.LineFile(kept.path)
    assert list(again) == []


def test_many_values_take_a_few_bytes_each(tmp_path: Path) -> None:
    kept = lines.LineFile(tmp_path / "kept.jsonl")
    tracemalloc.start()
    for number in range(5_000):
        kept.append({"number": number, "text": "word " * 100})
    assert sum(value["number"] for value in kept) == 5_000 * 4_999 // 2
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept.path.stat().st_size > 2_500_000
    assert peak < 500_000
    assert kept[4_321]["number"] == 4_321


def test_a_map_is_a_dictionary_of_its_names(tmp_path: Path) -> None:
    made, kept = {}, lines.LineMap(tmp_path / "kept.jsonl")
    for number, name in enumerate("banana"):
        made[name] = kept[name] = {"at": number}
    assert dict(kept) == made and list(kept) == list(made) == ["b", "a", "n"]
    del kept["n"]
    assert "n" not in kept and kept.get("n") is None and len(kept) == 2
    with pytest.raises(KeyError):
        kept["n"]


def test_without_a_folder_values_are_in_memory(tmp_path: Path) -> None:
    assert lines.values(None, "x") == [] and lines.mapping(None, "x") == {}
    lines.values(tmp_path, "x").append(1)
    lines.mapping(tmp_path, "y")["a"] = 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jsonl", "y.jsonl"]
