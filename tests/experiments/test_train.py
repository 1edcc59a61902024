"""Every shipped config, shrunk, trains, and resumes bit for bit."""

import functools
import json
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.stages import runtime
from experiments.stages.adversarial import stage as adversarial
from experiments.stages.autoencoder import stage as autoencoder
from experiments.stages.captioner import stage as captioner
from experiments.stages.expander import stage as expander
from experiments.stages.finetune import config as finetune_config
from experiments.stages.finetune import job as finetune_job
from experiments.stages.finetune import stage as finetune
from experiments.stages.video import stage as video
from soraflax import config as config_lib
from soraflax.generation import captioner as captioners
from soraflax.nn import captioner as captioner_nn
from soraflax.nn import lora
from soraflax.pretrained import expanders, models
from soraflax.pretrained import io as model_io
from soraflax.train import checkpoint, loop, metrics
from tests.experiments import shrunk, world

BASES = {
    "autoencoder_decoder": "autoencoder_small",
    "bodies_longer": "bodies",
    "bodies_tasks": "bodies",
    "bodies_token_weighted": "bodies",
    "bodies_several": "bodies",
    "bodies_world": "bodies",
    "wan_finetune": "wan2_1_t2v_1_3b",
}
STAGES = {
    "autoencoder": autoencoder,
    "adversarial": adversarial,
    "video": video,
    "finetune": finetune,
    "captioner": captioner,
    "expander": expander,
}


@pytest.fixture(scope="module", autouse=True)
def compile_quickly() -> Iterator[None]:
    """What is compiled here runs a few times only."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A few clips of the embedded world."""
    return world.write(tmp_path_factory.mktemp("data") / "dataset", count=6)


@pytest.fixture(scope="module")
def train(
    dataset: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], pathlib.Path]:
    """Trains a shipped config by name, shrunk, two steps on eight devices, once."""
    folder = tmp_path_factory.mktemp("runs")

    @functools.cache
    def features(source: pathlib.Path) -> pathlib.Path:
        return world.embed(source, text_encoder(folder), folder / "features")

    @functools.cache
    def text_encoder(place: pathlib.Path) -> pathlib.Path:
        return world.write_text_encoder(place / "text")

    @functools.cache
    def run(name: str) -> pathlib.Path:
        values = shrunk.config(name, dataset)
        if "autoencoder" in values:
            values.autoencoder = str(run("autoencoder_small"))
        if "base" in values and values.stage != "captioner":  # which begins anew
            values.base = str(run(BASES.get(name, "video_small")))
        if name.startswith("wan"):
            values.data.features = str(features(dataset))
        if name.startswith("wan") and values.stage == "video":
            values.text_encoder = str(text_encoder(folder))
        STAGES[values.stage].run(values, folder / name)
        return folder / name

    return run


@pytest.fixture(scope="module")
def trained(train: Callable[[str], pathlib.Path]) -> pathlib.Path:
    """The autoencoder."""
    return train("autoencoder_small")


def _saved(workdir: pathlib.Path, step: int) -> tuple[Any, str]:
    """The state in a checkpoint as numpy arrays, and where its data stood."""
    folder = workdir.absolute() / "checkpoints" / str(step)
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder / "state").item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(folder / "state", restore_args=numpy)
    return state, (folder / "iterator" / "metadata").read_text()


