"""Clips that show the same: perceptual hashes of frames, and the search for near ones.

A hash holds 64 signs: the low frequencies of a 32 x 32 luma (discrete cosine transform)
against their median. Resizing, encoding and gain leave it nearly as it is. Two hashes
within 2 m - 1 bits of each other have, among m equal parts, one in which they differ in
at most one bit (there would be 2 m otherwise). So with m = 4 parts of 16 bits, looking
at equal parts and at those one bit apart finds every pair within 7 bits: none is
missed. What a hash thinks equal is then compared cell by cell.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8, UInt64
from scipy import fft

from data_pipelines.curate import settings as settings_lib

_PARTS, _PART_BITS = 4, 16
_AT_ONCE = 2**22  # pairs compared at a time
_FLAT = 3.0  # standard deviation of luma under which a frame shows nothing to hash
_CELLS = 8
_SIDE = 32
_WEIGHTS = (0.299, 0.587, 0.114)


def hashes(samples: UInt8[np.ndarray, "K 32 32 3"]) -> UInt64[np.ndarray, "K"]:
    """Perceptual hashes of samples."""
    luma = samples.astype(np.float64) @ np.array(_WEIGHTS)
    low = np.asarray(fft.dctn(luma, axes=(1, 2)))[:, :8, :8].reshape(len(samples), 64)
    rest = low[:, 1:]
    signs = np.zeros((len(samples), 64), np.uint64)
    signs[:, 1:] = rest > np.median(rest, axis=1, keepdims=True)
    places = np.uint64(1) << np.arange(64, dtype=np.uint64)
    return (signs * places).sum(axis=1, dtype=np.uint64)


def worth_hashing(samples: UInt8[np.ndarray, "K 32 32 3"]) -> Bool[np.ndarray, "K"]:
    """Whether a frame shows anything: a black one is like every other."""
    luma = samples.astype(np.float64) @ np.array(_WEIGHTS)
    return luma.std(axis=(1, 2)) >= _FLAT


def near_pairs(
    values: UInt64[np.ndarray, "n"], bits: int = 7
) -> Int64[np.ndarray, "pairs 2"]:
    """Every pair of hashes that differ in at most `bits` bits, once, in order.

    Args:
      values: hashes; equal ones are pairs too.
      bits: at most 7.

    Raises:
      ValueError: more bits than the search finds all of.
    """
    if not 0 <= bits < 2 * _PARTS:
        raise ValueError(f"{bits} bits: use 0 to {2 * _PARTS - 1}")
    found = [np.zeros((0, 2), np.int64)]
    for part in range(_PARTS):
        shift = np.uint64(part * _PART_BITS)
        own = (values >> shift & np.uint64(2**_PART_BITS - 1)).astype(np.int64)
        order = np.argsort(own, kind="stable")
        sorted_values = values[order]
        counts = np.bincount(own, minlength=2**_PART_BITS)
        for left, right in _joined(counts):
            apart = np.bitwise_count(sorted_values[left] ^ sorted_values[right])
            close = apart <= bits
            pairs = np.stack([order[left[close]], order[right[close]]], axis=1)
            found.append(np.sort(pairs, axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _joined(
    counts: Int64[np.ndarray, "groups"],
) -> Iterator[tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]]:
    """Positions of pairs whose parts are equal or one bit apart, in pieces."""
    starts = np.cumsum(counts) - counts
    used = np.flatnonzero(counts)
    masks = [0, *(1 << bit for bit in range(_PART_BITS))]
    for mask in masks:
        other = used ^ mask
        once = used <= other if mask == 0 else used < other
        a, b = used[once], other[once]
        both = counts[b] > 0
        a, b = a[both], b[both]
        sizes = counts[a] * counts[b]
        for piece in _pieces(sizes):
            first, second = a[piece], b[piece]
            pairs = counts[first] * counts[second]
            group = np.repeat(np.arange(len(first)), pairs)
            within = np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs)
            width = counts[second][group]
            left = starts[first][group] + within // width
            right = starts[second][group] + within % width
            if mask == 0:
                once = left < right
                left, right = left[once], right[once]
            yield left, right


def _pieces(sizes: Int64[np.ndarray, "groups"]) -> Iterator[slice]:
    """Runs of groups with about `_AT_ONCE` pairs in all."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + _AT_ONCE, side="right"))
        stop = max(stop, start + 1)
        yield slice(start, stop)
        start = stop


