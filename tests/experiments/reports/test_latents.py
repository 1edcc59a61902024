"""The latent report, end to end on a few small clips and an untrained autoencoder."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.reports import latents
from experiments.stages.autoencoder import config as stage_config
from soraflax import sharding
from soraflax.nn import autoencoder
from soraflax.pretrained import models
from tests.data_pipelines import clip_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """`clips`, a dataset, and `model`, a tiny autoencoder."""
    path = tmp_path_factory.mktemp("report")
    clip_data.write_clips(path / "clips", train=3, validation=1)
    config = autoencoder.VARIANTS["tiny"]
    module = autoencoder.Autoencoder(config)
    params, _ = sharding.init(module, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))
    models.save_autoencoder(path / "model", params, config=config)
    return path


def _arguments(folder: pathlib.Path, output: pathlib.Path, *more: str) -> list[str]:
    return [
        f"--checkpoint={folder / 'model'}",
        f"--dataset={folder / 'clips'}",
        f"--output={output}",
        *more,
    ]


def test_it_writes_numbers_a_picture_and_json_lines(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ("--split=train", "--max-frames=5", "--max-tokens=48", "--batch=2")
    arguments = _arguments(folder, tmp_path / "out", *small)
    assert latents.main(arguments) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["section"] for line in found] == list(latents.SECTIONS)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["clips"]["count"] == 3 and report["clips"]["images"] == 1
    assert np.shape(report["channels"]["correlation"]) == (4, 4)
    assert len(report["frames"]["by_frame"]) == 5
    assert len(report["frames"]["by_phase"]) == 4
    assert report["flicker"]["clips"] == 2
    assert not report["reconstruction"]["frechet"]["enough_clips"]
    assert report["reconstruction"]["frechet"]["distance"] > 0.0
    by_clip = report["reconstruction"]["by_clip"].values()
    mean = np.mean([clip["psnr_db"] for clip in by_clip])
    np.testing.assert_allclose(report["reconstruction"]["psnr_db"], mean, rtol=1e-5)
    with Image.open(tmp_path / "out" / "report.png") as picture:
        assert picture.width == 1650 and np.ptp(np.asarray(picture)) == 255


def test_one_image_is_enough_for_a_report(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The only held-out clip is fitted to one frame: no flicker, no profile."""
    arguments = _arguments(folder, tmp_path, "--max-frames=1", "--max-tokens=16")
    assert latents.main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["flicker"] == {"clips": 0}
    assert report["frames"]["first"] is None
    assert report["reconstruction"]["frechet"]["distance"] is None


def test_clips_are_fitted_as_the_stage_fits_them() -> None:
    assert latents.ReportConfig().fit == stage_config.AutoencoderEvaluationConfig().fit


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--split=test"], "no records in split 'test'"),
        (["--clips=0"], "clips 0: use 1 or more"),
        (["--checkpoint=nowhere"], "nowhere: no such directory"),
        (["--dataset=nowhere"], "nowhere: no such dataset"),
        (["--lpips=vgg.pth"], "vgg.pth: pickled files"),
        (["--output=pyproject.toml/report"], "pyproject.toml: is a file"),
    ],
)
def test_bad_input_is_one_line(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    complaint: str,
) -> None:
    output = tmp_path / "out"
    assert latents.main(_arguments(folder, output, *more)) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
    assert not output.exists()


def test_an_unknown_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        latents.main(["--chekpoint=x"])
    assert capsys.readouterr().err.count("\n") == 1
