"""The caption gap: how much a model's error depends on each word of the prompt.

A loss hardly shows whether a prompt is obeyed, and samples show it late. Held-out
clips, with fixed noise at a level t, are denoised twice: with their captions, and with
one word replaced by another of its kind (left by right, circle by square). With e the
squared error of x0, summed over the clips whose caption has such a word,

    gap(kind, t) = e(one word replaced) / e(the right caption) - 1.               (1)

It is 0 for a model that does not read the word, and grows as the word decides more of
what the noise at that level has hidden. The errors are of the same tokens under the
same noise, so that gaps far below the spread of the error between clips are measured.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from soraflax.ops import packing

LEVELS = (0.4, 0.6, 0.8)

Denoise = Callable[[Any, packing.Packed, jax.Array, jax.Array], jax.Array]


class CaptionGap:
    """Equation (1) as a function of parameters, on fixed rows with fixed noise.

    Args:
      denoise: `(params, packed, levels [B, S + 1], noise [B, N, P]) -> [B, N, P]`, the
        x0 that is predicted of the tokens with that noise; pure.
      rows: clean packed rows with their own captions.
      replaced: for each kind of word, the same rows with one such word replaced; text
        differs, nothing else. A segment without one has the text of `rows`.
      levels: noise levels t.
      seed: PRNG seed of the noise.
      part: rows of every batch that this process feeds to a mesh; all by default.
      put: copies what it feeds to the devices, once for all levels; None leaves it to
        JAX.

    Raises:
      ValueError: no rows, a level outside (0, 1], or rows of another number.
    """

    def __init__(
        self,
        denoise: Denoise,
        *,
        rows: Sequence[packing.Packed],
        replaced: Mapping[str, Sequence[packing.Packed]],
        levels: Sequence[float] = LEVELS,
        seed: int = 0,
        part: slice = slice(None),
        put: Callable[[Any], Any] | None = None,
    ) -> None:
        if not rows:
            raise ValueError("no rows to measure the caption gap on")
        for level in levels:
            if not 0 < level <= 1:
                raise ValueError(f"level {level} of the caption gap: use one in (0, 1]")
        for kind, others in replaced.items():
            if len(others) != len(rows):
                raise ValueError(f"{len(others)} rows of {kind!r}: use {len(rows)}")
        changed = {
            kind: [
                text_differs(a, b).astype(np.float32)
                for a, b in zip(rows, others, strict=True)
            ]
            for kind, others in replaced.items()
        }
        # The same in all processes, whichever rows they feed.
        self._kinds = [k for k, masks in changed.items() if np.any(masks)]

        def own(tree: Any) -> Any:
            return jax.tree.map(lambda x: np.asarray(x[part]), tree)

        self._rows = own(list(rows))
        self._replaced = {kind: own(list(replaced[kind])) for kind in self._kinds}
        self._changed = {kind: own(changed[kind]) for kind in self._kinds}
        self._levels = tuple(levels)
        self._seed = seed
        self._put = put or jax.device_put

        # One number for each mask: on a mesh of several processes, which every one of
        # them can read.
        def errors(params: Any, packed: Any, masks: Any, level: Any, key: Any) -> Any:
            shape = (packed.segments.shape[0], packed.max_segments + 1)
            noise = jax.random.normal(key, packed.tokens.shape, jnp.float32)
            x0 = denoise(params, packed, jnp.full(shape, level), noise)
            return jnp.einsum("bs,bks->k", _segment_errors(x0, packed), masks)

        self._errors = jax.jit(errors)

    def __call__(
        self, params: Any, *, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """`validation/gap_KIND_tLEVEL` of each kind that a caption has, and level.

        Args:
          params: parameters, as `denoise` takes them.
          check: called between measurements; may raise to stop.
        """
        if not self._kinds:
            return {}
        right = self._measure(params, self._rows, kinds=self._kinds, check=check)
        result: dict[str, float] = {}
        wrong = {
            kind: self._measure(params, rows, kinds=[kind], check=check)
            for kind, rows in self._replaced.items()
        }
        for number, level in enumerate(self._levels):
            for kind, expected in zip(self._kinds, right[number], strict=True):
                gap = float(wrong[kind][number, 0]) / max(float(expected), 1e-12) - 1.0
                result[f"validation/gap_{kind}_t{level:g}"] = gap
        return result

    def _measure(
        self,
        params: Any,
        rows: Sequence[packing.Packed],
        *,
        kinds: Sequence[str],
        check: Callable[[], None],
    ) -> Float[np.ndarray, "L K"]:
        """e at each level, of the segments whose caption has a word of each kind."""
        key, batches = jax.random.key(self._seed), []
        for index, batch in enumerate(rows):
            check()
            masks = np.stack([self._changed[kind][index] for kind in kinds], axis=1)
            packed, masks = self._put((batch, masks))
            batches.append(
                [
                    self._errors(
                        params,
                        packed,
                        masks,
                        jnp.float32(level),
                        jax.random.fold_in(key, index),
                    )
                    for level in self._levels
                ]
            )
        return np.sum(jax.device_get(batches), axis=0)


def _segment_errors(
    x0: Float[Array, "B N P"], packed: packing.Packed
) -> Float[Array, "B S1"]:
    """The squared error of x0, summed over each segment's unknown tokens."""
    squares = jnp.sum(jnp.square(x0 - packed.tokens.astype(jnp.float32)), axis=-1)
    counted = (packed.segments > 0) & ~packed.cond_mask
    return packing.segment_sum(
        jnp.where(counted, squares, 0.0),
        packed.segments,
        max_segments=packed.max_segments,
    )


def text_differs(first: packing.Packed, second: packing.Packed) -> np.ndarray:
    """Whether two rows differ in the text of a segment, `[B, S + 1]` bool."""
    rows, segments = first.segments.shape[0], first.max_segments + 1
    differs = np.zeros((rows, segments), bool)
    for row in range(rows):
        for segment in range(1, segments):
            before, after = (_text(p, row, segment=segment) for p in (first, second))
            differs[row, segment] = not np.array_equal(before, after)
    return differs


def _text(packed: packing.Packed, row: int, *, segment: int) -> np.ndarray:
    """The text tokens of one segment."""
    own = np.asarray(packed.text_segments[row]) == segment
    return np.asarray(packed.text[row])[own]
