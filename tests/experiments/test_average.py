"""Two models of one shape have a mean; of others one line says what differs."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from experiments import average
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models
from tests.generation import tiny


def _another(
    source: pathlib.Path, folder: pathlib.Path, *, add: float, prediction: str
) -> pathlib.Path:
    """`source` with other parameters."""
    model = models.load_video_model(source)
    models.save_video_model(
        folder,
        jax.tree.map(lambda leaf: leaf + np.float32(add), model.params),
        config=dataclasses.replace(model.config, prediction=prediction),
        autoencoder_dir=model_io.find_model(source, kind="video") / models.AUTOENCODER,
        vocabulary=model.tokenizer,
    )
    return folder


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_parameters_of_the_mean(
    tmp_path: pathlib.Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tiny.save(tmp_path)
    same = models.load_video_model(first).config.prediction
    second = _another(first, tmp_path / "second", add=2.0, prediction=same)
    words = ["--checkpoints", str(first), str(second), "--share", str(share)]
    assert average.main([*words, "--output", str(tmp_path / "mean")]) == 0
    mean = models.load_video_model(tmp_path / "mean")
    assert mean.digest[:12] in capsys.readouterr().out
    jax.tree.map(
        lambda m, f: np.testing.assert_allclose(m, f + 2.0 * share, atol=1e-6),
        mean.params,
        models.load_video_model(first).params,
    )


def test_models_that_predict_other_things_have_none(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tiny.save(tmp_path)
    second = _another(first, tmp_path / "second", add=0.0, prediction="epsilon")
    words = ["--checkpoints", str(first), str(second)]
    assert average.main([*words, "--output", str(tmp_path / "mean")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "differ in prediction" in said
    assert not (tmp_path / "mean").exists()
