"""Many shards, few of them open: the same examples, and damage found when read."""

import concurrent.futures
import pickle
from pathlib import Path

import pytest
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

from data_pipelines import shards

COUNTS = (3, 1, 5, 2, 4)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for shard, count in enumerate(COUNTS):
        paths.append(str(tmp_path / f"{shard}.array_record"))
        writer = array_record_module.ArrayRecordWriter(paths[-1], "group_size:1")
        for number in range(count):
            writer.write(f"{shard}/{number}".encode())
        writer.close()
    return paths


def _open(files: list[str], **options: int) -> shards.ShardedExamples:
    return shards.ShardedExamples(files, COUNTS, parse=bytes.decode, **options)


EXPECTED = [f"{shard}/{n}" for shard, count in enumerate(COUNTS) for n in range(count)]


@pytest.mark.parametrize("max_open", [1, 2, 64])
def test_every_example_in_order_with_few_shards_open(
    files: list[str], max_open: int
) -> None:
    source = _open(files, max_open=max_open)
    assert not source._open and len(source) == 15
    assert [source[index] for index in range(15)] == EXPECTED
    assert [source[index] for index in reversed(range(15))] == EXPECTED[::-1]
    assert len(source._open) == min(max_open, 5)
    for index in (-1, 15):
        with pytest.raises(IndexError, match=f"example {index} of 15"):
            _ = source[index]


def test_threads_share_shards_that_are_closed_under_them(files: list[str]) -> None:
    source = _open(files, max_open=1)
    indices = [index * 7 % 15 for index in range(600)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.__getitem__, indices))
    assert found == [EXPECTED[index] for index in indices]


def test_it_travels_to_workers_without_its_readers(files: list[str]) -> None:
    source = _open(files)
    assert source[4] == "2/0"
    again = pickle.loads(pickle.dumps(source))
    assert not again._open and again[4] == "2/0"


def test_a_shard_is_held_against_its_count_when_it_is_read(files: list[str]) -> None:
    whole = Path(files[2]).read_bytes()
    source = _open(files)
    for damaged in (b"", whole[: len(whole) // 2], bytes(len(whole))):
        Path(files[2]).write_bytes(damaged)
        with pytest.raises((ValueError, RuntimeError)):
            _ = source[5]
    assert source[0] == "0/0" and source[9] == "3/0"
    Path(files[2]).write_bytes(whole)
    assert source[5] == "2/1"


def test_a_shard_that_is_cut_off_while_it_is_open_gives_no_empty_records(
    files: list[str],
) -> None:
    source = _open(files)
    assert source[4] == "2/0"
    Path(files[2]).write_bytes(b"")
    with pytest.raises((ValueError, RuntimeError)):
        _ = source[5]


def test_bytes_that_are_no_example_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="no example"):
        shards.parse_example(b"\xff\xff")
