"""Pairs agree: what is left of a caption asks for nothing that the caption lacks."""

import dataclasses

import numpy as np
import pytest

from data_pipelines import elastic, prompt_pairs
from data_pipelines.worlds import bodies, captions
from soraflax import tokenizer
from soraflax.generation import grounding

CONFIG = prompt_pairs.PairDataConfig(rows=2)


def test_short_prompts_ask_for_what_their_captions_keep():
    world, kinds = CONFIG.world(holdout="exclude"), set()
    for index in range(300):
        made = prompt_pairs.pair(0, index, config=world)
        whole = grounding.read(made.long)
        assert grounding.read(made.short) == made.asked
        assert whole is not None and grounding.keeps(made.asked, whole)
        for subject in made.asked.subjects:
            named = dataclasses.asdict(subject)
            kinds.add(tuple(name for name in named if named[name] is not None))
    alone = {("colour",), ("motion",), ("size",), ("shape",), ("colour", "shape")}
    assert alone <= kinds and ("count", "size", "colour", "shape", "motion") in kinds


def test_training_never_shows_held_out_combinations():
    for holdout in ("exclude", "only"):
        for index in range(40):
            pair = prompt_pairs.pair(3, index, config=CONFIG.world(holdout=holdout))
            said = captions.parse(pair.long)
            held_out = any(
                bodies.is_held_out(
                    item["colour"],
                    item["shape"],
                    direction=item["direction"],
                    background=said["background"],
                )
                for item in said["objects"]
            )
            assert held_out == (holdout == "only")


def test_hosts_read_parts_of_one_stream_and_go_on_where_they_were():
    alone = prompt_pairs.PairBatches(dataclasses.replace(CONFIG, rows=4))[3]
    parts = [
        prompt_pairs.PairBatches(CONFIG, host=elastic.HostShard(n, 2))[3]
        for n in range(2)
    ]
    together = np.concatenate([part.text for part in parts])
    np.testing.assert_array_equal(alone.text, together)
    words = tokenizer.Tokenizer.embedded()
    first = alone.text[0][alone.text_segments[0] == 1]
    assert grounding.read(words.decode(first)) is not None
    batches = prompt_pairs.make_batches(CONFIG, host=elastic.HostShard())
    next(batches)
    state = batches.get_state()
    expected = next(batches)
    other = prompt_pairs.make_batches(CONFIG, host=elastic.HostShard())
    other.set_state(state)
    np.testing.assert_array_equal(next(other).tokens, expected.tokens)
    for opened in (batches, other):
        opened.close()


def test_sizes_that_hold_no_pair_are_refused():
    with pytest.raises(ValueError, match="variant 'bodis': known: "):
        prompt_pairs.PairDataConfig(variant="bodis")
    with pytest.raises(ValueError, match="rows 0: use 1 or more"):
        prompt_pairs.PairDataConfig(rows=0)
    with pytest.raises(ValueError, match="a row of 128"):
        prompt_pairs.PairDataConfig(prompt_length=200)
