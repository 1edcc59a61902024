"""Text to ids and back."""

import io
import itertools
import pickle
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import sentencepiece
from hypothesis import strategies as st

from data_pipelines import vocabulary
from data_pipelines.worlds import palette
from soraflax import tokenizer

WORDS = tokenizer.Tokenizer.embedded()
# The one character that sentencepiece writes for a space.
TEXT = st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]))


@hypothesis.given(text=TEXT)
def test_any_text_decodes_to_itself(text: str) -> None:
    ids = WORDS.encode(text)
    assert WORDS.decode(ids) == text
    assert ids.dtype == np.int32 and ids[-1] == WORDS.eos_id
    assert ids.min() > WORDS.pad_id and ids.max() < WORDS.vocab_size
    assert list(ids).count(WORDS.eos_id) == 1


def test_the_empty_text_is_one_id() -> None:
    assert WORDS.encode("").tolist() == [WORDS.eos_id]
    assert WORDS.decode([]) == WORDS.decode([WORDS.eos_id]) == ""


def test_ids_are_those_of_the_t5_family() -> None:
    assert (WORDS.pad_id, WORDS.eos_id, WORDS.vocab_size) == (0, 1, 1024)


def test_padding_and_what_follows_the_end_are_no_text() -> None:
    ids = [*WORDS.encode("a red ring"), 0, 0]
    assert WORDS.decode(ids) == "a red ring"
    assert WORDS.decode([*ids, *WORDS.encode("more")]) == "a red ring"


@hypothesis.given(text=TEXT, room=st.integers(1, 8))
def test_nothing_is_cut_silently(text: str, room: int) -> None:
    whole = WORDS.encode(text)
    cut = WORDS.encode_prefix(text, max_length=room)
    assert len(cut.ids) == min(room, len(whole))
    assert cut.dropped == len(whole) - len(cut.ids)
    assert cut.ids[-1] == WORDS.eos_id
    np.testing.assert_array_equal(cut.ids[:-1], whole[: len(cut.ids) - 1])
    if cut.dropped:
        with pytest.raises(tokenizer.TokenizerError, match=f"at most {room} fit"):
            WORDS.encode(text, max_length=room)
    else:
        np.testing.assert_array_equal(WORDS.encode(text, max_length=room), whole)


def test_words_of_the_world_are_single_pieces() -> None:
    names = itertools.chain(
        palette.COLOURS, palette.SHAPES, palette.BACKGROUNDS, palette.RADII
    )
    for word in (*names, "moves", "left", "right", "up", "down", "background"):
        assert len(WORDS.encode(word)) == 2, word


def test_saved_loaded_and_pickled_are_equal(tmp_path: Path) -> None:
    WORDS.save(tmp_path / "v.model")
    loaded = tokenizer.Tokenizer.load(tmp_path / "v.model")
    assert loaded == WORDS == pickle.loads(pickle.dumps(WORDS))
    assert len({loaded, WORDS}) == 1
    np.testing.assert_array_equal(loaded.encode("a star"), WORDS.encode("a star"))


def _model(**ids: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["red circle, blue square", "green star"] * 4),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    return model.getvalue()


def test_models_of_the_t5_family_load() -> None:
    """UMT5 has a beginning-of-text id between the end and the unknown."""
    model = tokenizer.Tokenizer(_model(pad_id=0, eos_id=1, bos_id=2, unk_id=3))
    assert model.eos_id == 1
    assert model.decode(model.encode("red star")) == "red star"


def test_unfit_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(tokenizer.TokenizerError, match=r"gone\.model: no such file"):
        tokenizer.Tokenizer.load(tmp_path / "gone.model")
    (tmp_path / "bad.model").write_bytes(b"no model at all")
    for data in (b"no model at all", b""):
        (tmp_path / "bad.model").write_bytes(data)
        with pytest.raises(tokenizer.TokenizerError, match=r"bad\.model: not a"):
            tokenizer.Tokenizer.load(tmp_path / "bad.model")
    with pytest.raises(tokenizer.TokenizerError, match="padding id -1"):
        tokenizer.Tokenizer(_model())
    for bad in (-1, WORDS.vocab_size):
        with pytest.raises(tokenizer.TokenizerError, match=f"id {bad} "):
            WORDS.decode([bad])


def test_training_is_deterministic_and_makes_the_shipped_vocabulary() -> None:
    """After a change to the corpus: `python -m data_pipelines.vocabulary`."""
    made = tokenizer.Tokenizer(vocabulary.train())
    for text in ("a large red circle moves right", "A man rides a horse, 1960s film."):
        np.testing.assert_array_equal(made.encode(text), WORDS.encode(text))


def test_the_command_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "v.model"
    assert vocabulary.main(["--output", str(path)]) == 0
    assert tokenizer.Tokenizer.load(path).vocab_size == vocabulary.SIZE
    assert "1024 pieces" in capsys.readouterr().out
