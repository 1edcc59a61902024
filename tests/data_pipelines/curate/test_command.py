"""The command line of curation."""

import json
from pathlib import Path

import pytest

from data_pipelines import latents, prepare
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--min", "motion"], "'motion': use SCORE=VALUE"),
        (["--max", "motion=x"], "'x' is not a number, nor 'none'"),
        (["--max", "speed=1"], "unknown score 'speed'; there are: seconds"),
        (["--min", "motion=2", "--max", "motion=1"], "least 2 is more than greatest 1"),
        (["--max-rejected", "2"], "use a part of the clips, 0 to 1"),
        (["--shard-size", "0"], "shard size 0: use 1 byte or more"),
        (["--scorer", "x=nowhere:f"], "nowhere"),
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
