"""Longer prompts keep what was asked for, contradict none of it, and fill the rest."""

import random

import pytest

from data_pipelines.worlds import bodies, captions, palette
from soraflax import extensions
from soraflax.generation import expansion

EXPAND = expansion.Template()


def test_the_words_are_the_worlds():
    assert tuple(palette.COLOURS) == expansion.COLOURS
    assert tuple(palette.SHAPES) == expansion.SHAPES
    assert tuple(palette.RADII) == expansion.SIZES
    assert tuple(palette.BACKGROUNDS) == expansion.BACKGROUNDS
    for motion in expansion.MOTIONS:
        (item,) = captions.parse(f"a small red circle {motion}")["objects"]
        assert item["direction"] in palette.DIRECTIONS
    world = {*palette.COLOURS, *palette.SHAPES, *palette.RADII, *palette.BACKGROUNDS}
    assert {*expansion.SYNONYMS.values()} <= world
    assert not {*expansion.SYNONYMS} & world


def shortened(text: str, rng: random.Random) -> str:
    """A prompt with some of its attributes left out."""
    if rng.random() < 0.7:
        text = text[: text.index(" on a ")]
    for word in (*expansion.SIZES, *expansion.COLOURS):
        if rng.random() < 0.5:
            text = text.replace(f" {word} ", " ", 1)
    for words in ("left", "right", "up", "down"):
        if rng.random() < 0.5:
            text = text.replace(f" moves {words}", "").replace(f" move {words}", "")
    if rng.random() < 0.5:
        text = text.replace(" stays still", "").replace(" stay still", "")
    return text


def test_a_thousand_prompts_keep_their_attributes_and_gain_the_others():
    rng = random.Random(0)
    full = bodies.VARIANTS["full"]
    kept = contradicted = complete = 0
    for prompt, _ in bodies.prompts(5, 1000, config=full):
        short = shortened(prompt, rng)
        asked = captions.parse(short)
        got = captions.parse(EXPAND(short, seed=rng.randrange(99)))
        pairs = list(zip(asked["objects"], got["objects"], strict=False))
        pairs.append(({"background": asked.get("background")}, got))
        pairs = [(given, found) for given, found in pairs]
        fields = [
            (value, found.get(name))
            for given, found in pairs
            for name, value in given.items()
            if value is not None
        ]
        kept += got["count"] == asked["count"] and all(a == b for a, b in fields)
        contradicted += any(b not in (a, None) for a, b in fields)
        complete += all(len(item) == 4 for item in got["objects"])
    assert (kept, contradicted) == (1000, 0)
    assert complete == 1000


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        ("my dog", "my dog"),
        ("no circle", "no circle"),
        ("a circle without colour", "a circle without colour"),
        ("", ""),
    ],
)
def test_what_is_not_understood_stays(prompt, kept):
    assert EXPAND(prompt) == kept


def test_nothing_is_added_beside_words_that_may_say_it():
    giant = captions.parse(EXPAND("a giant red circle").replace("giant ", ""))
    assert "size" not in giant["objects"][0]
    assert "moves" not in EXPAND("a large circle that spins")
    assert "moves" not in EXPAND("two circles dance")
    assert EXPAND("a ring over the sea").count("background") == 0
    assert "with sparkles" in EXPAND("a star with sparkles")


def test_words_in_common_use_become_the_worlds():
    got = captions.parse(EXPAND("two big violet balls"))
    assert got["count"] == 2
    for item in got["objects"]:
        assert (item["size"], item["colour"], item["shape"]) == (
            "large",
            "purple",
            "circle",
        )


def test_one_seed_gives_one_prompt_and_seeds_differ():
    made = [EXPAND("a circle", seed=seed) for seed in range(20)]
    assert made == [EXPAND("a circle", seed=seed) for seed in range(20)]
    assert len(set(made)) > 10


def test_only_known_words_no_motion_of_images_and_no_looks_of_clips():
    small = expansion.Template(words=("small", "red", "on", "a", "background", "white"))
    assert small("circle") == "a small red circle on a white background"
    still = expansion.Template(moving=False)("a red circle")
    assert "direction" not in captions.parse(still)["objects"][0]
    clip = expansion.Template(fresh=False)("the red circle", seed=3)
    assert clip.startswith("the red circle ") and "background" not in clip


def test_an_expander_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_words.py").write_text(
        "def longer(prompt, *, seed):\n    return f'{prompt} {seed}'\n"
        "def broken(prompt, *, seed):\n    return 1 / 0\n"
        "def silent(prompt, *, seed):\n    return ' '\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> str:
        expander = expansion.load(name, EXPAND)
        return expansion.expanded("a dog", expander, seed=7, name=name).text

    assert run("own_words:longer") == "a dog 7"
    named = {"seed": 7, "name": "template"}
    assert expansion.expanded("a\u202e dog\n", EXPAND, **named).text == "a dog"
    with pytest.raises(ValueError, match="the prompt is empty"):
        expansion.expanded(" \u202e", EXPAND, **named)
    assert run("template") == "a dog"
    with pytest.raises(ValueError, match="'own_words:broken' failed: ZeroDivision"):
        run("own_words:broken")
    with pytest.raises(ValueError, match="must give a text"):
        run("own_words:silent")
    with pytest.raises(extensions.ExtensionError, match="is a int, no function"):
        run("own_words:number")
    with pytest.raises(extensions.ExtensionError, match="no function 'shorter'"):
        run("own_words:shorter")
    with pytest.raises(extensions.ExtensionError, match="No module named 'nowhere'"):
        run("nowhere:longer")
    with pytest.raises(extensions.ExtensionError, match="did you mean 'template'"):
        run("templat")
