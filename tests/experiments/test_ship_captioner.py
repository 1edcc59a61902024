"""What ships is rounded, reads the shipped model's latents, and fits the package."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from experiments import ship_captioner
from soraflax import tokenizer
from soraflax.nn import autoencoder, captioner
from soraflax.pretrained import captioners, expanders, models, shipped


@pytest.fixture(scope="module")
def codec():
    return models.load_autoencoder(shipped.folder() / models.AUTOENCODER)


def save(path, codec, *, encoder):
    sizes = dataclasses.replace(captioner.VARIANTS["small"], width=32, mlp=32)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        captioners.shapes(sizes),
    )
    z = codec.config.latent_channels
    captioners.save_captioner(
        path,
        params,
        config=captioners.CaptionerModelConfig(
            sizes,
            autoencoder.LatentStatistics((0.0,) * z, (1.0,) * z),
            autoencoder=encoder,
        ),
        vocabulary=tokenizer.Tokenizer.embedded(),
    )
    return path


def test_a_shipped_captioner_is_rounded_and_has_a_card(tmp_path, codec, capsys):
    path = save(tmp_path / "own", codec, encoder=codec.encoder_digest)
    card, output = tmp_path / "card.md", tmp_path / "shipped"
    card.write_text("# A captioner\n")
    words = ["--captioner", str(path), "--card", str(card), "--output", str(output)]
    assert ship_captioner.main(words) == 0
    written = shipped.card(output)
    assert written is not None and written.read_text() == "# A captioner\n"
    stored = safetensors.numpy.load_file(output / "params.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(ml_dtypes.bfloat16)}
    model, before = (captioners.load_captioner(p, codec=codec) for p in (output, path))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8),
        model.params,
        before.params,
    )
    assert model.digest != before.digest


def test_a_shipped_expander_is_rounded_and_fits_beside_the_others(
    tmp_path, capsys, monkeypatch
):
    sizes = captioner.VARIANTS["expander_tiny"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        captioners.shapes(sizes),
    )
    expanders.save_expander(
        tmp_path / "own",
        params,
        config=expanders.ExpanderModelConfig(sizes),
        vocabulary=tokenizer.Tokenizer.embedded(),
    )
    card, output = tmp_path / "card.md", tmp_path / "shipped"
    card.write_text("# An expander\n")
    words = ["--expander", tmp_path / "own", "--card", card, "--output", output]
    assert ship_captioner.main(list(map(str, words))) == 0
    written = expanders.load_expander(output)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8),
        written.params,
        params,
    )
    size = shipped.packed_bytes(output)
    assert f"{size:,} bytes" in capsys.readouterr().out
    monkeypatch.setattr(shipped, "MAX_BYTES", size + 1000)
    assert ship_captioner.main(list(map(str, words))) == 2
    assert "train a smaller one" in capsys.readouterr().err


def test_a_captioner_of_other_latents_is_not_shipped(tmp_path, codec, capsys):
    path = save(tmp_path / "other", codec, encoder="0" * 64)
    card, output = tmp_path / "card.md", tmp_path / "shipped"
    card.write_text("# A captioner\n")
    words = ["--captioner", str(path), "--card", str(card), "--output", str(output)]
    assert ship_captioner.main(words) == 2
    assert "reads latents of encoder 000000000000" in capsys.readouterr().err
    assert not output.exists()
