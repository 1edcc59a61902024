import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.evaluation import caption_gap
from soraflax.ops import packing, patch

SHAPE = packing.RowShape(tokens=24, text=8, segments=3)
WORDS = {"left": 5, "right": 6}


def rows(words):
    """One row with a segment per word, its tokens all equal to the word's id."""
    clips = [
        packing.Segment(
            tokens=np.full((6, 3), float(index), np.float32),
            positions=patch.positions((1, 2, 3)),
            cond_mask=np.zeros(6, bool),
            text=np.array([WORDS.get(word, 1)], np.int32),
        )
        for index, word in enumerate(words)
    ]
    return [packing.assemble([clips], SHAPE)]


def obeys(params, packed, levels, noise):
    """A model whose error grows by `params` where the text says 'right'."""
    says = jnp.zeros(packed.segments.shape)
    for segment in range(1, packed.max_segments + 1):
        inside = packed.text_segments == segment
        right = jnp.any(inside & (packed.text == WORDS["right"]), axis=1)
        says += jnp.where((packed.segments == segment) & right[:, None], 1.0, 0.0)
    return packed.tokens + (1.0 + params * says)[..., None]


def gap(words, others, **kwargs):
    return caption_gap.CaptionGap(
        obeys, rows=rows(words), replaced={"direction": rows(others)}, **kwargs
    )


def test_the_error_with_a_wrong_word_over_that_with_the_right_one():
    """Errors of (1 + 1)^2 and 1^2: a gap of 3 at every level."""
    measure = gap(["left", "left"], ["right", "right"], levels=(0.3, 0.8))
    assert measure(jnp.float32(1.0)) == {
        "validation/gap_direction_t0.3": 3.0,
        "validation/gap_direction_t0.8": 3.0,
    }


def test_a_model_that_does_not_read_the_word_has_no_gap():
    assert gap(["left"], ["right"], levels=(0.5,))(jnp.float32(0.0)) == {
        "validation/gap_direction_t0.5": 0.0
    }


def test_clips_without_such_a_word_do_not_count():
    measure = gap(["left", "none"], ["right", "none"], levels=(0.5,))
    assert measure(jnp.float32(1.0))["validation/gap_direction_t0.5"] == 3.0
    assert gap(["none"], ["none"])(jnp.float32(1.0)) == {}


def test_each_process_feeds_its_rows_and_all_have_the_same_kinds():
    """Put on the devices once for all levels; the first row has no such word."""

    def two(words, others):
        pairs = zip(rows(words), rows(others), strict=True)
        join = lambda *leaves: np.concatenate(leaves)  # noqa: E731
        return [jax.tree.map(join, *pair) for pair in pairs]

    right, wrong = two(["none"], ["left"]), two(["none"], ["right"])
    put = []

    def measured(part):
        def kept(tree):
            put.append(tree)
            return tree

        return caption_gap.CaptionGap(
            obeys, rows=right, replaced={"direction": wrong}, part=part, put=kept
        )(jnp.float32(1.0))

    whole = measured(slice(None))
    assert set(whole.values()) == {3.0} and len(put) == 2
    assert measured(slice(1, 2)) == whole
    assert put[-1][0].tokens.shape[0] == put[-1][1].shape[0] == 1
    assert measured(slice(0, 1)).keys() == whole.keys()


def test_the_noise_is_the_same_every_time():
    def noisy(params, packed, levels, noise):
        return packed.tokens + noise * levels[:, :1, None]

    def make(seed):
        return caption_gap.CaptionGap(
            noisy,
            rows=rows(["left"]),
            replaced={"direction": rows(["right"])},
            seed=seed,
        )

    assert set(make(0)(0.0).values()) == {0.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": []}, "no rows"),
        ({"levels": (0.0,)}, "level 0.0"),
        ({"replaced": {"direction": []}}, "0 rows of 'direction': use 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, message):
    arguments = {"rows": rows(["left"]), "replaced": {}} | change
    with pytest.raises(ValueError, match=message):
        caption_gap.CaptionGap(obeys, **arguments)
