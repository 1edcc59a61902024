"""A model in bfloat16: half the size, one digest on disk and in memory, strict."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from soraflax.pretrained import io as model_io
from soraflax.pretrained import models, rounding
from tests.generation import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model as training exports it, and the same rounded."""
    source = tiny.save(tmp_path_factory.mktemp("exported"))
    target = tmp_path_factory.mktemp("rounded") / "bodies"
    rounding.save_rounded(source, target, files={"card.md": b"# A card"})
    return source / "model", target


def test_every_parameter_is_within_half_a_unit_of_its_last_bit(folders):
    before, after = (models.load_video_model(folder) for folder in folders)
    pairs = [(before.params, after.params)]
    pairs += [(before.autoencoder.params, after.autoencoder.params)]
    for a, b in pairs:
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert y.dtype == np.float32
            np.testing.assert_array_less(np.abs(x - y), np.abs(x) * 2**-8 + 1e-30)


def test_its_files_are_half_as_large(folders):
    for part in ("", models.AUTOENCODER):
        stored = safetensors.numpy.load_file(folders[1] / part / model_io.PARAMS)
        assert {array.dtype for array in stored.values()} == {jnp.dtype(jnp.bfloat16)}
    before, after = map(model_io.stored_bytes, folders)
    assert after < 0.65 * before  # configurations and the vocabulary stay
    assert (folders[1] / "card.md").read_bytes() == b"# A card"


def test_digests_are_those_of_the_rounded_values(folders):
    """The encoder is another one by its digest, and the model is stamped with that."""
    before, after = (models.load_video_model(folder) for folder in folders)
    assert after.digest == model_io.digest(after.params) != before.digest
    assert after.autoencoder.digest == model_io.digest(after.autoencoder.params)
    stamp = after.config.autoencoder
    assert stamp == after.autoencoder.encoder_digest != before.config.autoencoder
    again = dataclasses.replace(after.config, autoencoder=before.config.autoencoder)
    assert again == before.config
    record = model_io.model_config(folders[1])["rounded_from"]
    assert record == {"digest": before.digest}
    record = model_io.model_config(folders[1] / models.AUTOENCODER)["rounded_from"]
    assert record == {
        "digest": before.autoencoder.digest,
        "encoder": before.config.autoencoder,
    }


def test_rounding_twice_changes_nothing(folders, tmp_path):
    rounding.save_rounded(folders[1], tmp_path / "again")
    again, once = (models.load_video_model(f) for f in (tmp_path / "again", folders[1]))
    assert again.digest == once.digest and again.config == once.config


def test_a_flipped_bit_is_noticed(folders, tmp_path):
    rounding.save_rounded(folders[0], tmp_path / "bodies")
    path = tmp_path / "bodies" / model_io.PARAMS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(model_io.ModelError, match="does not match the digest"):
        models.load_video_model(tmp_path / "bodies")


def test_the_encoder_before_rounding_is_refused(folders, tmp_path):
    """Its latents are not those of the shipped one."""
    rounding.save_rounded(folders[0], tmp_path / "bodies")
    path = tmp_path / "bodies" / model_io.CONFIG
    header = json.loads(path.read_text())
    header["config"]["model"]["autoencoder"] = tiny.model().config.autoencoder
    path.write_text(json.dumps(header))
    with pytest.raises(model_io.ModelError, match="was trained on latents of"):
        models.load_video_model(tmp_path / "bodies")