@pytest.mark.parametrize(
    "config", sorted(p.stem for p in shrunk.CONFIGS.glob("[!_]*.py"))
)
def test_every_config_trains(config: str, train: Callable[[str], pathlib.Path]) -> None:
    steps = [line for line in metrics.read(train(config)) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(np.isfinite(line["loss"]) and not line["skipped"] for line in steps)


def test_autoencoder_stage(trained: pathlib.Path) -> None:
    assert model_io.model_config(trained)["kind"] == "autoencoder"
    steps = [line for line in metrics.read(trained) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert steps[-1]["model_flops_utilisation"] > 0
    assert (trained / "result.json").exists()


def _resumed(
    config: Any, stage: Any, workdir: pathlib.Path, patch: pytest.MonkeyPatch
) -> dict[str, float]:
    """Runs a stage of two steps that is stopped after the first, and resumed."""
    with patch.context() as patched:
        log = loop.log

        def log_and_stop(*arguments: Any, **keywords: Any) -> None:
            log(*arguments, **keywords)
            os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(loop, "log", log_and_stop)
        with pytest.raises(runtime.Interrupted, match="step 1 of 2 is saved"):
            stage.run(config, workdir)
    return stage.run(config, workdir)


def _recorded(workdir: pathlib.Path) -> str:
    """What a run says of itself, but for the clock."""
    return (workdir / metrics.FILE).read_text()


@pytest.mark.parametrize("name", ["autoencoder_small", "video_lora"])
def test_other_stages_resume_bit_for_bit(
    name: str,
    dataset: pathlib.Path,
    train: Callable[[str], pathlib.Path],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts, config = train(name), tmp_path / "parts", shrunk.config(name, dataset)
    if "base" in config:
        config.base = str(train("video_small"))
    result = _resumed(config, STAGES[config.stage], parts, monkeypatch)
    assert result == json.loads((whole / "result.json").read_text())
    chex.assert_trees_all_equal(_saved(parts, 2), _saved(whole, 2))
    assert _recorded(parts) == _recorded(whole)


def test_video_stage_resumes_bit_for_bit(
    train: Callable[[str], pathlib.Path],
    trained: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts = train("video_small"), tmp_path / "video"
    config = shrunk.video(whole / "latents", trained)
    result = _resumed(config, video, parts, monkeypatch)
    assert result == json.loads((whole / "result.json").read_text())
    (state, position), (expected, expected_position) = (
        _saved(parts, 2),
        _saved(whole, 2),
    )
    assert {"params", "opt_state", "ema", "step"} <= set(state)
    chex.assert_trees_all_equal(state, expected)
    assert position == expected_position != _saved(parts, 1)[1]
    assert _recorded(parts) == _recorded(whole)
    config.model.depth = 1
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.depth=2.*has 1"):
        video.run(config, parts)


@pytest.mark.parametrize("name", ["wan2_1_t2v_1_3b", "wan_finetune"])
def test_training_on_features_resumes_bit_for_bit(
    name: str,
    dataset: pathlib.Path,
    train: Callable[[str], pathlib.Path],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With captions embedded again; with those of another encoder it is refused."""
    whole, parts = train(name), tmp_path / "parts"
    config, stage = shrunk.config(name, whole / "latents"), STAGES["finetune"]
    text = whole.parent / "text"
    if name == "wan_finetune":
        config.base = str(train(BASES[name]))
    else:
        stage = STAGES["video"]
        config.autoencoder = str(train("autoencoder_small"))
        config.text_encoder = str(text)
    config.data.features = str(world.embed(dataset, text, tmp_path / "again"))
    result = _resumed(config, stage, parts, monkeypatch)
    assert result == json.loads((whole / "result.json").read_text())
    (state, position), (expected, end) = _saved(parts, 2), _saved(whole, 2)
    chex.assert_trees_all_equal(state, expected)
    assert position == end != _saved(parts, 1)[1]
    assert model_io.model_digest(parts) == model_io.model_digest(whole)

    other = world.write_text_encoder(tmp_path / "other", seed=1)
    config.data.features = str(world.embed(dataset, other, tmp_path / "features"))
    with pytest.raises(ValueError, match=r"features of encoder .* is in use"):
        stage.run(config, parts)
    if name != "wan_finetune":
        config.text_encoder = str(other)
        with pytest.raises(checkpoint.CheckpointError, match=r"text\.encoder"):
            stage.run(config, parts)


def test_adversarial_stage_resumes_bit_for_bit(
    dataset: pathlib.Path,
    train: Callable[[str], pathlib.Path],
    trained: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts = train("autoencoder_adversarial"), tmp_path / "adversarial"
    config = shrunk.adversarial(dataset, trained)
    result = _resumed(config, adversarial, parts, monkeypatch)
    assert result == json.loads((whole / "result.json").read_text())
    chex.assert_trees_all_equal(_saved(parts, 2), _saved(whole, 2))
    assert _recorded(parts) == _recorded(whole)
    other = tmp_path / "other"
    models.save_autoencoder(
        other,
        jax.tree.map(lambda x: x + 1.0, models.load_autoencoder(trained).params),
        config=models.load_autoencoder(trained).config,
    )
    config.autoencoder = str(other)
    with pytest.raises(checkpoint.CheckpointError, match="trained with start="):
        adversarial.run(config, parts)


@pytest.mark.parametrize("config", ["autoencoder_adversarial", "autoencoder_decoder"])
def test_the_decoder_is_trained_alone(
    config: str, train: Callable[[str], pathlib.Path], trained: pathlib.Path
) -> None:
    path = train(config)
    before, after = (models.load_autoencoder(p) for p in (trained, path))
    assert after.encoder_digest == before.encoder_digest
    assert after.statistics == before.statistics
    assert after.config == before.config
    for name, tree in after.params.items():
        same = jax.tree.map(np.array_equal, tree, before.params[name])
        assert jax.tree.all(same) == (name in models.ENCODER)


def test_adversarial_stage_logs_both_sides(
    train: Callable[[str], pathlib.Path],
) -> None:
    lines = metrics.read(train("autoencoder_adversarial"))
    steps = [line for line in lines if "loss" in line]
    terms = {"l1", "l2", "kl", "gradients", "psnr", "reconstruction"}
    game = {"adversarial", "adversarial_weight", "discriminator", "r1", "lecam"}
    groups = ("autoencoder", "discriminator", "anchors")
    rates = {
        f"{name}/{group}"
        for name in ("gradient_norm", "learning_rate")
        for group in groups
    }
    for line in steps:
        assert terms | game | rates | {"logits_real", "logits_fake"} <= set(line)
    assert [line["adversarial_weight"] > 0 for line in steps] == [False, True]


def test_adversarial_stage_can_train_the_encoder(
    dataset: pathlib.Path, trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = shrunk.adversarial(dataset, trained)
    config.train_encoder = True
    config.adversarial.lecam = 0.0
    config.train.steps = 1
    config.data.crops.shapes = ((1, 16, 16),)
    adversarial.run(config, tmp_path / "run")
    before, after = (models.load_autoencoder(p) for p in (trained, tmp_path / "run"))
    assert after.encoder_digest != before.encoder_digest
    assert after.statistics != before.statistics


def test_video_stage_exports(
    train: Callable[[str], pathlib.Path], trained: pathlib.Path
) -> None:
    path = train("video_small")
    assert json.loads((path / "result.json").read_text())["validation/loss"] > 0
    assert 0 < metrics.read(path)[0]["packing_efficiency"] <= 1
    assert (path / "model" / "vocabulary.model").exists()
    assert model_io.model_digest(
        path / "model" / "autoencoder"
    ) == model_io.model_digest(trained)
    seen = models.load_video_model(path).config.trained_on
    assert seen is not None and (seen.sides, seen.frames[1]) == ((32, 48), 9)
    assert {"a", "moves"} <= set(seen.words)


def test_captioner_stage_exports(train: Callable[[str], pathlib.Path]) -> None:
    path = train("captioner_small")
    model = captioners.Captioner.load(path)
    codec = models.load_autoencoder(train("autoencoder_small"))
    assert model.model.config.autoencoder == codec.encoder_digest
    assert model.model.config.max_frames == 9
    result = json.loads((path / "result.json").read_text())
    assert 0 < result["validation/loss"] < 10
    (line,) = model([np.zeros((9, 32, 48, 3), np.uint8)])
    assert isinstance(line, str)


def test_expander_stage_exports(train: Callable[[str], pathlib.Path]) -> None:
    path = train("expander_small")
    model = expanders.load_expander(path)
    assert model.config.network == captioner_nn.VARIANTS["expander_tiny"]
    assert np.isfinite(
        json.loads((path / "result.json").read_text())["validation/loss"]
    )
    config = shrunk.config("expander_small", path)
    config.model.reads, config.train.steps = "latents", 3
    with pytest.raises(ValueError, match=r"model.reads 'latents': .* use 'text'"):
        expander.run(config, path)


def test_latents_of_other_clips_are_refused(
    train: Callable[[str], pathlib.Path], trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = world.write(tmp_path / "other", count=2, seed=1)
    message = r"data\.path .*other holds clips .* was made from .*dataset with clips"
    with pytest.raises(config_lib.ConfigError, match=message) as caught:
        video.run(shrunk.video(other, trained), train("video_small"))
    assert "\n" not in str(caught.value)


def test_finetuning_changes_the_adapted_kernels_alone(
    train: Callable[[str], pathlib.Path],
) -> None:
    base, tuned = (
        models.load_video_model(train(name)) for name in ("video_small", "video_lora")
    )
    assert tuned.config == base.config
    record = model_io.model_config(train("video_lora") / "adapters")
    assert record["kind"] == "lora" and record["base"] == base.digest
    form = config_lib.to_dataclass(record["lora"], lora.LoraConfig)
    adapters, _ = model_io.load_model(train("video_lora") / "adapters")
    targets = lora.targets(base.params, form)
    assert len(targets) == 10
    before, after = (model_io.flatten(model.params) for model in (base, tuned))
    for name, leaf in after.items():
        assert np.array_equal(leaf, before[name]) == (name not in targets), name
    merged = model_io.flatten(lora.merge(base.params, adapters, config=form))
    # One is compiled, the other not: a product may round otherwise in its last bit.
    chex.assert_trees_all_close(after, merged, rtol=1e-6, atol=1e-9)


def _finetune(train: Callable[[str], pathlib.Path]) -> Any:
    config = shrunk.config("video_lora", train("video_small") / "latents")
    config.base = str(train("video_small"))
    return config


def test_finetuning_resumes_bit_for_bit(
    train: Callable[[str], pathlib.Path],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts = train("video_lora"), tmp_path / "tuned"
    result = _resumed(_finetune(train), finetune, parts, monkeypatch)
    assert result == json.loads((whole / "result.json").read_text())
    chex.assert_trees_all_equal(_saved(parts, 2), _saved(whole, 2))
    state, _ = _saved(parts, 2)
    adapters, _ = model_io.load_model(whole / "adapters")
    assert model_io.flatten(state["params"]).keys() == model_io.flatten(adapters).keys()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss.process", "rectified_flow", "trained with variance_preserving"),
        ("loss.shift.base", 3.0, r"config\.loss\.shift is .* trained with .*2\.5"),
        ("data.reference_fps", 4.0, r"config\.data\.reference_fps is 4\.0, .* 8\.0"),
        ("data.patch", (1, 1, 1), r"data\.patch \(1, 1, 1\) is not model\.patch"),
        ("lora.targets", ("mlp/*",), r"config\.lora\.targets: 'mlp/\*' matches no"),
        ("lora.rank", 99, r"config\.lora\.rank 99: .* has 32 at most"),
        ("base", "nowhere", "nowhere: no such directory"),
    ],
)
def test_finetuning_refuses_what_the_base_is_not(
    train: Callable[[str], pathlib.Path],
    tmp_path: pathlib.Path,
    key: str,
    value: Any,
    message: str,
) -> None:
    config = _finetune(train)
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises((ValueError, OSError), match=message):
        finetune.run(config, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_all_parameters_can_be_tuned(train: Callable[[str], pathlib.Path]) -> None:
    config = _finetune(train)
    with config.ignore_type():
        config.lora = None
    made = config_lib.to_dataclass(config, finetune_config.FinetuneRunConfig)
    base = models.load_video_model(made.base)
    trainable = finetune_job.init_params(made, base, mesh=made.mesh.make())
    merged = trainable.merge(trainable.initial.make(), trainable.base)
    chex.assert_trees_all_equal(merged, base.params)
    assert not jax.tree.leaves(trainable.base)
