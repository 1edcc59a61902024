"""Text features at rest: every caption once, unpadded, and never another encoder's."""

import dataclasses
import json
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from data_pipelines import pipeline, records, text_features, transforms
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


def test_rows_hold_features_padded_with_zeros(features, clips):
    """Clips are those of the store, as latents in memory."""

    class Latents(clip_data.Latents):
        def __getitem__(self, index):
            captions = {"short": f"clip {index % 15}"}
            return dataclasses.replace(super().__getitem__(index), captions=captions)

    config = pipeline.PackedDataConfig(
        features=str(features),
        rows=2,
        row=packing.RowShape(tokens=256, text=48, segments=4),
        captions=transforms.CaptionConfig(max_length=12, dropout=0.3),
    )
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
