import collections
import dataclasses
import functools
import itertools
import json

import jax
import numpy as np
import pytest

from data_pipelines import cropping, elastic, pipeline, sources
from tests.data_pipelines import clip_data, test_pipeline

LANES, ROWS, CLIPS = 6, 12, 400
READ = pipeline.ReadConfig(threads=1, buffer=2, ahead=1)
SETTINGS = test_pipeline.config(rows=ROWS, lanes=LANES, open_rows=3, read=READ)


def make(index=0, count=1, **changes):
    config = dataclasses.replace(SETTINGS, rows=ROWS // count, **changes)
    host = pipeline.HostShard(index, count)

    def opened(make, lanes):
        return make(
            dataclasses.replace(config, lanes=lanes),
            encode=clip_data.encode_text,
            latents=[clip_data.Latents(CLIPS)],
            host=host,
        )

    return elastic.LaneBatches(
        functools.partial(opened, pipeline.make_dataset),
        rounds=functools.partial(opened, pipeline.make_rounds),
        host=host,
        lanes=config.lanes,
        rows=config.rows,
        shares=[sources.SourceShare("set", CLIPS, 1.0)],
    )


def unread(**changes):
    """Batches that are never read."""
    arguments = {"host": pipeline.HostShard(), "lanes": 1, "rows": ROWS}
    none = functools.partial(list, ())
    return elastic.LaneBatches(
        lambda _: none(), rounds=lambda _: none(), **arguments | changes
    )


def hosts(count, **changes):
    return [make(index, count, **changes) for index in range(count)]


def plain(states):
    return json.loads(json.dumps(states))


def states_of(iterators):
    return plain([iterator.get_state() for iterator in iterators])


def take(iterators, count):
    """Batches of all hosts, one after the other; fewer where the data ends."""
    empty = None
    for _ in range(count):
        parts = [next(iterator, None) for iterator in iterators]
        if all(part is None for part in parts):
            return
        empty = empty or jax.tree.map(
            np.zeros_like, next(part for part in parts if part is not None)
        )
        parts = [empty if part is None else part for part in parts]
        yield jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def close(iterators):
    for iterator in iterators:
        iterator.close()


@pytest.fixture(scope="module")
def straight():
    alone = hosts(1, passes=1)
    yield list(take(alone, 1000))
    close(alone)


@pytest.mark.parametrize("counts", [(3, 2, 6, 1), (1, 6, 3, 2)])
def test_an_epoch_with_three_kills_is_the_same_in_order(straight, counts):
    """Another number of hosts after each kill; every batch, bit for bit."""
    seen, states = [], None
    for life, count in enumerate(counts):
        running = hosts(count, passes=1)
        if states is not None:
            for iterator in running:
                iterator.set_states(states)
        seen += take(running, 2 if life < 3 else 1000)
        states = states_of(running)
        close(running)
    assert len(seen) == len(straight) > 6
    for ours, theirs in zip(seen, straight, strict=True):
        assert test_pipeline.equal(ours, theirs)
    clips = [clip for batch in seen for clip in test_pipeline.clips_of(batch)]
    assert sorted(clips) == list(range(CLIPS))


def test_clips_of_a_batch_are_known_by_its_place():
    (alone,) = hosts(1)
    take_one = functools.partial(next, alone)
    take_one()
    state = plain(alone.get_state())
    clips = test_pipeline.clips_of(take_one())
    assert alone.clips(state) == [f"clip-{clip}" for clip in clips]
    close([alone])


def test_a_new_run_has_a_lane_for_each_host_which_others_continue():
    running = hosts(4, lanes=0)
    first = list(take(running, 2))
    states = states_of(running)
    due = list(take(running, 2))
    close(running)
    assert {state["lanes"] for state in states} == {4}
    fewer = hosts(2, lanes=0)
    for iterator in fewer:
        iterator.set_states(states)
    continued = list(take(fewer, 2))
    close(fewer)
    assert all(map(test_pipeline.equal, continued, due))
    assert not test_pipeline.equal(first[0], due[0])


@pytest.mark.parametrize(
    ("count", "changes", "message"),
    [
        (4, {}, "6 lanes do not divide over 4 hosts, or groups of them: use 1 or 2 or"),
        (1, {"rows": 6}, "batches of 12 rows are continued with 6, .*; use 12"),
    ],
)
def test_what_cannot_be_continued_is_refused_by_name(count, changes, message):
    states = [
        {
            "rows": 12,
            "lanes": 6,
            "host": [0, 1],
            "states": {str(n): {} for n in range(6)},
        }
    ]
    host = pipeline.HostShard(0, count)
    rows = changes.get("rows", ROWS // count)
    other = unread(host=host, lanes=count, rows=rows)
    with pytest.raises(ValueError, match=message):
        other.set_states(states)


def test_processes_of_one_lane_at_different_places_are_refused():
    states = [
        {"rows": 12, "lanes": 1, "host": [0, 1], "states": {"0": {"next_place": place}}}
        for place in (3, 4)
    ]
    other = unread()
    with pytest.raises(ValueError, match="at different places in lane 0"):
        other.set_states(states)


def test_states_of_an_earlier_version_are_continued_by_as_many():
    running = hosts(2, lanes=0)
    list(take(running, 2))
    states = states_of(running)
    old = [state["states"][str(index)] for index, state in enumerate(states)]
    due = list(take(running, 1))
    for index, iterator in enumerate(running):
        iterator.set_states(old)
        assert states_of([iterator]) == [states[index]]
    assert test_pipeline.equal(next(take(running, 1)), due[0])
    close(running)


def test_crops_are_continued_by_any_number_of_hosts():
    shapes = cropping.CropConfig(shapes=((1, 32, 32), (5, 32, 48)))

    def crops(index, count):
        return pipeline.make_video_batches(
            pipeline.VideoDataConfig(crops=shapes, read=READ),
            batch=4 // count,
            clips=[[clip_data.clip(i) for i in range(6)]],
            host=pipeline.HostShard(index, count),
        )

    running = [crops(index, 2) for index in range(2)]
    list(take(running, 2))
    states = states_of(running)
    held = [clip for iterator in running for clip in iterator.clips(states[0])]
    due = next(take(running, 1))
    alone = crops(0, 1)
    alone.set_states(states)
    assert alone.clips(states[0]) == held
    assert test_pipeline.equal(next(alone), due)
    # A clip of the tests has one colour, which names it.
    clips = {f"clip-{i}": 10 * i for i in range(6)}
    shown = due["video"][:, 0, 0, 0, 0]
    assert np.abs(shown.astype(int) - [clips[c] for c in held]).max() <= 2
    assert running[0].epochs(states[0]) == {"0": 8 / 6}
    with pytest.raises(ValueError, match="at different places"):
        alone.set_states([states[0], {"next_index": -1}])
    close([*running, alone])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_epochs_are_those_of_the_clips_that_batches_held(count):
    running = hosts(count, lanes=6)
    held = collections.Counter()
    for _ in range(5):
        states = states_of(running)
        for iterator, state in zip(running, states, strict=True):
            shown = iterator.clips(state)
            assert shown == list(itertools.chain(*iterator.row_clips(state)))
            held.update(shown)
        list(take(running, 1))
    for iterator in running:
        (epochs,) = iterator.epochs(iterator.get_state()).values()
        assert epochs * CLIPS == pytest.approx(held.total(), rel=0.15)
    close(running)


def test_the_clips_of_a_later_batch_are_read_without_those_between():
    (running,) = hosts(1, lanes=3)
    start, seen = running.get_state(), []
    for _ in range(4):
        seen.append(running.row_clips(running.get_state()))
        list(take([running], 1))
    assert [running.row_clips(start, ahead=n) for n in range(4)] == seen
    close([running])


def test_epochs_of_a_mixture_are_counted_for_each_source():
    settings = pipeline.PackedDataConfig(
        path="a/set",
        also=("b/set", "b/other/"),
        weights=(2.0, 1.0, 1.0),
        rows=2,
        row=SETTINGS.row,
        read=READ,
    )
    latents = [clip_data.Latents(size) for size in (8, 8, 32)]
    running = pipeline.make_batches(
        settings,
        host=pipeline.HostShard(),
        encode=clip_data.encode_text,
        latents=latents,
    )
    assert set(running.epochs(running.get_state()).values()) == {0.0}
    drawn = 0
    for _ in range(20):
        drawn += len(running.clips(running.get_state()))
        next(running)
    epochs = running.epochs(running.get_state())
    assert epochs == pytest.approx(
        {"set": drawn / 16, "set-2": drawn / 32, "other": drawn / 128}
    )
    running.close()


def test_lanes_must_divide_a_batch():
    with pytest.raises(ValueError, match="lanes 5 do not divide the 12 rows"):
        hosts(1, lanes=5)
    with pytest.raises(ValueError, match="lanes -1: use 0 or more"):
        dataclasses.replace(SETTINGS, lanes=-1)


def test_after_the_end_there_are_no_clips():
    running = make(passes=1)
    seen = sum(len(test_pipeline.clips_of(packed)) for packed in running)
    assert seen == CLIPS
    assert running.clips(plain(running.get_state())) == []
    again = make(passes=1)
    again.set_states(states_of([running]))
    assert next(again, None) is None
    running.close()
    again.close()
