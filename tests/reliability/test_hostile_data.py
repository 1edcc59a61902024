"""What files of data may hold: each is refused, quarantined or mended, and said."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines import (
    latents,
    pipeline,
    prepare,
    records,
    sources,
    storage,
    transforms,
)
from soraflax.ops import grid as grids
from soraflax.ops import packing
from tests.data_pipelines import clip_data

PNG = Path(__file__).parents[1] / "data" / "clips" / "shapes.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "clips"
    root.mkdir()
    for name in ("a.png", "b.png", "C.PNG"):
        shutil.copy(PNG, root / name)
    return root


def _prepare(folder: Path, text: str | bytes) -> tuple[dict, dict]:
    """Report lines and records by name, of captions as they are given."""
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "captions.jsonl").write_bytes(data)
    output = folder.parent / "data"
    whole = prepare.ValidationSplit(fraction=0.0)
    prepare.prepare_folder(folder, output, validation=whole)
    report = {line["input"]: line for line in records.read_report(output)}
    return report, {clip.id: clip for clip in records.open_dataset(output)}


def _line(name: str, text: str = "two rings") -> str:
    return json.dumps({"file": name, "caption": text})


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_line_ends_and_a_byte_order_mark_are_no_captions(
    folder: Path, end: str, bom: str
) -> None:
    text = bom + end.join([_line("a.png"), _line("b.png"), _line("c.png"), ""])
    report, clips = _prepare(folder, text)
    assert set(clips) == {"a.png", "b.png", "C.PNG"}
    assert all(clip.captions == {"caption": "two rings"} for clip in clips.values())
    assert all(line["outcome"] == "kept" for line in report.values())


def test_names_that_lead_out_of_the_folder_are_said(folder: Path) -> None:
    shutil.copy(PNG, folder.parent / "far.png")
    (folder.parent / "secret.txt").write_text("no picture")
    lines = ["../far.png", str(PNG), "../secret.txt", "/dev/null", "../../../../gone"]
    report, clips = _prepare(folder, "\n".join(map(_line, ["a.png", *lines])))
    far = str((folder.parent / "far.png").resolve())
    for name in (far, str(PNG.resolve())):
        assert report[name]["notes"] == ["lies outside the folder"]
    assert set(clips) == {"a.png", far, str(PNG.resolve())}
    secret = report[str((folder.parent / "secret.txt").resolve())]
    assert secret["outcome"] == "failed" and "not a video" in secret["reason"]
    assert report["captions.jsonl:5"]["outcome"] == "failed"
    assert report["captions.jsonl:6"]["outcome"] == "failed"


def test_nul_and_long_captions_are_read_as_prompts_are(folder: Path) -> None:
    long = "ring " * 12_000  # 60 kB
    text = "\n".join([_line("a.png", "two\u0000 rings"), _line("b.png", long)])
    report, clips = _prepare(folder, text)
    assert "\u0000" not in clips["a.png"].captions["caption"]
    assert report["a.png"]["notes"]
    assert len(clips["b.png"].captions["caption"]) == 59_999
    encode = pipeline.embedded_encode()
    assert len(encode(clips["b.png"].captions["caption"], 64)) == 64


def test_a_clip_that_is_named_twice_keeps_its_first_caption(folder: Path) -> None:
    lines = [_line("a.png", "first"), _line("./A.png", "second"), _line("b.png")]
    report, clips = _prepare(folder, "\n".join(lines))
    assert clips["a.png"].captions == {"caption": "first"}
    assert "captioned before" in report["captions.jsonl:2"]["reason"]


@pytest.mark.parametrize("fps", [0.0, -8.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused_wherever_they_come_from(fps: float) -> None:
    with pytest.raises(ValueError, match="is empty"):
        transforms.plan_fit(
            17,
            64,
            width=64,
            fps=fps,
            grid=grids.Grid(4, 8, patch=(1, 2, 2)),
            config=transforms.FitConfig(),
        )
    clip = dataclasses.replace(clip_data.clip(0), fps=fps).to_example()
    with pytest.raises(ValueError, match="frames per second"):
        records.ClipRecord.from_example(clip)
    latent = latents.LatentRecord("a", np.zeros((1, 2, 2, 4)), fps, {}).to_example()
    with pytest.raises(ValueError, match="frames per second"):
        latents.LatentRecord.from_example(latent)


def test_a_record_of_an_impossible_rate_is_replaced_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", ())
    examples = [clip_data.Latents()[index].to_example() for index in range(8)]
    examples[3]["fps"] = np.float32("nan")
    source = records.RecordDataset(
        examples, {"name": "set"}, parse=latents.LatentRecord.from_example
    )
    stream = sources.stream([source], seed=0)
    found: list[Any] = [stream[index] for index in range(16)]
    assert "clip-3" not in {clip.id for clip in found}
    assert (
        "set: record 3 is damaged; another takes its place" in capsys.readouterr().err
    )


@pytest.mark.parametrize("damage", ["empty", "cut off", "flipped", "shorter"])
def test_damage_after_opening_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Never zeros, never an endless wait: so many are lost that the run ends."""
    monkeypatch.setattr(storage, "RETRY_SECONDS", ())
    out = tmp_path / "latents"
    latents.cache_latents(
        clip_data.write_clips(tmp_path / "clips", train=8),
        out,
        encoder=clip_data.encoder(),
        config=latents.LatentCacheConfig(fit=transforms.FitConfig(max_tokens=64)),
    )
    opened = latents.open_latents(out)
    (shard,) = records.read_shards(out, "train")
    path = out / shard["file"]
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        for place in range(40, len(data), 97):
            data[place] ^= 0x10
    if damage == "shorter":  # a sound shard of fewer records than the manifest says
        few = tmp_path / "few"
        clips = clip_data.write_clips(tmp_path / "few clips", train=3)
        latents.cache_latents(clips, few, encoder=clip_data.encoder())
        data = (few / records.read_shards(few, "train")[0]["file"]).read_bytes()
    path.write_bytes({"empty": b"", "cut off": bytes(data[:90])}.get(damage, data))
    settings = pipeline.PackedDataConfig(
        rows=1,
        row=packing.RowShape(128, 128, 8),
        read=pipeline.ReadConfig(threads=0, ahead=0),
    )
    with pytest.raises(records.DatasetError, match=r"(cannot|can) be read"):
        dataset = pipeline.make_dataset(
            settings, encode=clip_data.encode_text, latents=[opened]
        )
        for packed in itertools.islice(dataset, 50):
            assert np.isfinite(packed.tokens).all()


