"""The report counts what longer prompts keep, by the world's own grammar."""

import json

import pytest

from data_pipelines import prompt_pairs
from experiments.reports import expansions
from soraflax.generation import grounding

ASKED = grounding.read("two red rings and something that moves up on a tan background")
KEPT = "two small red rings and a large pink star moves up on a tan background"


@pytest.mark.parametrize(
    ("longer", "kept", "contradicted"),
    [
        (KEPT, 7, 0),
        (KEPT.replace("red", "blue"), 5, 2),
        (KEPT.replace(" moves up", ""), 6, 0),
        (KEPT.replace("tan", "navy"), 6, 1),
        ("two red rings and something that moves up on a tan background", 7, 0),
        ("two red rings on a tan background", 5, 1),
        ("a dog", 0, 1),
    ],
)
def test_kept_and_contradicted_attributes(longer, kept, contradicted):
    found = expansions.compare(ASKED, longer)
    assert (found["asked"], found["kept"], found["contradicted"]) == (
        7,
        kept,
        contradicted,
    )


def test_the_template_keeps_everything(capsys):
    assert expansions.main(["--count", "200"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["attributes_kept"] == found["all_kept"] == 1.0
    assert found["contradicting_prompts"] == 0 and found["prompts"] == 200


def test_an_expander_that_forgets_is_found_out():
    world = prompt_pairs.PairDataConfig().world(holdout="only")
    pairs = [prompt_pairs.pair(0, n, config=world) for n in range(50)]
    always = expansions.measure(lambda prompt, *, seed: KEPT, pairs)
    assert always["attributes_kept"] < 0.5 and always["contradicting_prompts"] > 25
    same = expansions.measure(lambda prompt, *, seed: prompt, pairs)
    assert same["all_kept"] == 1.0 and same["complete"] < 0.2
    whole = {pair.short: pair.long for pair in pairs}
    truth = expansions.measure(lambda prompt, *, seed: whole[prompt], pairs)
    assert truth["all_kept"] == truth["complete"] == 1.0


def test_an_unknown_expander_is_one_line(capsys):
    assert expansions.main(["--expander", "templat"]) == 2
    assert "did you mean 'template'" in capsys.readouterr().err
