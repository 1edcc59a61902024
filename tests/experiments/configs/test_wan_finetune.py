"""Published weights tuned on one's own clips, and back, as docs/wan.md says."""

import json
import pathlib

import numpy as np
import pytest

from data_pipelines import embed
from experiments import train
from soraflax.cli import main
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models
from soraflax.weights import wan
from tests.experiments import world
from tests.golden import wan_pipeline as judge


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A converted folder `WAN`, a dataset and its features."""
    place = tmp_path_factory.mktemp("wan")
    theirs = judge.write(place / "theirs", judge.CASES["2.1"])
    words = ["convert", "--from", "wan2.1", "--weights", str(theirs)]
    assert main.main([*words, "--out", str(place / "WAN")]) == 0
    world.write(place / "DATASET", count=12)
    words = ["--dataset", place / "DATASET", "--text-encoder", place / "WAN"]
    words += ["--output", place / "FEATURES"]
    assert embed.main(list(map(str, words))) == 0
    return place


def _command(place: pathlib.Path, config: str, workdir: pathlib.Path) -> list[str]:
    return [
        f"--config={config}",
        f"--config.base={place / 'WAN'}",
        f"--config.data.path={place / 'DATASET'}",
        f"--config.data.features={place / 'FEATURES'}",
        f"--workdir={workdir}",
    ]


def test_converted_weights_are_tuned_resumed_and_go_back(
    prepared: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = tmp_path / "TUNED"
    words = _command(prepared, "wan_finetune:tiny", tuned)
    assert train.main([*words, "--config.train.stop_at=1"]) != 0  # stopped in between
    assert "step 1 of 2 is saved" in capsys.readouterr().err
    assert train.main(words) == 0
    lines = (tuned / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(x)["loss"] for x in lines if "loss" in json.loads(x)]
    assert len(losses) == 2 and all(np.isfinite(losses))

    # The tuned model makes a video, and its folder is one of diffusers' again.
    words = ["generate", "a red circle", "--checkpoint", tuned / "model"]
    words += ["--size", "48x32", "--frames", "9", "--steps", "2"]
    words += ["--out", tmp_path / "clip.mp4"]
    assert main.main(list(map(str, words))) == 0
    back, again = tmp_path / "back", tmp_path / "again"
    words = [
        "convert",
        "--to",
        "wan2.1",
        "--checkpoint",
        tuned / "model",
        "--out",
        back,
    ]
    assert main.main(list(map(str, words))) == 0
    assert (back / "model_index.json").exists()
    wan.convert(back, again, family="wan2.1")
    one, other = (models.load_video_model(p).params for p in (tuned / "model", again))
    flat, same = model_io.flatten(one), model_io.flatten(other)
    assert flat.keys() == same.keys()
    for name, leaf in flat.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(same[name]), name)

    # Adapters alone go to diffusers too, and merged they are the tuned model.
    words = ["convert", "--to", "wan2.1", "--checkpoint", tuned / "adapters"]
    assert main.main([*map(str, words), "--out", str(tmp_path / "lora")]) == 0
    merged = tmp_path / "merged.mp4"
    lora = next((tmp_path / "lora").glob("*.safetensors"))
    words = ["generate", "a red circle", "--checkpoint", prepared / "WAN"]
    words += ["--size", "48x32", "--frames", "9", "--steps", "2"]
    words += ["--lora", lora, "--out", merged]
    assert main.main(list(map(str, words))) == 0
