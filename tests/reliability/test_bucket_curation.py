"""Clips of a bucket, curated, captioned and encoded into that bucket."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest

from data_pipelines import (
    latent_parts,
    latents,
    mirrors,
    prepare,
    recaption,
    records,
    storage,
)
from data_pipelines.curate import command
from tests.data_pipelines import clip_data
from tests.data_pipelines.curate import raw_files

if TYPE_CHECKING:
    from tests import emulated_bucket


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("raw")
    for number in range(3):
        raw_files.save(folder / f"{number}.mp4", raw_files.world(number))
        (folder / f"{number}.txt").write_text(f"clip {number}")
    return folder


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Clips of each call of the encoder, which takes the place of `--encoder`."""
    calls: list[int] = []
    ours = clip_data.encoder()

    def encode(video: np.ndarray) -> Any:
        calls.append(len(video))
        return ours.encode(video)

    counting = dataclasses.replace(ours, encode=encode)
    monkeypatch.setattr(command, "_encoder", lambda folder: counting)
    monkeypatch.setattr(latent_parts, "PART", 1)
    return calls


@pytest.fixture(autouse=True)
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where mirrors are; waits are short."""
    monkeypatch.setenv(mirrors.FOLDER, str(tmp_path / "mirrors"))
    monkeypatch.setattr(storage, "RETRY_SECONDS", (0.0, 0.0))
    mirrors._KNOWN.clear()
    yield tmp_path / "mirrors"
    fsspec.filesystem("memory").store.clear()


def words(source: pathlib.Path | str, output: pathlib.Path | str) -> list[str]:
    """A command that curates and encodes."""
    made = ["--input", f"{source}/*.mp4", "--output", str(output), "--encoder", "e"]
    return [*made, "--workers", "1", "--validation-count", "1"]


def upload(raw: pathlib.Path, url: str) -> str:
    for path in raw.iterdir():
        storage.write_bytes(storage.join(url, path.name), path.read_bytes())
    return url


@pytest.mark.parametrize("scheme", ["gs", "memory"])
def test_latents_of_a_bucket_are_those_of_a_disk(
    raw: pathlib.Path,
    encoded: list[int],
    bucket: "emulated_bucket.Store",
    tmp_path: pathlib.Path,
    place: pathlib.Path,
    scheme: str,
) -> None:
    source = upload(raw, f"{scheme}://bucket/raw")
    there, here = f"{scheme}://bucket/data", tmp_path / "data"
    assert prepare.main(words(source, there)) == 0
    assert prepare.main(words(raw, here)) == 0
    for split in ("train", "validation"):
        found = latents.open_latents(f"{there}.latents", split, digest="a" * 64)
        ours = latents.open_latents(f"{here}.latents", split)
        assert [r.id for r in found] == [r.id for r in ours] and len(found)
        for a, b in zip(found, ours, strict=True):
            np.testing.assert_array_equal(a.latent, b.latent)
    assert records.read_info(f"{there}.latents")["source"]["path"] == there
    assert not list(place.glob(f"{mirrors._STAGED}/*"))
    # Both are in the way, and both are replaced.
    assert prepare.main(words(source, there)) == 2
    storage.remove(f"{there}/{records.INFO}")
    assert prepare.main(words(source, there)) == 2
    (raw / "0.mp4").rename(tmp_path / "0.mp4")
    try:
        assert prepare.main([*words(raw, there), "--overwrite"]) == 0
    finally:
        (tmp_path / "0.mp4").rename(raw / "0.mp4")
    assert len(latents.open_latents(f"{there}.latents")) == 1


def test_what_was_encoded_when_it_was_stopped_is_kept(
    raw: pathlib.Path,
    encoded: list[int],
    bucket: "emulated_bucket.Store",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, there = upload(raw, "gs://bucket/raw"), "gs://bucket/data"
    bucket.refuse = lambda method, name: method == "PUT" and ".latents/" in name
    assert prepare.main(words(source, there)) == 2
    assert "gs://bucket/data.latents/" in capsys.readouterr().err
    assert not storage.size(f"{there}.latents/{records.INFO}")
    bucket.refuse = lambda method, name: False
    whole = len(encoded)
    encoded.clear()

    encode = latent_parts.CacheJob._encode

    def stopped(job: Any, part: latent_parts.Part, *, tick: Any) -> None:
        if part.split == "validation":
            raise KeyboardInterrupt
        encode(job, part, tick=tick)

    monkeypatch.setattr(latent_parts.CacheJob, "_encode", stopped)
    assert prepare.main([*words(source, there), "--overwrite"]) != 0
    monkeypatch.setattr(latent_parts.CacheJob, "_encode", encode)
    before = len(encoded)
    assert 0 < before < whole
    assert prepare.main([*words(source, there), "--overwrite"]) == 0
    assert len(encoded) == whole
    assert len(latents.open_latents(f"{there}.latents")) == 2


def test_a_captioner_captions_the_clips_of_a_bucket(
    raw: pathlib.Path,
    encoded: list[int],
    bucket: "emulated_bucket.Store",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(writer: recaption.Writer, clips: list[records.ClipRecord]) -> list[str]:
        return [f"{clip.frames} frames" for clip in clips]

    monkeypatch.setattr(recaption, "_write", write)
    source, there = upload(raw, "gs://bucket/raw"), "gs://bucket/data"
    assert prepare.main([*words(source, there), "--captioner"]) == 0
    for clip in latents.open_latents(f"{there}.latents"):
        assert clip.captions["captioner"] == "17 frames"
        assert clip.captions["caption"].startswith("clip ")
