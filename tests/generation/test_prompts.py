"""What becomes of the texts that people and scripts type."""

import io
import os
import time
import unicodedata

import hypothesis
import pytest
import sentencepiece
from hypothesis import strategies as st

from soraflax import tokenizer
from soraflax.generation import prompts

WORDS = tokenizer.Tokenizer.embedded()


def clean(text, *, text_length=64, vocabulary=WORDS, name="prompt"):
    return prompts.clean(
        text, vocabulary=vocabulary, text_length=text_length, name=name
    )


@pytest.mark.parametrize(
    "text",
    [
        "a large red circle moves right",
        "un café à Genève, 1960s film — “quoted”",
        "مربع أحمر كبير يتحرك يمينا",
        "ריבוע אדום",
        "一只猫在雪地里奔跑",
        "👩‍👩‍👧 🏳️‍🌈 dancing 🎉",
        "1/2 + x < y & z; $HOME `ls` %s {0} \\n",
    ],
)
def test_ordinary_texts_of_any_script_stay_as_they_are(text):
    cleaned = clean(text, text_length=128)
    assert cleaned.text == text
    assert (cleaned.notes, cleaned.dropped) == ((), 0)
    assert cleaned.tokens == len(WORDS.encode(text)) - 1


def test_the_empty_prompt_is_no_guidance_and_no_news():
    assert clean("") == prompts.Cleaned("", 0)


@pytest.mark.parametrize("text", [" ", "\n\t\n", "\u3000\u00a0", "\u2028"])
def test_a_prompt_of_white_space_is_empty_and_says_so(text):
    cleaned = clean(text)
    assert (cleaned.text, cleaned.tokens) == ("", 0)
    assert cleaned.notes == ("prompt: nothing to read in it, so it counts as empty",)


def test_white_space_becomes_single_spaces():
    cleaned = clean("  a red\tcircle\r\n\nmoves\u2003right \x85")
    assert cleaned == clean("a red circle moves right")


def test_control_characters_are_removed_and_named():
    cleaned = clean(
        "a \x1b[31mred\x1b[0m\x00 circle\x7f\x9b\x1c", name="negative prompt"
    )
    assert cleaned.text == "a [31mred[0m circle"
    (note,) = cleaned.notes
    assert note == (
        "negative prompt: control characters removed: U+001B, U+0000, U+007F, U+009B, "
        "... (6 in all)"
    )


@pytest.mark.parametrize("mark", "\u061c\u200e\u200f\u202a\u202e\u2066\u2069")
def test_direction_controls_are_removed_and_named(mark):
    cleaned = clean(f"a {mark}red{mark} circle")
    assert cleaned.text == "a red circle"
    named = f"U+{ord(mark):04X} (2 in all)"
    assert cleaned.notes == (f"prompt: direction control characters removed: {named}",)


def test_bytes_that_are_not_utf_8_are_replaced():
    cleaned = clean(os.fsdecode(b"caf\xe9 \xff"))
    assert cleaned.text == "caf\ufffd \ufffd"
    assert cleaned.notes == (
        "prompt: 2 bytes or surrogates that are no text became U+FFFD",
    )


@pytest.mark.parametrize(
    "text",
    [
        "a large red circle moves right. " * 3200,
        "x" * 100_000,
        "日本語" * 33_000,
        "👩‍👩‍👧" * 20_000,
        "a " + "é" * 100_000,
        "ab" * 200 + " \n" * 50_000,
    ],
)
@pytest.mark.parametrize("text_length", [1, 2, 3, 64, 128])
def test_long_prompts_are_cut_and_the_loss_is_told(text, text_length):
    start = time.perf_counter()
    cleaned = clean(text, text_length=text_length)
    assert time.perf_counter() - start < 5
    ids = WORDS.encode(cleaned.text, max_length=text_length)
    assert len(ids) - 1 == cleaned.tokens
    assert " ".join(text.split()).startswith(cleaned.text)
    total = len(WORDS.encode(" ".join(text.split()))) - 1
    assert cleaned.dropped == total - cleaned.tokens > 0
    assert cleaned.tokens >= text_length - 1 - 11  # of one emoji sequence's bytes
    assert cleaned.notes == (
        f"prompt of {total:,} tokens: the first {cleaned.tokens:,} are used",
    )


def test_what_is_kept_is_as_long_as_fits():
    words = "a large red circle moves right on a tan background " * 9
    for text_length in range(2, 40):
        cleaned = clean(words, text_length=text_length)
        assert cleaned.tokens == text_length - 1  # every word here is one piece
        assert words.startswith(cleaned.text + " ")
    for text_length in range(20, 40):
        assert clean("日本語" * 99, text_length=text_length).tokens > text_length - 5


@hypothesis.given(text=st.text(st.characters()), text_length=st.integers(1, 9))
def test_any_text_encodes_once_clean(text, text_length):
    cleaned = clean(text, text_length=text_length)
    assert len(WORDS.encode(cleaned.text, max_length=text_length)) == cleaned.tokens + 1
    assert not {unicodedata.category(c) for c in cleaned.text} & {"Cc", "Cs", "Zl"}
    assert all("\n" not in note and note.isprintable() for note in cleaned.notes)
    again = clean(cleaned.text, text_length=text_length)
    assert (again.text, again.dropped, again.notes) == (cleaned.text, 0, ())


@pytest.fixture(scope="module")
def latin():
    """A vocabulary of the T5 family: it normalises and has no byte fallback."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["red circle, blue square", "green star"] * 4),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        bos_id=-1,
        unk_id=2,
    )
    return tokenizer.Tokenizer(model.getvalue())


def test_what_the_vocabulary_does_not_have_is_counted(latin):
    cleaned = clean("red 猫 circle 狗", vocabulary=latin)
    assert cleaned.text == "red 猫 circle 狗"
    (note,) = cleaned.notes
    assert note == f"prompt: 2 of {cleaned.tokens} tokens are unknown to the model"
    assert clean("red circle", vocabulary=latin).notes == ()


def test_a_vocabulary_that_normalises_is_cut_to_fit_too(latin):
    """Its ids do not decode to the text that they came from."""
    for text in ("ｒｅｄ　ｃｉｒｃｌｅ" * 500, "猫 red ½ ﬁ " * 900):
        cleaned = clean(text, vocabulary=latin, text_length=32)
        assert len(latin.encode(cleaned.text, max_length=32)) == cleaned.tokens + 1
        assert cleaned.tokens > 25 and cleaned.dropped > 0
