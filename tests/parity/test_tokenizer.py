"""Published vocabularies: our ids beside those of transformers' tokenizer of T5."""

import io
import json
import random
import unicodedata
import warnings

import pytest
import sentencepiece
import transformers
from diffusers.pipelines.wan import pipeline_wan

from soraflax import tokenizer

COUNT = 1000
# Alphabets of many languages, spaces of many kinds, marks, and what looks like markup.
SENTENCES = (
    "a red ball rolls over the table, slowly; it's 3:15 — don't stop! "
    "ein roter Ball fällt über die Straße und zurück "
    "un éléphant naïf à l'ombre d'un chêne "
    "el niño corrió ¿dónde está la pelota? "
    "красный мяч катится по столу съёмка крупным планом "
    "赤いボールがテーブルの上を転がる 映画のような照明 "
    "一个红色的球在桌子上滚动 电影级光线 "
    "빨간 공이 테이블 위로 굴러간다 "
    "كرة حمراء تتدحرج على الطاولة "
    "כדור אדום מתגלגל על השולחן "
    "लाल गेंद मेज पर लुढ़कती है "
    "ลูกบอลสีแดงกลิ้งบนโต๊ะ "
    "ﬁne ½ ① ＡＢＣ １２３ ｶﾀｶﾅ e\u0301 ñ n\u0303 "
    "😀 🎬 👩‍👩‍👧 &amp; &lt;b&gt; <0x41> \u201cquoted\u201d \u2026"
)
WORDS = SENTENCES.split()
SPACES = (" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u200b", "\u2003", " \r\n ")


def strings():
    """Mixed strings; no word begins with a mark that belongs to the letter before it.

    After a space that is normalised, `tokenizers` loses such a mark; sentencepiece,
    and so ours, does not.
    """
    rng = random.Random(0)
    yield from ("", " ", "\n\t", " a", "a ", "  a   b  ", "\u00a0a\u00a0")
    for _ in range(COUNT):
        parts = []
        for _ in range(rng.randrange(1, 20)):
            word = rng.choice(WORDS)
            if rng.random() < 0.2 and not any(map(unicodedata.combining, word)):
                word = "".join(rng.sample(word, len(word)))
            if rng.random() < 0.1:
                word = chr(rng.choice([*range(33, 0x300), *range(0x4E00, 0x9FFF)]))
            if unicodedata.category(word[0])[0] != "M":
                parts += [word, rng.choice(SPACES)]
        yield "".join(parts[: rng.choice((-1, len(parts)))])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Ours and theirs of one `spiece.model`.

    It has no byte pieces: transformers' class takes none, and gives characters that the
    vocabulary does not have as unknown even where it has them, as UMT5's does.
    """
    model = io.BytesIO()
    lines = [" ".join(random.Random(seed).sample(WORDS, 40)) for seed in range(300)]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=420,
        hard_vocab_limit=False,
        character_coverage=0.98,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "spiece.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer.Tokenizer.load(folder / "spiece.model"), theirs


def test_ids_are_theirs(pair):
    ours, theirs = pair
    seen = set()
    for text in strings():
        found = ours.encode(text).tolist()
        assert found == theirs(text).input_ids, text
        seen |= set(found)
    assert ours.unknown_id in seen and len(seen) > 200


def test_long_captions_are_cut_as_theirs(pair):
    ours, theirs = pair
    for text in strings():
        cut = theirs(text, max_length=9, truncation=True).input_ids
        assert ours.encode_prefix(text, max_length=9).ids.tolist() == cut


def test_control_pieces_in_a_text_are_letters(pair):
    """Where transformers reads a command: the documented difference."""
    ours, theirs = pair
    assert theirs("a </s> b").input_ids.count(ours.eos_id) == 2
    assert ours.encode("a </s> b").tolist().count(ours.eos_id) == 1
    assert max(theirs("<extra_id_3>").input_ids) >= ours.vocab_size
    assert max(ours.encode("<extra_id_3>")) < ours.vocab_size


def test_captions_are_cleaned_as_by_diffusers():
    """Without ftfy here, which neither has."""
    assert not pipeline_wan.is_ftfy_available()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = [*strings(), "a &amp;amp;lt; b\x1c c\x85 d", "\x1f a &nbsp; b "]
        for text in texts:
            assert tokenizer.clean(text) == pipeline_wan.prompt_clean(text), text
