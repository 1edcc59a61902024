"""The command line of curation."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from data_pipelines import latents, prepare, recaption, records
from data_pipelines.curate import command, settings
from soraflax.pretrained import models
from tests.data_pipelines import clip_data


def test_a_pattern_is_curated(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "data"
    words = ["--input", f"{raw}/[a]*.mp4", "--output", str(output)]
    assert prepare.main([*words, "--workers", "1", "--min", "motion=none"]) == 0
    said = capsys.readouterr().out
    assert f"{output}: 1 clips (1 train)" in said
    assert "steps that ran: 1 probe, 1 shots, 1 shard" in said
    rules = json.loads((output / "dataset.json").read_text())["settings"]
    assert rules["limits"] == {"motion": {"least": None, "greatest": None}}
    assert (tmp_path / "data.cache" / "probe").is_dir()


def test_clips_are_encoded_beside_the_dataset(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_autoencoder", lambda path: path)
    monkeypatch.setattr(
        latents.LatentEncoder, "of_model", lambda model: clip_data.encoder(model * 64)
    )
    words = ["--input", f"{raw}/a*.mp4", "--output", str(tmp_path / "data")]
    words += ["--workers", "1", "--encoder", "e", "--validation-count", "0"]
    assert prepare.main(words) == 0
    made = latents.open_latents(tmp_path / "data.latents", digest="e" * 64)
    assert [record.id for record in made] == ["a.mp4"]


def test_captions_come_from_a_table_or_a_tar(raw: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    names = ["a.mp4", "b.mp4"]
    table = pyarrow.table({"file": names, "caption": ["first", "second"], "n": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "words.parquet")
    with tarfile.open(tmp_path / "words.tar", "w") as tar:
        for name, text in (("a.txt", b"first"), ("b.txt", b"second")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    for kind in ("parquet", "tar"):
        output = tmp_path / kind
        words = ["--input", f"{raw}/[ab]*.mp4", "--output", str(output)]
        words += ["--captions", str(tmp_path / f"words.{kind}"), "--workers", "1"]
        words += ["--cache", str(tmp_path / "cache"), "--validation-count", "0"]
        assert prepare.main(words) == 0
        found = {c.id: c.captions["caption"] for c in records.open_dataset(output)}
        assert found == {"a.mp4": "first", "b.mp4": "second"}


def test_a_captioner_captions_what_has_no_caption(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(writer: recaption.Writer, clips: list[records.ClipRecord]) -> list[str]:
        assert writer.identity["captioner"]
        return [f"{clip.frames} frames" for clip in clips]

    monkeypatch.setattr(recaption, "_write", write)
    (tmp_path / "raw").mkdir()
    shutil.copy(raw / "silent.mp4", tmp_path / "raw")
    output = tmp_path / "data"
    words = ["--input", f"{tmp_path}/raw/*.mp4", "--output", str(output)]
    words += ["--workers", "1", "--validation-count", "0", "--captioner"]
    assert prepare.main(words) == 0
    (clip,) = records.open_dataset(output)
    assert clip.captions == {"captioner": "17 frames"}


def test_what_to_do_about_clips_without_a_caption_is_said(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for name, pattern in (("some", "[as]*.mp4"), ("none", "a*.mp4")):
        words = ["--input", f"{raw}/{pattern}", "--output", str(tmp_path / name)]
        assert prepare.main([*words, "--workers", "1"]) == 0
        said.append(capsys.readouterr().out)
    assert "without a caption: 1; --captioner writes them" in said[0]
    assert "without a caption" not in said[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--min", "motion"], "'motion': use SCORE=VALUE"),
        (["--max", "motion=x"], "'x' is not a number, nor 'none'"),
        (["--max", "pace=1"], "unknown score 'pace'; there are: seconds"),
        (["--min", "motion=2", "--max", "motion=1"], "least 2 is more than greatest 1"),
        (["--max-rejected", "2"], "use a part of the clips, 0 to 1"),
        (["--shard-size", "0"], "shard size 0: use 1 byte or more"),
        (["--scorer", "x=nowhere:f"], "nowhere"),
        (["--captioner", "/nowhere"], "/nowhere"),
        (["--captions", "gone.tar"], "gone.tar"),
    ],
)
def test_bad_options_are_one_line(
    raw: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    base = ["--input", f"{raw}/a*.mp4", "--output", str(tmp_path / "data")]
    assert prepare.main([*base, "--workers", "1", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("prepare: ") and said in error


def test_options_of_beam_need_a_runner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--input", "*.mp4", "--output", str(tmp_path / "data")]
    with pytest.raises(SystemExit):
        prepare.main([*base, "--project", "x"])
    assert "unrecognized arguments: --project x" in capsys.readouterr().err


def test_a_pattern_that_finds_nothing_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--input", f"{tmp_path}/*.mp4", "--output", str(tmp_path / "data")]
    assert prepare.main(words) == 2
    assert "finds no video or image files" in capsys.readouterr().err


def test_a_pattern_of_tars_without_clips_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shard.tar").write_bytes(bytes(512) + b"x" * 512)
    words = ["--input", f"{tmp_path}/*.tar", "--output", str(tmp_path / "data")]
    assert prepare.main(words) == 2
    said = capsys.readouterr().err
    assert "finds no video or image files; the first sample: not a tar" in said


def test_folders_are_not_curated(tmp_path: Path) -> None:
    folder = tmp_path / "a [1]"
    folder.mkdir()
    assert not command.is_pattern(str(folder))
    assert command.is_pattern(f"{tmp_path}/*.mp4")
    assert command.is_pattern("gs://bucket/raw")


def test_one_side_of_a_limit_leaves_the_other() -> None:
    made = command.limits(["brightness=20"], ["motion=none"])
    assert made == {
        "brightness": settings.Bounds(20.0, 250),
        "motion": settings.Bounds(0.004),
    }
