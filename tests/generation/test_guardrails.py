"""Filters refuse in one line, before and after; broken ones let nothing pass."""

import logging

import numpy as np
import pytest

from soraflax import extensions, media
from soraflax.generation import guardrails

VIDEO = media.Video(np.zeros((2, 8, 8, 3), np.uint8), 8.0)


def guard(*filters) -> guardrails.Guardrails:
    return guardrails.Guardrails(filters)


def test_no_filters_let_everything_pass():
    guard().check("anything")
    guard().check("anything", VIDEO)


@pytest.mark.parametrize(
    "text", ["a NUDE circle", "a nu\u0301de circle", "self-harm", "Self  harm, now"]
)
def test_words_are_found_whole_in_any_case(text, caplog):
    words = guardrails.word_list(["nude", "self harm"])
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(guardrails.RefusedError, match=r"^prompt refused: ") as refused,
    ):
        guard(words).check(text)
    assert caplog.messages == [str(refused.value)]
    assert refused.value.exit_status == 3


@pytest.mark.parametrize("text", ["", "a denuded hill", "selfharm", "himself harmed"])
def test_other_words_pass(text):
    guard(guardrails.word_list(["nude", "self harm"])).check(text)


def test_what_the_captioner_sees_is_filtered_after():
    seen = guard(guardrails.CaptionWords(lambda video: "a red circle", ("red",)))
    seen.check("a red circle")
    with pytest.raises(guardrails.RefusedError, match=r"result refused: .*'red'"):
        seen.check("", VIDEO)


def test_a_broken_filter_lets_nothing_pass():
    def broken(text, video):
        raise RuntimeError("no model")

    with pytest.raises(ValueError, match="filter broken failed: RuntimeError: no"):
        guard(broken).check("a circle")


def test_filters_by_name(tmp_path, monkeypatch):
    (tmp_path / "own_filters.py").write_text(
        "def short(text, video):\n    return 'too long' if len(text) > 9 else None\n"
    )
    (tmp_path / "own.txt").write_text("# words\nblue  # a colour\n\n")
    (tmp_path / "none.txt").write_text("# nothing\n")
    monkeypatch.chdir(tmp_path)

    def load(*names):
        return guardrails.load(names, caption=lambda video: "a naked circle")

    load("own_filters:short", "own.txt", "words", "captions").check("red")
    for name, text in (
        ("own_filters:short", "a large red circle"),
        ("own.txt", "Blue"),
        ("words", "naked"),
    ):
        with pytest.raises(guardrails.RefusedError):
            load(name).check(text)
    with pytest.raises(guardrails.RefusedError, match="sees 'naked'"):
        load("captions").check("", VIDEO)
    with pytest.raises(ValueError, match=r"none\.txt: no words in it"):
        load("none.txt")
    with pytest.raises(extensions.ExtensionError, match="did you mean 'words'"):
        load("word")
