"""The command that embeds captions: features of a text encoder on disk, or one line."""

import numpy as np
import pytest

from data_pipelines import embed, text_features
from soraflax.pretrained import io as model_io
from soraflax.pretrained import text_encoders
from tests.data_pipelines import clip_data
from tests.experiments import world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    clip_data.write_clips(folder / "clips", train=3, validation=1)
    # A text encoder by itself, and in the folder of the model that it belongs to.
    world.write_text_encoder(folder / "wan" / text_encoders.KIND)
    return folder


def run(folder, *more, text="wan", output="features"):
    words = ["--dataset", folder / "clips", "--text-encoder", folder / text]
    words += ["--output", folder / output, *more]
    return embed.main(list(map(str, words)))


def test_captions_become_features(folder, capsys):
    assert run(folder) == 0
    assert "9 captions" in capsys.readouterr().out
    store = text_features.open_features(folder / "features")
    encoder = folder / "wan" / text_encoders.KIND
    assert store.origin == text_features.FeatureOrigin(
        model_io.model_digest(encoder), text_encoders.load_vocabulary(encoder).digest
    )
    assert store[""].shape == (1, 16) and np.isfinite(store["clip 2"]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"text": "clips"}, "clips: no trained model in it"),
        ({"text": "gone"}, "gone: no such directory"),
        ({"output": "wan"}, "exists; --overwrite replaces it"),
    ],
)
def test_bad_input_is_one_line(folder, words, message, capsys):
    assert run(folder, **{"output": "more", **words}) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
