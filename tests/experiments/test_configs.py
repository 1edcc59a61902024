"""Configs are found by name and read strictly; a wrong command line is one line."""

import pathlib
import subprocess
import sys
from typing import Any

import pytest

from data_pipelines.worlds import bodies
from experiments import configs
from experiments.configs import bodies_world
from experiments.stages.adversarial import config as adversarial
from experiments.stages.autoencoder import config as autoencoder
from experiments.stages.captioner import config as captioner
from experiments.stages.expander import config as expander
from experiments.stages.finetune import config as finetune
from experiments.stages.video import config as video
from soraflax import config as config_lib
from soraflax import tokenizer

CONFIGS = configs.DIRECTORY
RUN_CONFIGS = {
    "autoencoder": autoencoder.AutoencoderRunConfig,
    "adversarial": adversarial.AdversarialRunConfig,
    "video": video.VideoRunConfig,
    "finetune": finetune.FinetuneRunConfig,
    "captioner": captioner.CaptionerRunConfig,
    "expander": expander.ExpanderRunConfig,
}


def test_unknown_keys_and_files_name_the_nearest() -> None:
    config = configs.load(str(CONFIGS / "video_small.py"))
    with pytest.raises(config_lib.ConfigError, match=r"config\.data\.pth: .*'path'"):
        configs.check_key(config, "data.pth")
    with pytest.raises(config_lib.ConfigError, match=r"config\.trian: .*'train'"):
        configs.check_key(config, "trian.steps")
    with pytest.raises(config_lib.ConfigError, match="did you mean 'video_small'"):
        configs.load(str(CONFIGS / "video_smal.py"))
    with pytest.raises(config_lib.ConfigError, match="did you mean 'tiny'"):
        configs.load(str(CONFIGS / "video_small.py:tinny"))


def test_a_bare_name_is_a_shipped_config_in_any_directory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = configs.load("autoencoder_small")
    assert small == configs.load(str(CONFIGS / "autoencoder_small.py"))
    assert configs.load("autoencoder_small:tiny").batch == 8 != small.batch
    with pytest.raises(config_lib.ConfigError, match="did you mean 'video_small'"):
        configs.load("video_smal:tiny")
    (tmp_path / "own.py").write_text(
        "def get_config(batch='3'):\n    return int(batch)"
    )
    assert configs.load("own.py") == 3
    assert configs.load("own.py:5") == 5
    with pytest.raises(config_lib.ConfigError, match="own: no such config"):
        configs.load("own")


def test_overrides_have_the_types_of_the_config() -> None:
    config = configs.load("autoencoder_small")
    words = ["--config.train.steps=3", "--config.distributed", "--config.loss.kl", "1"]
    configs.override(config, [*words, "--noconfig.distributed"])
    assert (config.train.steps, config.distributed, config.loss.kl) == (3, False, 1.0)
    with pytest.raises(config_lib.ConfigError, match="'more' is not a flag"):
        configs.override(config, ["more"])
    with pytest.raises(config_lib.ConfigError, match="wrkdir"):
        configs.override(config, ["--wrkdir=here"])


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("[!_]*.py")))
def test_every_config_converts_strictly(config: pathlib.Path) -> None:
    for argument in ("", ":tiny"):
        values = configs.load(f"{config}{argument}")
        if "path" in values.data:
            values.data.path = "DATASET"
        if "autoencoder" in values:
            values.autoencoder = "AE"
        if "base" in values:
            values.base = "VIDEO"
        if "text_encoder" in values:
            values.text_encoder, values.data.features = "TEXT", "FEATURES"
        made = config_lib.to_dataclass(values, RUN_CONFIGS[values.stage])
        again = config_lib.to_dataclass(config_lib.to_dict(made), type(made))
        assert again == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=autoencoder_small", "--config.train.stps=3"],
            "soraflax train: config.train.stps: unknown key; did you mean 'steps'?",
        ),
        (
            ["--config={c}/autoencoder_small.py", "--config.train.steps=many"],
            "soraflax train: flag --config.train.steps=many: ",
        ),
    ],
)
def test_command_line(
    tmp_path: pathlib.Path, arguments: list[str], message: str
) -> None:
    arguments = [a.format(c=CONFIGS) for a in arguments]
    workdir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", *arguments, f"--workdir={workdir}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message), done.stderr
    assert done.stderr.count("\n") == 1
    assert not workdir.exists()


def test_the_wide_world_shows_everything_and_its_captions_fit_its_config() -> None:
    wide = bodies.VARIANTS["wide"]
    assert len({width / height for width, height in wide.sizes}) == 12
    clips = [bodies.render_clip(1, index, config=wide) for index in range(60)]
    truths = [clip.truth for clip in clips]
    assert {len(clip.video) for clip in clips} == {1, *wide.frames}
    assert {len(truth["objects"]) for truth in truths} == {1, 2, 3}
    for key in ("occluder", "pan", "events", "dotted"):
        assert any(truth[key] for truth in truths) and not all(t[key] for t in truths)
    config: Any = bodies_world.get_config()
    read = tokenizer.Tokenizer.embedded()
    lengths = [len(read.encode(clip.captions["detailed"])) for clip in clips]
    assert 48 < max(lengths) <= config.data.captions.max_length
    # The longest and widest clip fits the row, at 16 x 16 pixels a token.
    cells = max(width * height // 256 for width, height in wide.sizes)
    tokens = cells * (1 + (max(wide.frames) - 1) // 4)
    assert tokens <= config.cache.fit.max_tokens <= config.data.row.tokens
