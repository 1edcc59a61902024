"""Which autoencoder a directory stands for."""

import pytest

from soraflax.cli import checkpoints
from soraflax.pretrained import io as model_io
from tests.generation import tiny


def test_every_directory_that_holds_it_gives_the_same_autoencoder(tmp_path):
    tiny.save(tmp_path)
    wanted = tiny.model().autoencoder
    for name in (
        "",
        "ae",
        "ae/model",
        "video",
        "video/model",
        "video/model/autoencoder",
    ):
        found = checkpoints.load_autoencoder(tmp_path / name)
        assert (found.digest, found.config) == (wanted.digest, wanted.config)
    found = checkpoints.load_autoencoder(tmp_path / "ae", dtype="bfloat16")
    assert found.config.dtype == "bfloat16"


def test_what_holds_none_is_refused(tmp_path):
    model_io.save_model(tmp_path / "x", {}, config={"kind": "discriminator"})
    with pytest.raises(ValueError, match="'discriminator', not 'autoencoder'"):
        checkpoints.load_autoencoder(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="gone"):
        checkpoints.load_autoencoder(tmp_path / "gone")