def same_picture(
    a: UInt8[np.ndarray, "32 32 3"], b: UInt8[np.ndarray, "32 32 3"]
) -> float:
    """Greatest difference of a cell, in levels, after gain and offset are matched."""
    x, y = _cells(a), _cells(b)
    mean_x, mean_y = x.mean(), y.mean()
    deviation = (x - mean_x).std()
    gain = (y - mean_y).std() / deviation if deviation else 1.0
    gain = min(max(gain, 0.6), 1.6)
    return float(np.abs((x - mean_x) * gain - (y - mean_y)).max())


def _cells(sample: UInt8[np.ndarray, "32 32 3"]) -> Float64[np.ndarray, "8 8 3"]:
    side = _SIDE // _CELLS
    blocks = sample.reshape(_CELLS, side, _CELLS, side, 3).astype(np.float64)
    return blocks.mean(axis=(1, 3))


@dataclasses.dataclass(frozen=True)
class ClipHashes:
    """Hashes of many clips, end to end.

    Attributes:
      values: hash of every frame that is worth one.
      clip: number of the clip that it is of.
      sample: number of the sample in its file.
      rank: of each clip, by which of two duplicates is kept: the lesser.
    """

    values: UInt64[np.ndarray, "n"]
    clip: Int64[np.ndarray, "n"]
    sample: Int64[np.ndarray, "n"]
    rank: Sequence[tuple]


def near_duplicates(
    hashed: ClipHashes,
    settings: settings_lib.DuplicateSettings,
    *,
    picture: Callable[[int, int], UInt8[np.ndarray, "32 32 3"]],
) -> dict[int, tuple[int, float]]:
    """Which clips repeat another: clip to the one that is kept, and the part it shares.

    Clips are taken by their rank; one is kept unless enough of its frames, or of the
    kept one's where those are fewer, are among those of a clip that was kept before.

    Args:
      hashed: hashes of all clips.
      settings: what counts as the same.
      picture: sample of a clip, by both numbers.
    """
    pairs = near_pairs(hashed.values, settings.bits)
    pairs = pairs[hashed.clip[pairs[:, 0]] != hashed.clip[pairs[:, 1]]]
    shared: dict[tuple[int, int], tuple[set[int], set[int]]] = {}
    for left, right in pairs.tolist():
        ends = [(int(hashed.clip[i]), i) for i in (left, right)]
        (a, i), (b, j) = sorted(ends)
        known = shared.setdefault((a, b), (set(), set()))
        if i in known[0] and j in known[1]:
            continue
        one = picture(a, int(hashed.sample[i]))
        other = picture(b, int(hashed.sample[j]))
        if same_picture(one, other) <= settings.difference:
            known[0].add(i)
            known[1].add(j)
    frames = np.bincount(hashed.clip, minlength=len(hashed.rank))
    same: dict[int, list[tuple[int, float]]] = {}
    for (a, b), found in shared.items():
        parts = [len(f) / frames[c] for f, c in zip(found, (a, b), strict=True)]
        shorter = parts[0] if frames[a] <= frames[b] else parts[1]
        if shorter >= settings.share:
            same.setdefault(a, []).append((b, float(shorter)))
            same.setdefault(b, []).append((a, float(shorter)))
    rejected: dict[int, tuple[int, float]] = {}
    for clip in sorted(same, key=lambda c: hashed.rank[c]):
        kept = [
            (hashed.rank[other], other, share)
            for other, share in same[clip]
            if other not in rejected and hashed.rank[other] < hashed.rank[clip]
        ]
        if kept:
            _, other, share = min(kept)
            rejected[clip] = (other, share)
    return rejected
