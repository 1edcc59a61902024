"""Text features at rest: every caption once, unpadded, and never another encoder's."""

import dataclasses
import json
import pathlib
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from data_pipelines import (
    added_captions,
    caption_notes,
    pipeline,
    records,
    storage,
    text_features,
    transforms,
    word_swaps,
)
from soraflax import tokenizer
from soraflax.ops import packing
from tests.data_pipelines import clip_data

WORDS = tokenizer.Tokenizer.embedded()


@dataclasses.dataclass
class Encoder:
    """Features of a token are its id and its place."""

    width: int = 3
    digest: str = "e" * 64
    dtype: str = "float32"
    tokenizer: Any = WORDS

    def encode(self, texts, *, max_length, cut):
        assert cut
        found = []
        for text in texts:
            ids = WORDS.encode_prefix(text, max_length=max_length).ids
            place = np.arange(len(ids))
            rows = np.stack([ids, place, 0.1 * place], axis=1)
            found.append(rows.astype(np.float32))
        return found


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return clip_data.write_clips(tmp_path_factory.mktemp("clips") / "clips")


@pytest.fixture(scope="module")
def features(clips, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "features"
    info = text_features.embed([clips], path, encoder=Encoder(), max_length=12)
    assert info["splits"] == {"train": 2 * 15 + 1}
    return path


def origin(**changes):
    whose = text_features.FeatureOrigin(Encoder.digest, WORDS.digest)
    return dataclasses.replace(whose, **changes)


def test_every_caption_and_none_has_its_features(features):
    store = pickle.loads(pickle.dumps(text_features.open_features(features)))
    for text in ("", "clip 3", "this is clip 14", "clip 0"):
        expected = Encoder().encode([text], max_length=12, cut=True)[0]
        np.testing.assert_array_equal(store[text], expected)
    assert (store.origin, store.width, store.max_length) == (origin(), 3, 12)
    with pytest.raises(records.DatasetError, match="no features of the caption 'cli"):
        store["clip 15"]


def test_features_are_stored_in_their_dtype_and_cut_ones_reported(clips, tmp_path):
    encoder = Encoder(dtype="bfloat16")
    info = text_features.embed([clips], tmp_path / "f", encoder=encoder, max_length=3)
    assert info["cut"] == len(records.read_report(tmp_path / "f")) > 0
    found = text_features.open_features(tmp_path / "f")["this is clip 1"]
    expected = encoder.encode(["this is clip 1"], max_length=3, cut=True)[0]
    np.testing.assert_array_equal(found, expected.astype(ml_dtypes.bfloat16))
    assert found.dtype == np.float32 and len(found) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "f" * 64}, "features of encoder eeeeeeeeeeee, but ffffffffffff"),
        ({"vocabulary": "0" * 64}, "features of vocabulary .* but 000000000000 is in"),
    ],
)
def test_features_of_another_encoder_are_refused(changes, message, features):
    text_features.open_features(features, origin=origin())
    with pytest.raises(records.DatasetError, match=message):
        text_features.open_features(features, origin=origin(**changes))


def test_what_is_no_store_or_damaged_is_refused(features, clips, tmp_path):
    with pytest.raises(records.DatasetError, match=r"gone: no such features; .*embed"):
        text_features.open_features(tmp_path / "gone")
    with pytest.raises(records.DatasetError, match="holds clips, not text features"):
        text_features.open_features(clips)
    with pytest.raises(records.DatasetError, match="captions are in clips or latents"):
        text_features.embed([features], tmp_path / "f", encoder=Encoder())
    assert not (tmp_path / "f").exists()
    keys = features / text_features.KEYS
    whole = keys.read_bytes()
    keys.write_bytes(whole[:-1])
    try:
        with pytest.raises(records.DatasetError, match=r"keys\.bin: damaged"):
            text_features.open_features(features)
    finally:
        keys.write_bytes(whole)