def test_a_shard_that_is_gone_for_a_while_is_read_and_for_good_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = clip_data.write_clips(tmp_path / "clips", train=4)
    dataset = records.open_dataset(clips)
    (shard,) = records.read_shards(clips, "train")
    path, away = clips / shard["file"], tmp_path / "away"
    path.rename(away)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            away.rename(path)

    monkeypatch.setattr(records.time, "sleep", wait)
    assert dataset[0].id.startswith("clip-")
    assert waits == list(storage.RETRY_SECONDS[:2])
    again = records.open_dataset(clips)
    path.unlink()
    with pytest.raises(records.DatasetError, match="more than 1 cannot be read"):
        _ = sources.stream([again], seed=0)[0]


def test_one_id_twice_is_two_clips_with_a_line_each(tmp_path: Path) -> None:
    """Sets that were joined may use a name twice; neither clip is lost."""
    clips = [clip_data.clip(0), dataclasses.replace(clip_data.clip(3), id="clip-0")]
    with records.publish(tmp_path / "clips") as work:
        builder = clip_data.Clips(data_dir=work, clips={"train": clips})
        records.write_metadata(
            work,
            builder.write(),
            info={"kind": "clips", "name": "test"},
            report=[{"input": "clip-0", "outcome": "kept"}],
        )
    out = tmp_path / "latents"
    latents.cache_latents(tmp_path / "clips", out, encoder=clip_data.encoder())
    assert len(latents.open_latents(out)) == 2
    (line,) = records.read_report(out)
    assert len(line["windows"]) == 2
