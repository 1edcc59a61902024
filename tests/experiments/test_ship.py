"""A trained model becomes the package's, with a card; or one line says why not."""

import functools
import json

import jax
import numpy as np
import pytest

import soraflax
from experiments import ship
from soraflax.diffusion import guidance, samplers
from soraflax.generation import generator
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models, rounding, shipped, training_data
from tests.generation import tiny

FACTS = {
    "title": "bodies",
    "summary": "Makes clips of one or two bodies.",
    "data": "The embedded world.",
    "training": ["soraflax train --config=video_small --workdir=VIDEO"],
    "hardware": "two cores, 82 minutes",
    "figures": [{"what": "PSNR", "value": 30.5, "command": "a | b"}],
    "limits": ["Knows the words of its world alone."],
}


def write(folder, **changes):
    path = folder / "facts.json"
    path.write_text(json.dumps(FACTS | changes))
    return path


def run(capsys, *words):
    status = ship.main([str(word) for word in words])
    return status, capsys.readouterr()


def test_a_model_and_its_card(tmp_path, capsys, monkeypatch):
    source, output = tiny.save(tmp_path), tmp_path / "bodies"
    words = ("--checkpoint", source, "--facts", write(tmp_path), "--output", output)
    for _ in range(2):  # the second time it is replaced
        status, told = run(capsys, *words)
        assert (status, told.err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["ae", "bodies", "facts.json", "video"]
    )
    monkeypatch.setattr(shipped, "FOLDER", output)
    assert soraflax.load().fps == tiny.model().config.reference_fps
    card = (output / shipped.CARD).read_text()
    assert "| PSNR | 30.5 | `a \\| b` |" in card
    assert tiny.model().digest[:12] in card
    assert "- Knows the words" in card


def test_the_model_says_how_it_is_sampled(tmp_path, capsys):
    sampling = {"sampler": "ancestral", "steps": 48, "guidance": 2.5}
    sampling |= {"size": [48, 32], "frames": 9}
    sampling |= {"skip_blocks": [1], "skip_guidance": 0.5}
    source, output = tiny.save(tmp_path), tmp_path / "bodies"
    facts = write(tmp_path, sampling=sampling)
    words = ("--checkpoint", source, "--facts", facts, "--output", output)
    assert run(capsys, *words)[0] == 0
    model = generator.Generator.load(output)
    assert model.sampling.sampler == samplers.SAMPLERS["ancestral"]
    assert (model.sampling.steps, model.sampling.guidance) == (48, 2.5)
    assert generator.default_size(model) == (48, 32)
    card = (output / shipped.CARD).read_text()
    how = "ancestral, 48 steps, guidance 2.5, skip guidance 0.5 of block 1"
    assert f"| sampled by | {how} |" in card
    assert model.sampling.skip == guidance.SkipGuidance((1,), 0.5)
    facts = write(tmp_path, sampling=sampling | {"sampler": "magic"})
    status, told = run(capsys, *words)
    assert status == 2 and "unknown sampler 'magic'" in told.err
    assert generator.Generator.load(output).sampling == model.sampling


def test_a_model_that_does_not_say_is_told_what_it_was_trained_on(
    tmp_path, monkeypatch
):
    seen = training_data.measure([training_data.Clip(9, (48, 32), 8.0, ("A ball.",))])
    asked = []
    monkeypatch.setattr(
        ship.export,
        "measure_data",
        lambda sources, captions: asked.append(list(sources)) or seen,
    )
    monkeypatch.setattr(ship.latent_lib, "open_latents", str)
    facts, output = ship.read_facts(write(tmp_path)), tmp_path / "bodies"
    ship.ship(tiny.save(tmp_path), output, facts=facts, latents=["LATENTS"])
    assert asked == [["LATENTS"]]
    assert models.load_video_model(output).config.trained_on == seen
    card = (output / shipped.CARD).read_text()
    assert "| words | a, ball |" in card and "| sides | 32 to 48 pixels |" in card


def test_a_decoder_trained_on_takes_the_place_of_the_models_own(tmp_path, capsys):
    source, output = tiny.save(tmp_path), tmp_path / "bodies"
    own = models.load_video_model(source).autoencoder
    params = jax.tree.map(np.array, own.params)
    params["decoder"] = jax.tree.map(lambda leaf: leaf + 0.5, params["decoder"])
    models.save_autoencoder(tmp_path / "ae2", params, config=own.config)
    words = ("--checkpoint", source, "--facts", write(tmp_path), "--output", output)
    assert run(capsys, *words, "--autoencoder", tmp_path / "ae2")[0] == 0
    codec = models.load_video_model(output).autoencoder
    for name, leaf in jax.tree.leaves_with_path(rounding.rounded(params)):
        found = functools.reduce(lambda tree, k: tree[k.key], name, codec.params)
        np.testing.assert_array_equal(found, leaf.astype(np.float32))

    encoder = jax.tree.map(lambda leaf: leaf + 0.5, params["encoder"])
    models.save_autoencoder(
        tmp_path / "ae3", params | {"encoder": encoder}, config=own.config
    )
    status, told = run(capsys, *words, "--autoencoder", tmp_path / "ae3")
    assert status == 2 and "but the transformer was trained on" in told.err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"figures": []}, "figures is empty: give one or more"),
        ({"figure": 1}, "unknown key; did you mean 'figures'?"),
        ({"figures": [{"what": "PSNR"}]}, "value: missing"),
    ],
)
def test_facts_that_are_none_are_refused(tmp_path, capsys, changes, says):
    facts = write(tmp_path, **changes)
    status, told = run(capsys, "--checkpoint", tmp_path, "--facts", facts)
    assert status == 2 and says in told.err
    assert len(told.err.splitlines()) == 1


def test_a_model_too_large_for_the_package_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shipped, "MAX_BYTES", 1000)
    source, output = tiny.save(tmp_path), tmp_path / "bodies"
    words = ("--checkpoint", source, "--facts", write(tmp_path), "--output", output)
    status, told = run(capsys, *words)
    assert status == 2 and "has room for 1,000: train a smaller model" in told.err
    assert not model_io.is_model(output)
    assert len(list(tmp_path.iterdir())) == 3