def test_broken_parameters_leave_nothing(clips, tmp_path):
    class Broken(Encoder):
        def encode(self, texts, *, max_length, cut):
            return [np.full((1, 3), np.nan, np.float32) for _ in texts]

    with pytest.raises(ValueError, match="are not finite"):
        text_features.embed([clips], tmp_path / "f", encoder=Broken())
    assert list(tmp_path.iterdir()) == []


def test_embedding_that_is_stopped_leaves_nothing_and_is_done_again(
    features, clips, tmp_path, monkeypatch
):
    class Stopped(Encoder):
        def encode(self, texts, **settings):
            if self.calls == 2:
                raise KeyboardInterrupt
            self.calls += 1
            return super().encode(texts, **settings)

        calls = 0

    monkeypatch.setattr(text_features, "CHUNK", 8)
    with pytest.raises(KeyboardInterrupt):
        text_features.embed([clips], tmp_path / "f", encoder=Stopped(), max_length=12)
    assert list(tmp_path.iterdir()) == []
    info = text_features.embed(
        [clips], tmp_path / "f", encoder=Encoder(), max_length=12
    )
    expected = records.read_info(features)
    assert info["keys"] == expected["keys"]
    again, first = map(text_features.open_features, (tmp_path / "f", features))
    for text in ("", "clip 3", "this is clip 14"):
        np.testing.assert_array_equal(again[text], first[text])


class Latents(clip_data.Latents):
    """Clips are those of the store, as latents in memory."""

    def __getitem__(self, index):
        captions = {"short": f"clip {index % 15}"}
        return dataclasses.replace(super().__getitem__(index), captions=captions)


def packed_config(**changes):
    config = pipeline.PackedDataConfig(
        rows=2,
        row=packing.RowShape(tokens=256, text=48, segments=4),
        captions=transforms.CaptionConfig(max_length=12, dropout=0.3),
    )
    return dataclasses.replace(config, **changes)


def test_rows_hold_features_padded_with_zeros(features, clips):
    config = packed_config(features=str(features))
    packed = next(iter(pipeline.make_dataset(config, latents=[Latents()])))
    assert packed.text.shape == (2, 48, 3) and packed.text.dtype == np.float32
    texts = [f"clip {index}" for index in range(15)] + [""]
    known = {
        json.dumps(rows.tolist()): text
        for text, rows in zip(
            texts, Encoder().encode(texts, max_length=12, cut=True), strict=True
        )
    }
    seen = []
    for row in range(2):
        for number in range(1, packed.segments[row].max() + 1):
            own = packed.text[row][packed.text_segments[row] == number]
            assert len(own) == 12
            length = int(np.flatnonzero(own[:, 0]).max()) + 1
            assert not own[length:].any()
            seen.append(known[json.dumps(own[:length].tolist())])
    assert "" in seen and len(set(seen)) > 1
    short = dataclasses.replace(
        config, captions=transforms.CaptionConfig(max_length=2, dropout=0.0)
    )
    with pytest.raises(ValueError, match="of up to 12 tokens; captions of 2 would"):
        next(iter(pipeline.make_dataset(short, latents=[Latents()])))


def test_a_caption_without_features_is_found_before_training(features, clips):
    opened = [records.open_dataset(clips)]
    config = transforms.CaptionConfig()
    caption_notes.check_embedded(opened, config, features=str(features))
    added_captions.write(
        clips,
        "theirs",
        captions=[("clip-1", "it is new"), ("clip-2", "this is clip 2")],
        statistics={},
    )
    opened = [records.open_dataset(clips)]
    try:
        with pytest.raises(
            records.DatasetError,
            match=r"no features of 1 of \d+ captions, such as 'it is new'; [^\n]*$",
        ):
            caption_notes.check_embedded(opened, config, features=str(features))
        # Those that training does not draw may be missing.
        config = transforms.CaptionConfig(names=("short",))
        caption_notes.check_embedded(opened, config, features=str(features))
    finally:
        pathlib.Path(added_captions.path_of(clips, "theirs")).unlink()


