"""Captions of packed clips are those of each alone, with a cache and without one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.nn import caption_decoding, captioner, decoding
from soraflax.ops import packing
from soraflax.pretrained import captioners

CONFIG = captioner.CaptionerConfig(
    latent_channels=4,
    vocabulary=50,
    width=16,
    heads=2,
    mlp=32,
    encoder_depth=1,
    decoder_depth=2,
)
END = 1
LENGTH = 7
SIZES = ((1, 4, 4), (3, 4, 6), (2, 8, 4))


def segments() -> list[packing.Segment]:
    """Clips of three sizes, with captions of different lengths."""
    rng = np.random.default_rng(0)
    return [
        packing.Segment.from_latent(
            rng.normal(size=(*size, 4)).astype(np.float32),
            np.array([*rng.integers(2, 50, size=3 + number), END], np.int32),
            patch=CONFIG.patch,
        )
        for number, size in enumerate(SIZES)
    ]


def rows(*lists: list[packing.Segment]) -> packing.Packed:
    shape = packing.RowShape(tokens=48, text=16, segments=3, align=4)
    return packing.assemble(lists, shape)


@functools.cache
def params():
    """Random, and large enough for captions that differ and end."""
    rng = np.random.default_rng(0)
    shapes = captioners.shapes(CONFIG)
    with jax.ensure_compile_time_eval():  # also where a test is traced
        return jax.tree.map(
            lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32),
            shapes,
        )


@jax.jit
def logits(packed):
    return captioner.Captioner(CONFIG).apply({"params": params()}, packed)


@functools.partial(jax.jit, static_argnames=("config", "implementation"))
def decode(packed, config, implementation="cache"):
    return caption_decoding.decode(
        params(),
        packed,
        config=CONFIG,
        decoding_config=config,
        end=END,
        key=jax.random.key(3),
        implementation=implementation,
    )


def test_packed_logits_equal_those_of_each_clip_alone():
    clips = segments()
    together = np.asarray(logits(rows(clips, [])))[0]
    start = 0
    for clip in clips:
        alone = np.asarray(logits(rows([clip], [])))[0]
        size = len(clip.text)
        np.testing.assert_allclose(
            together[start : start + size], alone[:size], rtol=2e-4, atol=2e-5
        )
        start += size


def test_a_word_depends_on_those_before_it_and_on_its_own_clip():
    packed = rows(segments(), [])
    embedded = jax.nn.one_hot(packed.text, CONFIG.vocabulary)

    def word(text, tokens):
        """Logits of the third word of the second caption."""
        module = captioner.Captioner(CONFIG)
        table = params()["words"]["table"]
        inputs = jnp.pad(text, ((0, 0), (1, 0), (0, 0)))[:, :-1] @ table
        full = packed.replace(tokens=tokens)
        variables = {"params": params()}
        features = module.apply(variables, full, method="encode")
        bound = module.bind(variables)
        angles = captioner.text_angles(
            captioner.text_positions(packed.text_segments), CONFIG
        )
        plans = bound.plans(packed.text_segments, full)
        y, _ = bound.decoder(inputs, features, angles, plans)
        return jnp.sum(jnp.square(bound.head(y)[0, 4 + 2]))

    by_text, by_tokens = jax.jit(jax.grad(word, argnums=(0, 1)))(
        embedded, jnp.asarray(packed.tokens)
    )
    read = np.flatnonzero(np.abs(by_text[0]).sum(-1) > 0)
    # Of its own caption, which begins at 4, the words before it. The input at the
    # start of a caption is not masked here, and is the last word of the one before.
    assert read.tolist() == [3, 4, 5]
    seen = np.unique(packed.segments[0][np.abs(by_tokens[0]).sum(-1) > 0])
    assert seen.tolist() == [2]


@pytest.mark.parametrize(
    "config",
    [
        decoding.DecodingConfig(LENGTH),
        decoding.DecodingConfig(LENGTH, beams=3),
        decoding.DecodingConfig(LENGTH, top_p=0.9),
    ],
    ids=["greedy", "beams", "top-p"],
)
def test_decoding_with_a_cache_equals_decoding_without(config):
    clips = segments()
    packed = rows(clips[:2], clips[2:])
    found, expected = (
        decode(packed, config, implementation=name) for name in ("cache", "recompute")
    )
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-4)
    ids = np.asarray(found.ids)
    assert len(np.unique(np.asarray(found.score)[[0, 1, 3]])) == 3  # each its own
    assert not ids[[2, 4, 5]].any()  # no clips, no words
    for row in ids[[0, 1, 3]]:
        ends = np.flatnonzero(row == END)
        assert not row[ends[0] + 1 :].any() if len(ends) else row.all()


def test_greedy_words_are_the_most_probable_of_the_whole_pass():
    clips = segments()
    ids = np.asarray(
        decode(rows(clips[:2], clips[2:]), decoding.DecodingConfig(LENGTH)).ids
    )
    caption = ids[1][ids[1] > 0]
    alone = packing.Segment(
        clips[1].tokens, clips[1].positions, clips[1].cond_mask, caption
    )
    scores = np.asarray(logits(rows([alone], [])))[0, : len(caption)]
    np.testing.assert_array_equal(scores[:, 1:].argmax(-1) + 1, caption)


def test_a_model_that_counts():
    """Beams, draws and ends on a model whose probabilities are known."""
    # After 0: 2 with 0.6, 3 with 0.4; after 2: 4 or 5, 0.5 each; after 3: 4 with 1;
    # 4 and 5 end. Greedy begins with 2, whose captions have 0.3; the best has 0.4.
    table = np.full((6, 6), 1e-9)
    table[0, [2, 3]] = 0.6, 0.4
    table[2, [4, 5]] = 0.5
    table[3, 4] = 1.0
    table[[4, 5], 1] = 1.0
    log_p = jnp.log(jnp.asarray(table / table.sum(-1, keepdims=True), jnp.float32))

    def step(tokens, index, cache):
        del index
        return log_p[tokens], cache

    run = functools.partial(
        decoding.decode, step, (), active=jnp.array([True, False]), start=0, end=1
    )
    greedy = run(config=decoding.DecodingConfig(5))
    assert greedy.ids[0].tolist() == [2, 4, 1, 0, 0]
    assert not greedy.ids[1].any()
    np.testing.assert_allclose(np.exp(greedy.score), [0.3, 1.0], rtol=1e-5)
    beams = run(config=decoding.DecodingConfig(5, beams=2))
    assert beams.ids[0].tolist() == [3, 4, 1, 0, 0]
    np.testing.assert_allclose(np.exp(beams.score[0]), 0.4, rtol=1e-5)
    firsts = {
        int(run(config=decoding.DecodingConfig(5, top_p=p), key=key).ids[0, 0])
        for p in (0.5,)
        for key in jax.random.split(jax.random.key(0), 8)
    }
    assert firsts == {2}  # 3 is outside of the set of 0.5
    firsts = {
        int(run(config=decoding.DecodingConfig(5, top_p=1.0), key=key).ids[0, 0])
        for key in jax.random.split(jax.random.key(0), 12)
    }
    assert firsts == {2, 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "0 beams: use 1"),
        ({"beams": 100}, "100 beams: use 64"),
        ({"top_p": 0.0}, "top_p 0.0: use a number in"),
        ({"top_p": 0.5, "beams": 2}, "use one of the two"),
        ({"temperature": 0.0}, "temperature 0.0: use a number above 0"),
        ({"max_length": 0}, "max_length 0: use 1 or more"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        decoding.DecodingConfig(**settings)
    with pytest.raises(ValueError, match="nearest that does: 16"):
        captioner.CaptionerConfig(4, 50, width=18, heads=4)
    with pytest.raises(ValueError, match="a token of text is one id; use 1"):
        captioner.CaptionerConfig(4, 50, reads="text")


def test_text_is_read_as_latents_are_and_its_order_counts():
    config = dataclasses.replace(
        CONFIG, latent_channels=1, patch=(1, 1, 1), reads="text"
    )
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32),
        captioners.shapes(config),
    )
    assert "patches" not in params
    caption = np.array([7, 8, END], np.int32)
    short = [captioner.text_segment(np.array(ids), caption) for ids in ([5, 6], [6, 5])]

    def words(*segments):
        packed = packing.assemble([segments], packing.RowShape(6, 6, 2))
        return np.asarray(
            captioner.Captioner(config).apply({"params": params}, packed)
        )[0]

    first, second = (words(segment)[:3] for segment in short)
    np.testing.assert_allclose(words(*short), [*first, *second], rtol=2e-4, atol=2e-5)
    assert np.abs(first - second).max() > 1e-2


def test_words_that_are_not_allowed_are_not_written():
    packed = rows(segments(), [])
    free = np.asarray(decode(packed, decoding.DecodingConfig(LENGTH)).ids)
    allowed = np.ones(CONFIG.vocabulary, bool)
    allowed[free[:3, :2].ravel()] = False
    allowed[END] = True
    bound = caption_decoding.decode(
        params(),
        packed,
        config=CONFIG,
        decoding_config=decoding.DecodingConfig(LENGTH),
        end=END,
        allowed=jnp.asarray(allowed),
    )
    ids = np.asarray(bound.ids)[:3]
    assert allowed[ids[ids != 0]].all() and not np.array_equal(ids, free[:3])
