"""Latents of other trainers: read without their libraries, refused where damaged."""

import dataclasses
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data_pipelines import import_latents, latents, pipeline, records
from data_pipelines.builders import tfrecords
from soraflax.ops import grid as grids
from soraflax.ops import packing
from tests.data_pipelines.builders import test_tfrecords as protos

GRID = grids.Grid(4, 8, patch=(1, 2, 2), channels=4)
CONFIG = import_latents.ImportConfig("e" * 64, GRID, fps=16.0)


def _latent(seed: int, *, frames: int = 3) -> np.ndarray:
    """Axes C, T, H, W, as the other trainers have them."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, frames, 6, 8)).astype(np.float32)


def _write_tfrecord(path: Path, arrays: list[np.ndarray]) -> Path:
    text = np.ones((5, 7), np.float32)
    path.write_bytes(
        b"".join(
            tfrecords.frame(
                protos.example(
                    latents=protos.tensor(array, 1),
                    encoder_hidden_states=protos.tensor(text, 1),
                )
            )
            for array in arrays
        )
    )
    return path


def _row(number: int, array: np.ndarray, **changes: object) -> dict[str, object]:
    text = np.full((3, 7), number, ml_dtypes.bfloat16)
    return {
        "id": f"clip {number}",
        "vae_latent_bytes": array.tobytes(),
        "vae_latent_shape": list(array.shape),
        "vae_latent_dtype": str(array.dtype),
        "text_embedding_bytes": text.tobytes(),
        "text_embedding_shape": [3, 7],
        "text_embedding_dtype": "torch.bfloat16",
        "file_name": f"clip {number}.mp4",
        "caption": f"a red ring {number}",
        "fps": 24.0,
    } | changes


def _write_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


def _import(source: Path, output: Path, **changes: object) -> latents.LatentDataset:
    config = dataclasses.replace(CONFIG, **changes)
    import_latents.import_latents(source, output, config=config)
    return latents.open_latents(output, digest="e" * 64)


def test_tfrecords_become_latents_that_training_packs(tmp_path: Path) -> None:
    arrays = [_latent(0), _latent(1, frames=1), _latent(2)]
    path = _write_tfrecord(tmp_path / "file_00-3.tfrec", arrays)
    cached = _import(path, tmp_path / "out")
    assert len(cached) == 3 and cached[0].fps == 16.0 and cached[0].captions == {}
    for record, array in zip(cached, arrays, strict=True):
        np.testing.assert_allclose(
            record.latent, array.transpose(1, 2, 3, 0), atol=2e-3
        )
    read = [r for r in import_latents.read_latents(path) if not isinstance(r, tuple)]
    assert read[0].text is not None and read[0].text.shape == (5, 7)
    settings = pipeline.PackedDataConfig(
        path=str(tmp_path / "out"), rows=1, row=packing.RowShape(128, 64, 8), passes=1
    )
    (batch,) = pipeline.make_dataset(settings, digest="e" * 64)
    assert batch.segments.max() == 3


def test_parquet_becomes_latents_with_captions(tmp_path: Path) -> None:
    folder = tmp_path / "combined" / "worker_0"
    folder.mkdir(parents=True)
    rows = [_row(n, _latent(n)) for n in range(3)]
    path = _write_parquet(folder / "data_0.parquet", rows)
    cached = _import(tmp_path / "combined", tmp_path / "out")
    assert [r.captions["caption"] for r in cached] == [
        f"a red ring {n}" for n in range(3)
    ]
    assert cached[2].id == "data_0.parquet/1-0/clip 2.mp4" and cached[2].fps == 24.0
    (first, *_) = import_latents.read_latents(path)
    assert not isinstance(first, tuple) and first.text is not None
    assert first.text.dtype == np.float32 and first.text.shape == (3, 7)


def test_normalised_latents_are_stored_as_the_encoder_gives_them(
    tmp_path: Path,
) -> None:
    path = _write_tfrecord(tmp_path / "a.tfrecord", [_latent(0)])
    mean, std = (0.0, 1.0, 2.0, -3.0), (1.0, 2.0, 0.5, 4.0)
    cached = _import(path, tmp_path / "out", mean=mean, std=std)
    expected = _latent(0).transpose(1, 2, 3, 0) * np.array(std) + np.array(mean)
    np.testing.assert_allclose(cached[0].latent, expected, atol=1e-2)


def test_records_that_hold_no_latent_are_in_the_report(tmp_path: Path) -> None:
    bad = _latent(1)
    bad[0, 0, 0, 0] = np.nan
    rows = [
        _row(0, _latent(0)),
        _row(1, bad),
        _row(2, _latent(2), vae_latent_shape=[4, 3, 6, 9]),
        _row(3, _latent(3)[:3]),
        _row(4, _latent(4), vae_latent_dtype="int32"),
        _row(5, _latent(5), fps=float("nan")),
    ]
    _write_parquet(tmp_path / "a.parquet", rows)
    cached = _import(tmp_path / "a.parquet", tmp_path / "out", fps=0.0)
    assert [record.id for record in cached] == ["a.parquet/0-0/clip 0.mp4"]
    report = records.read_report(tmp_path / "out")
    reasons = [line["reason"] for line in report if line["outcome"] == "failed"]
    for reason, message in zip(
        reasons,
        ["not finite", "reshape", "4 channels", "int32", "no frame rate: give --fps"],
        strict=True,
    ):
        assert message in reason


def test_a_damaged_file_is_a_line_and_what_came_before_is_kept(tmp_path: Path) -> None:
    good = _write_tfrecord(tmp_path / "a.tfrecord", [_latent(0), _latent(1)])
    data = bytearray(good.read_bytes())
    data[-300] ^= 1
    good.write_bytes(data)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "c.tfrec").write_bytes(b"")
    cached = _import(tmp_path, tmp_path / "out")
    assert len(cached) == 1
    failed = {
        line["input"]: line["reason"]
        for line in records.read_report(tmp_path / "out")
        if line["outcome"] == "failed"
    }
    assert failed["a.tfrecord"] == "record 1 is damaged"
    assert failed["b.parquet"].startswith("not parquet, or cut off")


def test_nothing_to_import_is_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty.tfrec"
    empty.write_bytes(b"")
    for source, message in (
        (empty, "no latent can be used; first: no records"),
        (tmp_path / "none", "no latents of others in it"),
    ):
        with pytest.raises(records.DatasetError, match=message):
            import_latents.import_latents(source, tmp_path / "out", config=CONFIG)
        assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="use a frame rate above 0"):
        dataclasses.replace(CONFIG, fps=float("nan"))
