"""What a trained expander writes is checked, and the template stands in for it."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

import soraflax
from soraflax import tokenizer
from soraflax.generation import expansion, prompt_expander
from soraflax.nn import captioner
from soraflax.pretrained import captioners, expanders
from soraflax.pretrained import io as model_io

SIZES = captioner.VARIANTS["expander_tiny"]
VOCABULARY = tokenizer.Tokenizer.embedded()
CONFIG = expanders.ExpanderModelConfig(SIZES, prompt_length=16, text_length=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An expander of random parameters."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32),
        captioners.shapes(SIZES),
    )
    place = tmp_path_factory.mktemp("expander")
    expanders.save_expander(
        place / "model", params, config=CONFIG, vocabulary=VOCABULARY
    )
    return place


class Writing(prompt_expander.PromptExpander):
    """One whose network writes what a test says."""

    said: tuple[str, ...] = ()

    def candidates(self, text, *, seed=0):
        return list(self.said)


def writing(folder, *said, **settings):
    template = expansion.Template(**settings)
    expander = Writing(expanders.load_expander(folder), template)
    object.__setattr__(expander, "said", said)
    return expander


RED = "a small red ring moves up on a tan background"
BLUE = "a large blue ring moves left on a navy background"


def test_the_first_candidate_that_keeps_the_prompt_is_taken(folder, caplog):
    expander = writing(folder, "nonsense", "a red dog", RED, BLUE)
    assert expander("a ring") == expander("red") == expander("tan background") == RED
    assert expander("something that moves left") == BLUE
    assert not caplog.records


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("a red cat", "has words that are not understood"),
        ("no ring", "has words that are not understood"),
        ("no ring " * 999, f"'{'no ring ' * 7}n...' has words"),
        ("two rings", "no candidate keeps 'two rings'"),
        ("a green ring", "no candidate keeps 'a green ring'"),
    ],
)
def test_the_template_stands_in_and_that_is_said(folder, caplog, prompt, reason):
    expander = writing(folder, RED, BLUE)
    assert expander(prompt, seed=3) == expansion.Template()(prompt, seed=3)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "by the template" in record.message and reason in record.message


def test_it_is_said_who_expanded_a_prompt(folder):
    expander = writing(folder, RED)
    own = expansion.expanded("a ring", expander, seed=3, name="mine")
    assert own.text == RED
    digest = expander.model.digest
    assert own.record("a ring") == {
        "expander": "mine",
        "digest": digest,
        "prompt": "a ring",
    }
    stood_in = expansion.expanded("a red cat", expander, seed=3, name="mine")
    assert stood_in.text == expansion.Template()("a red cat", seed=3)
    assert stood_in.record("a red cat") == {
        "expander": "template",
        "asked": "mine",
        "reason": "'a red cat' has words that are not understood",
        "prompt": "a red cat",
    }
    template = expansion.expanded("a ring", expander.template, seed=3, name="template")
    assert template.record("a ring") == {"expander": "template", "prompt": "a ring"}


def test_what_binds_the_template_binds_the_network(folder, caplog):
    words = ("a", "small", "red", "ring", "moves", "up", "on", "tan", "background")
    expander = writing(folder, BLUE, RED, words=words)
    assert expander("ring") == RED and not caplog.records
    assert expander("a blue ring") == "a small blue ring moves up on a tan background"
    allowed = expander._allowed("a blue ring")
    for word, is_allowed in (("red", 1), ("blue", 1), ("green", 0), ("star", 0)):
        assert allowed[VOCABULARY.encode(word)[0]] == is_allowed
    image = writing(folder, RED, moving=False)
    assert image("a ring") == "a small red ring on a tan background"
    assert image("a ring moves up") == RED
    clip = writing(folder, RED, fresh=False)
    assert clip("a ring", seed=1).startswith("a ring ")


def test_the_network_draws_alike_for_one_seed(folder):
    expander = soraflax.PromptExpander.load(folder)
    drawn = expander.candidates("red", seed=1)
    assert len(drawn) == prompt_expander.CANDIDATES
    assert drawn == expander.candidates("RED", seed=1)
    assert drawn != expander.candidates("red", seed=2)
    long, reason = expander.propose(", ".join(["a red ring"] * 9), seed=0)
    assert long is None and "at most 16 fit" in reason


def test_expanders_on_disk(folder, tmp_path):
    model = expanders.load_expander(folder)
    assert model.config == CONFIG and model.tokenizer == VOCABULARY
    loaded = expansion.load(str(folder), expansion.Template(moving=False))
    assert isinstance(loaded, prompt_expander.PromptExpander)
    assert loaded.model.digest == model.digest and not loaded.template.moving
    with pytest.raises(model_io.ModelError, match="'expander', not 'captioner'"):
        captioners.load_captioner(folder)
    small = dataclasses.replace(SIZES, vocabulary=1000)
    with pytest.raises(model_io.ModelError, match=r"1024 pieces, but .* writes 1000"):
        expanders.save_expander(
            tmp_path / "small",
            model.params,
            config=dataclasses.replace(CONFIG, network=small),
            vocabulary=VOCABULARY,
        )
    with pytest.raises(ValueError, match=r"network\.reads 'latents': use 'text'"):
        expanders.ExpanderModelConfig(captioner.VARIANTS["tiny"])
    with pytest.raises(FileNotFoundError, match="no such directory"):
        soraflax.PromptExpander.load(tmp_path / "gone")