@pytest.fixture
def reader(features, monkeypatch):
    """Makes a reader that never reads the features of some captions."""
    monkeypatch.setattr(storage, "RETRY_SECONDS", ())

    def make(*damaged):
        store = text_features.open_features(features)
        indices = set(map(store._index, damaged))

        class Faulty:
            def __init__(self, source):
                self.source, self.reads = source, 0

            def __len__(self):
                return len(self.source)

            def __getitem__(self, index):
                self.reads += index in indices
                if index in indices:
                    raise RuntimeError("DATA_LOSS")
                return self.source[index]

        store._records._source = Faulty(store._records._source)
        store._records._reopen = None
        return text_features.FeatureReader(store)

    return make


def drawn(config, encode, *, size=50):
    """Clip and features of every segment of one pass, in no order."""
    rounds = pipeline.make_rounds(
        dataclasses.replace(config, passes=1), encode=encode, latents=[Latents(size)]
    )
    segments = [segment for rows in rounds for row in rows for segment in row]
    return sorted((s.clip, s.text.tobytes()) for s in segments)


def test_damaged_features_cost_the_clips_that_draw_them(reader, capsys):
    config = packed_config()
    sound, faulty = reader(), reader("clip 3")
    lost = sound("clip 3", 12).tobytes()
    whole, found = drawn(config, sound), drawn(config, faulty)
    kept = [pair for pair in whole if pair[1] != lost]
    assert len(kept) < len(whole) == len(found)
    assert lost not in {text for _, text in found}
    # The others are what and where they were; those in between are of other clips.
    others = list(found)
    for pair in kept:
        others.remove(pair)
    assert len(others) == len(whole) - len(kept)
    assert drawn(config, reader("clip 3")) == found  # it is decided by the place
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].endswith(
        "is damaged; clips that draw it are passed over (1 of at most 1)"
    )
    assert faulty.store._records._source.reads == 1  # the waits are spent once


def test_rows_resume_over_damaged_features(reader):
    def batches():
        config = packed_config()
        encode = reader("clip 3")
        return iter(pipeline.make_dataset(config, encode=encode, latents=[Latents()]))

    whole = batches()
    for _ in range(4):
        next(whole)
    position = whole.get_state()
    expected = [next(whole) for _ in range(12)]
    resumed = batches()
    resumed.set_state(position)
    for batch in expected:
        again = next(resumed)
        np.testing.assert_array_equal(again.tokens, batch.tokens)
        np.testing.assert_array_equal(again.text, batch.text)


def test_too_many_damaged_features_or_those_of_no_caption_end_the_run(reader):
    with pytest.raises(records.DatasetError, match="more than 1 cannot be read"):
        drawn(packed_config(), reader("clip 3", "clip 4"))
    with pytest.raises(records.DatasetError, match="the features of the empty caption"):
        drawn(packed_config(), reader(""))
    undropped = transforms.CaptionConfig(max_length=12, dropout=0.0)
    with pytest.raises(records.DatasetError, match="16 clips in a row"):
        drawn(packed_config(captions=undropped), reader("clip 0"), size=1)


def test_damaged_features_are_left_out_of_the_caption_gap(reader):
    config = packed_config(features="FEATURES")
    words = {"number": ("3", "4")}
    batches = []
    for damaged in ((), ("clip 4",)):
        encode = reader(*damaged)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "_default_encode", lambda _, encode=encode: encode)
            swapped = word_swaps.make_swapped_rows(
                config, words, clips=6, latents=Latents()
            )
        segments = [batch.segments.max(axis=1).sum() for batch in swapped.rows]
        replaced = [
            batch.segments.max(axis=1).sum() for batch in swapped.replaced["number"]
        ]
        assert segments == replaced
        batches.append(sum(segments))
    assert batches == [6, 4]  # 3 becomes 4, and 4 is 4
