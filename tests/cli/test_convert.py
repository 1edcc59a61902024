"""`soraflax convert`: what it calls and says, and what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from soraflax import flops
from soraflax.cli import convert, main
from soraflax.nn import autoencoder, dit, lora
from soraflax.pretrained import abstract
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models as pretrained
from soraflax.weights import wan
from soraflax.weights.wan import autoencoder as wan_autoencoder
from soraflax.weights.wan import transformer
from tests.generation import tiny
from tests.golden import wan_autoencoder as judge
from tests.golden import wan_transformer as transformers


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny.save(folder)
    return folder


def run(capsys, *words):
    try:
        status = main.main(["convert", *map(str, words)])
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr()


@pytest.mark.parametrize("family", wan.FAMILIES)
@pytest.mark.parametrize("measured", [True, False])
def test_there_and_back(capsys, tmp_path, family, measured):
    values = judge.config(judge.SMALL[family])
    if not measured:
        values = {k: v for k, v in values.items() if not k.startswith("latents_")}
    config, statistics = wan_autoencoder.parse_config(values)
    params = tiny.randomised(abstract.autoencoder_shapes(config), scale=0.1)
    facts = {"latents": dataclasses.asdict(statistics)} if statistics else {}
    ours, theirs, again = (tmp_path / name for name in ("ours", "theirs", "again"))
    digest = pretrained.save_autoencoder(ours, params, config=config, metadata=facts)
    for words in (
        ["--to", family, "--checkpoint", ours, "--out", theirs],
        ["--from", family, "--weights", theirs, "--out", again],
    ):
        status, output = run(capsys, *words)
        assert status == 0 and output.err == ""
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        (line,) = output.out.splitlines()
        assert line.startswith(f"{words[-1]}: {family}, {count:,} parameters, ")
        known = statistics is not None or words[0] == "--from"
        assert ("with mean" in line) == known
    model = pretrained.load_autoencoder(again)
    assert (model.digest, model.config) == (digest, config)
    z = config.latent_channels
    same = autoencoder.LatentStatistics((0.0,) * z, (1.0,) * z)
    assert model.statistics == (statistics or same)


def test_a_transformer_goes_there_and_back(capsys, tmp_path):
    """`config.json` says what it is, ours and theirs."""
    config = transformer.parse_config(transformers.SMALL["wan2.2"])
    params = tiny.randomised(abstract.transformer_shapes(config), scale=0.1)
    ours, theirs, again = (tmp_path / name for name in ("ours", "theirs", "again"))
    digest = pretrained.save_transformer(ours, params, config=config)
    for words in (
        ["--to", "wan2.2", "--checkpoint", ours, "--out", theirs],
        ["--from", "wan2.2", "--weights", theirs, "--out", again],
    ):
        status, output = run(capsys, *words)
        assert status == 0 and output.err == ""
        count = flops.transformer_parameters(config)
        assert output.out == (
            f"{words[-1]}: wan2.2, {count:,} parameters, 3 blocks of width 66, "
            "6 latent channels\n"
        )
    assert pretrained.load_transformer(again).digest == digest


FORM = lora.LoraConfig(rank=2, alpha=3.0)


def save_adapters(directory, config):
    shapes = lora.shapes(abstract.transformer_shapes(config), FORM)
    params = tiny.randomised(shapes, scale=0.1)
    pretrained.save_adapters(
        directory, params, lora_config=FORM, config=config, base="0" * 64
    )
    return params


def test_adapters_become_the_file_that_diffusers_loads(capsys, tmp_path):
    config = transformer.parse_config(transformers.SMALL["wan2.2"])
    params = save_adapters(tmp_path / "adapters", config)
    words = ["--to", "wan2.1", "--checkpoint", tmp_path / "adapters"]
    for _ in range(2):
        status, output = run(capsys, *words, "--out", tmp_path / "lora")
        assert status == 0 and output.err == ""
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert output.out == (
        f"{tmp_path / 'lora'}: wan2.1, {count:,} parameters, adapters of rank 2, "
        "alpha 3\n"
    )
    (file,) = (tmp_path / "lora").iterdir()
    assert file.name == "pytorch_lora_weights.safetensors"
    form, again = wan.load_lora(file, config)
    assert (form.rank, form.alpha) == (2, 3.0)
    assert model_io.digest(again) == model_io.digest(params)


@pytest.mark.parametrize("option", ["text", "input_skip", "pooled_text"])
def test_adapters_of_another_form_are_refused(capsys, tmp_path, option):
    config = transformer.parse_config(transformers.SMALL["wan2.2"])
    changes = {option: True}
    if option == "text":
        text = dit.VARIANTS["tiny"].text
        assert text is not None
        changes = {"text": text, "text_width": text.width}
    save_adapters(tmp_path / "adapters", dataclasses.replace(config, **changes))
    words = ["--to", "wan2.1", "--checkpoint", tmp_path / "adapters"]
    status, output = run(capsys, *words, "--out", tmp_path / "lora")
    assert status == 2 and output.out == ""
    (line,) = output.err.splitlines()
    assert f"Wan's form: {option} is" in line
    assert [path.name for path in tmp_path.iterdir()] == ["adapters"]


def test_adapters_without_the_sizes_of_their_base_are_refused(capsys, tmp_path):
    """As runs wrote them once."""
    record = {"kind": "lora", "lora": {}, "base": "0" * 64}
    model_io.save_model(tmp_path / "old", {"x": np.zeros(1, np.float32)}, config=record)
    words = ["--to", "wan2.1", "--checkpoint", tmp_path / "old"]
    status, output = run(capsys, *words, "--out", tmp_path / "lora")
    assert status == 2 and "its configuration has no 'model'" in output.err


def test_a_video_model_s_autoencoder_is_found(capsys, models, tmp_path):
    """It is refused for its form, not for being inside a video model."""
    words = ["--to", "wan2.1", "--checkpoint", models / "video", "--out", "new"]
    status, output = run(capsys, *words)
    assert status == 2 and len(output.err.splitlines()) == 1
    assert "Wan's form" in output.err


def test_a_text_encoder_alone_is_named(capsys, tmp_path):
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "umt5"}')
    safetensors.numpy.save_file({"x": np.zeros(1)}, folder / "m.safetensors")
    words = ["--from", "wan2.1", "--weights", folder, "--out", tmp_path / "new"]
    status, output = run(capsys, *words)
    assert status == 2 and output.out == ""
    (line,) = output.err.splitlines()
    assert "a text encoder, which goes with its pipeline" in line
    assert [path.name for path in tmp_path.iterdir()] == ["text_encoder"]


def test_the_parser_knows_the_families():
    assert set(convert.FAMILIES) == set(wan.FAMILIES)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "one of the arguments --from --to is required"),
        (["--from", "wan2.1", "--to", "wan2.1"], "not allowed with"),
        (["--from", "wan3"], "invalid choice: 'wan3'"),
        (["--from", "wan2.1"], "--from needs --weights DIR"),
        (["--to", "wan2.1"], "--to needs --checkpoint DIR"),
        (["--from", "wan2.1", "--weights", "a", "--checkpoint", "b"], "leave --check"),
        (["--to", "wan2.1", "--weights", "a", "--checkpoint", "b"], "leave --weights"),
        (["--to", "wan2.1", "--checkpoint", "nowhere"], "nowhere: no such directory"),
        (["--from", "wan2.1", "--weights", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    status, output = run(capsys, *words, "--out", "new")
    assert status == 2 and output.out == ""
    assert len(output.err.strip().splitlines()) == 1
    assert says in output.err
    assert list(tmp_path.iterdir()) == []
