"""Whole folders of Wan's pipelines: what diffusers made of them, there and back."""

import dataclasses
import functools
import json
import shutil
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from soraflax import tokenizer
from soraflax.nn import dit
from soraflax.pretrained import abstract, models, text_encoders
from soraflax.pretrained import io as model_io
from soraflax.weights import wan
from soraflax.weights.wan import pipeline
from tests.golden import wan_pipeline as judge
from tests.weights.wan import pipelines

TOLERANCE = 1e-3
PARTS = ("transformer", "vae", "text_encoder")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of a case, written once."""
    place, made = tmp_path_factory.mktemp("folders"), {}

    def get(name):
        if name not in made:
            made[name] = judge.write(place / name, judge.CASES[name])
        return made[name]

    return get


@pytest.fixture(scope="module")
def checkpoint(folders, tmp_path_factory):
    """That of Wan 2.1, converted."""
    out = tmp_path_factory.mktemp("ours") / "wan"
    folder = wan.convert(folders("2.1"), out, family="wan2.1")
    assert isinstance(folder, wan.Folder) and folder.unused == ()
    return out


def check(checkpoint, name):
    case = judge.CASES[name]
    latent, video = pipelines.run(checkpoint, case)
    given = slice(1, None) if case.image else slice(None)
    with np.load(judge.GOLDEN) as golden:
        expected = golden[f"{name}/latent"]
        assert pipelines.error(latent[given], expected[given]) <= TOLERANCE
        expected = golden[f"{name}/video"].astype(np.float32)
    assert pipelines.error(video[:, ::4, ::4], expected) <= TOLERANCE


def test_the_video_that_diffusers_makes(checkpoint):
    check(checkpoint, "2.1")


@pytest.mark.parametrize("name", [name for name in judge.CASES if name != "2.1"])
def test_the_video_of_other_pipelines(folders, tmp_path, name):
    """Euler steps; levels of single tokens, without and with an image; two experts."""
    wan.convert(folders(name), tmp_path / "o", family=judge.CASES[name].convert_from)
    check(tmp_path / "o", name)


def test_what_a_folder_says_is_kept(checkpoint):
    config = models.load_video_model(checkpoint).config
    assert (config.shift.base, config.shift.exponent) == (3.0, 0.0)
    assert config.cleaned and config.text_length == 512 and config.reference_fps == 16
    assert config.trained_levels is not None and config.trained_levels.whole
    defaults = config.sampling
    assert defaults is not None
    assert (defaults.sampler, defaults.steps, defaults.guidance) == ("unipc", 50, 5)
    assert (defaults.size, defaults.frames, config.window) == ((832, 480), 81, 21)
    assert config.row.tokens == 21 * 30 * 52


@pytest.mark.parametrize("name", ["2.1 Euler", "A14B", "5B"])
def test_there_and_back(folders, tmp_path, name):
    theirs, family = folders(name), judge.CASES[name].convert_from
    wan.convert(theirs, tmp_path / "ours", family=family)
    for _ in range(2):  # it may be replaced
        wan.export(tmp_path / "ours", tmp_path / "back", family=family)
    back = tmp_path / "back"
    for path in theirs.rglob("*.safetensors"):
        before = safetensors.numpy.load_file(path)
        after = safetensors.numpy.load_file(back / path.relative_to(theirs))
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            np.testing.assert_array_equal(after[key], tensor)
    vocabulary = tokenizer.Tokenizer.load(back / "tokenizer" / "spiece.model")
    assert vocabulary.model == tokenizer.Tokenizer.embedded().model
    wan.convert(back, tmp_path / "again", family=family)
    ours, again = (models.load_video_model(tmp_path / n) for n in ("ours", "again"))
    assert (ours.config, ours.digest) == (again.config, again.digest)
    other = {"wan2.1": "wan2.2", "wan2.2": "wan2.1"}[family]
    with pytest.raises(model_io.ModelError, match=f"is not a pipeline of {other}"):
        wan.export(tmp_path / "ours", tmp_path / "other", family=other)


def test_bfloat16_stays_bfloat16(folders, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(folders("2.1"), theirs)
    for path in theirs.rglob("*.safetensors"):
        tensors = safetensors.numpy.load_file(path)
        half = {k: t.astype(ml_dtypes.bfloat16) for k, t in tensors.items()}
        safetensors.numpy.save_file(half, path)
    wan.convert(theirs, tmp_path / "ours", family="wan2.1")
    model = models.load_video_model(tmp_path / "ours")
    assert {leaf.dtype for leaf in model_io.flat_shapes(model.params).values()} == {
        np.dtype(ml_dtypes.bfloat16)
    }
    assert model.text_encoder is not None
    text = text_encoders.load_text_encoder(model.text_encoder, stored=True)
    assert text.params["norm"]["scale"].dtype == ml_dtypes.bfloat16
    for dtype in ("float32", "bfloat16"):  # and can be computed with, tracing says
        config = dataclasses.replace(model.config.transformer, dtype=dtype)
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), model.params
        )
        row = abstract.example_row(config)
        apply = functools.partial(dit.DiT(config).apply, packed=row)
        made: Any = jax.eval_shape(apply, {"params": shapes})
        assert made.dtype == np.float32
    wan.export(tmp_path / "ours", tmp_path / "back", family="wan2.1")
    for part in ("transformer", "text_encoder"):
        (path,) = (tmp_path / "back" / part).glob("*.safetensors")
        before = safetensors.numpy.load_file(theirs / part / path.name)
        for key, tensor in safetensors.numpy.load_file(path).items():
            assert tensor.dtype == ml_dtypes.bfloat16
            np.testing.assert_array_equal(tensor, before[key])


def test_what_is_not_taken_is_named(folders, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(folders("2.1"), theirs)
    for name in ("safety_checker", "assets", ".cache"):
        (theirs / name).mkdir()
    shutil.copytree(theirs / "transformer", theirs / "transformer_2")
    safetensors.numpy.save_file({"x": np.zeros(1)}, theirs / "lora.safetensors")
    (theirs / "README.md").write_text("a page")
    found = wan.convert(theirs, tmp_path / "ours", family="wan2.1")
    assert isinstance(found, wan.Folder)
    assert found.unused == ("lora.safetensors", "safety_checker", "transformer_2")


def edited(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def removed(folder, name):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def other_vae(folder):
    """The autoencoder of a pipeline with latents of other channels."""
    edited(
        folder,
        "vae/config.json",
        z_dim=6,
        latents_mean=[0.0] * 6,
        latents_std=[1.0] * 6,
    )


INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
TEXT = "text_encoder/config.json"
REFUSED = [
    (lambda f: edited(f, INDEX, _class_name="WanVACEPipeline"), "of class WanVACEPipe"),
    (lambda f: edited(f, INDEX, image_encoder=["a", "B"]), "is an image-to-video pipe"),
    (lambda f: edited(f, INDEX, boundary_ratio=1.5), "boundary_ratio is 1.5; two"),
    (
        lambda f: edited(f, INDEX, transformer_2=["a", "B"]),
        "boundary_ratio is None; two transformers need",
    ),
    (lambda f: removed(f, "transformer"), "transformer: no such file or directory"),
    (lambda f: removed(f, "vae/config.json"), "vae/config.json: no such file"),
    (lambda f: removed(f, "text_encoder"), "text_encoder/config.json: no such file"),
    (lambda f: removed(f, "tokenizer/spiece.model"), "tokenizer/spiece.model: no such"),
    (lambda f: removed(f, SCHEDULER), "scheduler_config.json: no such file"),
    (other_vae, "latents of 6 channels, but the transformer takes 4: not its auto"),
    (lambda f: edited(f, TEXT, d_model=12), "of width 12, but the transformer takes 8"),
    (lambda f: edited(f, TEXT, vocab_size=99), "1024 pieces for embeddings of 99"),
    (lambda f: edited(f, TEXT, num_layers=3), "block.2.layer.0.*is missing"),
    (lambda f: edited(f, SCHEDULER, solver_order=3), "solver_order is 3; what is comp"),
    (lambda f: edited(f, SCHEDULER, use_flow_sigmas=False), "use_flow_sigmas is False"),
    (lambda f: edited(f, SCHEDULER, flow_shift=0), "flow_shift is 0: use one above 0"),
    (lambda f: edited(f, SCHEDULER, _class_name="DDIMScheduler"), "of class DDIMSched"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSED)
def test_what_does_not_go_together_is_refused(folders, tmp_path, damage, message):
    theirs = tmp_path / "theirs"
    shutil.copytree(folders("2.1"), theirs)
    damage(theirs)
    errors = (model_io.ModelError, FileNotFoundError, tokenizer.TokenizerError)
    with pytest.raises(errors, match=message) as error:
        wan.convert(theirs, tmp_path / "ours", family="wan2.1")
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_the_other_family_is_refused(folders, tmp_path):
    with pytest.raises(model_io.ModelError, match=r"is a pipeline of wan2\.1, not"):
        wan.convert(folders("2.1"), tmp_path / "ours", family="wan2.2")


def test_a_transformer_in_the_place_of_the_folder_s_own(folders, tmp_path, checkpoint):
    theirs = folders("2.1")
    (path,) = (theirs / "transformer").glob("*.safetensors")
    one = tmp_path / "one.safetensors"
    tensors = safetensors.numpy.load_file(path)
    prefixed = {f"model.diffusion_model.{k}": 2 * t for k, t in tensors.items()}
    safetensors.numpy.save_file(prefixed, one)
    shutil.copy(theirs / "transformer" / "config.json", tmp_path / "config.json")
    found = wan.convert(one, tmp_path / "x", family="wan2.1", pipeline_folder=theirs)
    assert isinstance(found, wan.Folder) and found.unused == ("transformer",)
    plain, twice = (models.load_video_model(f) for f in (checkpoint, tmp_path / "x"))
    assert plain.config == twice.config
    leaf = np.asarray(plain.params["head"]["out"]["kernel"])
    np.testing.assert_array_equal(twice.params["head"]["out"]["kernel"], 2 * leaf)


def test_sizes_that_an_index_names_are_published_ones():
    assert set(pipeline.VARIANTS) == {"2.1", "2.2 A14B", "2.2 TI2V-5B"}
    assert {v.family for v in pipeline.VARIANTS.values()} == set(wan.FAMILIES)
