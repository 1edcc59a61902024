"""Perceptual hashes, and that the search misses none."""

import numpy as np
import pytest

from data_pipelines.curate import duplicates, settings


def _flipped(values: np.ndarray, bits: int, *, rng: np.random.Generator) -> np.ndarray:
    """The hashes with so many of their bits turned."""
    out = values.copy()
    for index in range(len(out)):
        for bit in rng.choice(64, bits, replace=False):
            out[index] ^= np.uint64(1) << np.uint64(bit)
    return out


@pytest.mark.parametrize("bits", [0, 1, 4, 7])
def test_every_near_pair_is_found_and_no_other(bits: int) -> None:
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 2**63, 300, dtype=np.uint64)
    near = np.concatenate([_flipped(values[:40], d, rng=rng) for d in range(9)])
    values = np.concatenate([values, near])
    apart = np.bitwise_count(values[:, None] ^ values[None])
    wanted = np.argwhere(np.triu(apart <= bits, 1))
    assert len(wanted) >= 40
    np.testing.assert_array_equal(duplicates.near_pairs(values, bits), wanted)


def test_more_bits_than_are_searched_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bits: use 0 to 7"):
        duplicates.near_pairs(np.zeros(2, np.uint64), 8)
    with pytest.raises(ValueError, match="bits 8: use 0 to 7"):
        settings.DuplicateSettings(bits=8)


def _samples(seed: int, count: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def test_gain_and_noise_hardly_change_a_hash() -> None:
    samples = _samples(0)
    rng = np.random.default_rng(1)
    noisy = samples * 0.8 + 20 + rng.normal(0, 3, samples.shape)
    changed = duplicates.hashes(np.clip(noisy, 0, 255).astype(np.uint8))
    same, other = duplicates.hashes(samples), duplicates.hashes(_samples(2))
    assert np.bitwise_count(same ^ changed).max() <= 6
    assert np.bitwise_count(same ^ other).min() > 12


def test_what_shows_nothing_is_not_hashed() -> None:
    black = np.zeros((1, 32, 32, 3), np.uint8)
    assert not duplicates.worth_hashing(black)[0]
    assert duplicates.worth_hashing(_samples(0)).all()


def test_the_better_of_two_is_kept_whatever_their_order() -> None:
    pictures = [_samples(0), _samples(0), _samples(3), _samples(0)[:2]]
    hashed = duplicates.ClipHashes(
        np.concatenate([duplicates.hashes(p) for p in pictures]),
        np.repeat(np.arange(4), [len(p) for p in pictures]),
        np.concatenate([np.arange(len(p)) for p in pictures]),
        [(2, "a"), (1, "b"), (1, "c"), (3, "d")],
    )
    found = duplicates.near_duplicates(
        hashed, settings.DuplicateSettings(), picture=lambda c, s: pictures[c][s]
    )
    assert found == {0: (1, 1.0), 3: (1, 1.0)}


def test_a_hash_alone_does_not_condemn() -> None:
    picture = _samples(0)
    other = picture.copy()
    other[:, 4:12, 4:12] = 255 - other[:, 4:12, 4:12]
    assert duplicates.same_picture(picture[0], picture[0]) == 0
    assert duplicates.same_picture(picture[0], other[0]) > 24
