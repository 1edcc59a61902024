"""Datasets in buckets are read as those of a disk; faults of buckets are one line."""

import concurrent.futures
import os
import pathlib
import pickle
from typing import TYPE_CHECKING

import fsspec
import grain
import numpy as np
import pytest

from data_pipelines import (
    added_captions,
    export,
    inspect,
    latents,
    mirrors,
    pipeline,
    recaption,
    records,
    storage,
    verify,
)
from tests.data_pipelines import clip_data

if TYPE_CHECKING:
    from tests import emulated_bucket

CACHE = latents.LatentCacheConfig(
    fit=latents.transforms.FitConfig(max_tokens=64, max_frames=17), batch=2
)
NAME = "bucket/clips"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return clip_data.write_clips(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture(scope="module")
def cached(
    clips: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    path = tmp_path_factory.mktemp("data") / "latents"
    latents.cache_latents(clips, path, encoder=clip_data.encoder(), config=CACHE)
    return path


@pytest.fixture(autouse=True)
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where mirrors are; waits are short."""
    monkeypatch.setenv(mirrors.FOLDER, str(tmp_path / "mirrors"))
    monkeypatch.setattr(storage, "RETRY_SECONDS", (0.0, 0.0))
    mirrors._KNOWN.clear()
    return tmp_path / "mirrors"


def put(folder: pathlib.Path, url: str) -> str:
    """Copies a folder into a bucket, whatever its scheme."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            storage.write_bytes(storage.join(url, name), path.read_bytes())
    return url


def shards_of(folder: pathlib.Path, split: str = "train") -> list[str]:
    return [shard["file"] for shard in records.read_shards(folder, split)]


def copies(place: pathlib.Path) -> list[pathlib.Path]:
    """The shards on this machine."""
    return sorted(place.glob("**/[!.]*.array_record-*"))


def fetched(bucket: "emulated_bucket.Store") -> list[str]:
    return [n for method, n in bucket.requests if method == "GET" and ".array" in n]


@pytest.mark.parametrize("scheme", ["gs", "memory", "file"])
def test_a_dataset_of_any_bucket_is_that_of_the_disk(
    clips: pathlib.Path,
    cached: pathlib.Path,
    bucket: "emulated_bucket.Store",
    tmp_path: pathlib.Path,
    scheme: str,
) -> None:
    root = {"file": f"file://{tmp_path}/bucket"}.get(scheme, f"{scheme}://bucket")
    there = put(clips, f"{root}/clips"), put(cached, f"{root}/latents")
    for split in ("train", "validation"):
        assert list(records.open_dataset(there[0], split)) == list(
            records.open_dataset(clips, split)
        )
    # pathlib folds the slashes of a scheme.
    found, ours = (
        latents.open_latents(pathlib.Path(there[1])),
        latents.open_latents(cached),
    )
    assert found.info == ours.info and len(found) == len(ours)
    for a, b in zip(found, ours, strict=True):
        assert a.id == b.id and a.captions == b.captions
        np.testing.assert_array_equal(a.latent, b.latent)
    assert records.dataset_digest(there[0]) == records.dataset_digest(clips)
    assert records.read_report(there[0]) == records.read_report(clips)
    assert verify.verify(there[1]) == ours.info["splits"]
    if scheme == "memory":
        fsspec.filesystem("memory").store.clear()


def test_another_life_fetches_nothing_anew(
    clips: pathlib.Path,
    bucket: "emulated_bucket.Store",
    place: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = put(clips, f"gs://{NAME}")
    first = list(records.open_dataset(path))
    bucket.requests.clear()
    mirrors._KNOWN.clear()
    refused = [f"{NAME}/{shard}" for shard in shards_of(clips)]
    # Sizes are asked for, bytes are not.
    seen: list[str] = []
    again = records.open_dataset(path)
    bucket.refuse = lambda method, name: name in refused and not seen.append(name)
    assert list(again) == first and not seen
    # A dataset that was replaced is read anew, under the same address.
    bucket.refuse = lambda method, name: False
    other = clip_data.write_clips(place.parent / "other", train=4, validation=1)
    put(other, path)
    monkeypatch.setattr(mirrors, "TRUSTED_SECONDS", 0.0)
    assert list(records.open_dataset(path)) == list(records.open_dataset(other))
    assert len([p for p in place.iterdir() if p.is_dir()]) == 2


def test_without_a_cache_records_are_read_by_ranges(
    clips: pathlib.Path,
    bucket: "emulated_bucket.Store",
    place: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(mirrors.LIMIT, "0")
    path = put(clips, f"gs://{NAME}")
    found = records.open_dataset(path)
    assert list(found) == list(records.open_dataset(clips))
    assert not copies(place)
    assert fetched(bucket)


def test_batches_are_those_of_the_disk(
    cached: pathlib.Path, bucket: "emulated_bucket.Store"
) -> None:
    def rows(path: str) -> list[np.ndarray]:
        config = pipeline.PackedDataConfig(
            path=path,
            row=pipeline.packed_rows.RowShape(256, 64, 16),
            captions=latents.transforms.CaptionConfig(max_length=16),
            rows=2,
        )
        batches = iter(pipeline.make_dataset(config))
        return [np.asarray(next(batches).tokens) for _ in range(3)]

    path = put(cached, "gs://bucket/latents")
    np.testing.assert_array_equal(rows(path), rows(str(cached)))


def test_threads_fetch_a_shard_once(
    clips: pathlib.Path, bucket: "emulated_bucket.Store"
) -> None:
    path = put(clips, f"gs://{NAME}")
    found = records.open_dataset(path)
    copies = [found, *(pickle.loads(pickle.dumps(found)) for _ in range(3))]
    bucket.requests.clear()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: copies[n % 4][n % 12].id, range(48)))
    assert ids == [f"clip-{n % 12}" for n in range(48)]
    asked = fetched(bucket)
    # Once is up to three requests, of its facts and its bytes.
    assert len({*asked}) == 1 and len(asked) <= 3


def test_what_differs_from_the_manifest_is_refused(
    clips: pathlib.Path, bucket: "emulated_bucket.Store", place: pathlib.Path
) -> None:
    path, (shard,) = put(clips, f"gs://{NAME}"), shards_of(clips)
    whole = bucket.objects[f"{NAME}/{shard}"]
    flipped = bytes([*whole[:2000], whole[2000] ^ 1, *whole[2001:]])
    bucket.put(f"{NAME}/{shard}", flipped)
    expected = f"^gs://{NAME}/{shard}: differs from its manifest$"
    with pytest.raises(records.DatasetError, match=expected):
        _ = records.open_dataset(path)[0]
    with pytest.raises(records.DatasetError, match=expected):
        verify.verify(path)
    bucket.put(f"{NAME}/{shard}", whole[:2000])
    with pytest.raises(records.DatasetError, match="2000 bytes instead of"):
        records.open_dataset(path)
    bucket.remove(f"{NAME}/{shard}")
    with pytest.raises(records.DatasetError, match="shard is missing"):
        records.open_dataset(path)
    assert not copies(place)


def test_a_copy_that_was_damaged_here_is_fetched_again(
    clips: pathlib.Path, bucket: "emulated_bucket.Store", place: pathlib.Path
) -> None:
    path = put(clips, f"gs://{NAME}")
    expected = list(records.open_dataset(path))
    (copy,) = copies(place)
    whole = copy.read_bytes()
    for damaged in (whole[:100], bytes(len(whole))):
        copy.write_bytes(damaged)
        assert list(records.open_dataset(path)) == expected
        assert copy.read_bytes() == whole


@pytest.mark.parametrize("gigabytes", ["", "0"])
def test_a_bucket_that_fails_is_asked_again_then_it_is_one_line(
    clips: pathlib.Path,
    bucket: "emulated_bucket.Store",
    place: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    gigabytes: str,
) -> None:
    monkeypatch.setenv(mirrors.LIMIT, gigabytes)
    path, (shard,) = put(clips, f"gs://{NAME}"), shards_of(clips)
    found = records.open_dataset(path)
    times = [0]

    def refuse(method: str, name: str) -> bool:
        times[0] += name.endswith(shard)
        return name.endswith(shard) and times[0] <= most

    most = 1  # then it answers
    bucket.refuse = refuse
    assert found[3].id == "clip-3" and times[0] > 1
    most, times[0] = 10**6, 0
    for copy in copies(place):
        copy.unlink()
    with pytest.raises(records.DatasetError, match=f"{NAME}[^\n]*$") as caught:
        _ = records.open_dataset(path)[3]
    # Not the damage of a record, which training leaves out and goes on.
    assert not isinstance(caught.value, records.DamagedRecordError)


def test_a_bucket_that_is_gone_while_it_is_read_stops_training(
    clips: pathlib.Path,
    bucket: "emulated_bucket.Store",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(mirrors.LIMIT, "0")
    path, (shard,) = put(clips, f"gs://{NAME}"), shards_of(clips)
    stream = pipeline.sources.stream([records.open_dataset(path)], seed=0)
    assert isinstance(stream, grain.MapDataset) and stream[0] is not None
    bucket.refuse = lambda method, name: name.endswith(shard)
    with pytest.raises(storage.StorageError, match=NAME):
        for index in range(1, 12):
            _ = stream[index]


def test_the_cache_is_bounded(
    cached: pathlib.Path,
    bucket: "emulated_bucket.Store",
    place: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = put(cached, "memory://bucket/latents")
    paths = [memory, *(put(cached, f"gs://bucket/{n}") for n in range(3))]
    size = sum(s["bytes"] for s in records.read_shards(cached, "train"))
    monkeypatch.setenv(mirrors.LIMIT, str(2.5 * size / 1e9))
    expected = [record.id for record in latents.open_latents(cached)]

    def held() -> set[str]:
        return {copy.parents[2].name for copy in copies(place)}

    for path in (*paths, *paths):
        assert [record.id for record in latents.open_latents(path)] == expected
        assert sum(copy.stat().st_size for copy in copies(place)) <= 2.5 * size
    # What others use stays, and gs:// is read by ranges then.
    first, second, third = (mirrors.folder(path).name for path in paths[:3])
    assert held() == {first, second}
    # What nobody uses any more goes first.
    for copy in copies(place / second):
        os.utime(copy, (0, 0))
    _ = latents.open_latents(paths[2])[0]
    assert held() == {first, third}
    monkeypatch.setenv(mirrors.LIMIT, "much")
    with pytest.raises(records.DatasetError, match="much: use a number of gigabytes"):
        latents.open_latents(paths[3])
    fsspec.filesystem("memory").store.clear()


def test_commands_take_a_bucket(
    clips: pathlib.Path,
    bucket: "emulated_bucket.Store",
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = put(clips, f"gs://{NAME}")
    assert verify.main([path]) == 0
    out = str(tmp_path / "out")
    assert export.main([path, "--format", "hf", "--output", out]) == 0
    assert len(list((tmp_path / "out").rglob("*.jsonl"))) == 2
    lines = [f'{{"id": "clip-{n}", "caption": "it is {n}"}}\n' for n in range(15)]
    pathlib.Path("new.jsonl").write_text("".join(lines))
    words = [path, "--jsonl", "new.jsonl", "--name", "theirs"]
    assert recaption.main(words) == 0
    assert f"{NAME}/captions/theirs.jsonl" in bucket.objects
    assert records.open_dataset(path)[2].captions["theirs"] == "it is 2"
    assert added_captions.read(clips) == {}
    capsys.readouterr()
    for command in (verify.main, inspect.main):
        assert command(["gs://bucket/nothing"]) == 2
        said = capsys.readouterr().err
        assert "gs://bucket/nothing: no such dataset" in said and said.count("\n") == 1
