"""Times that repeat, run backwards or jump."""

import types

import numpy as np
import pytest

from soraflax.media import timeline


def scan(stamps, *, clock=None, codec="mjpeg", keys=None):
    clock = clock or timeline.Clock(24.0)
    context = types.SimpleNamespace(name=codec)
    stream = types.SimpleNamespace(time_base=1 / 24, codec_context=context)
    packets = [
        types.SimpleNamespace(
            pts=stamp,
            dts=index,
            duration=1,
            is_keyframe=keys is None or index in keys,
            is_discard=False,
        )
        for index, stamp in enumerate(stamps)
    ]
    return timeline.scan(packets, stream, clock=clock)


def test_frames_of_one_time_are_each_a_frame():
    found = scan([0, 1, 1, 2, 3, 4])
    assert len(found.times) == 6
    assert found.order is None or set(found.order) <= set(range(6))


def test_frames_that_all_have_one_time_are_shown_in_turn():
    found = scan([5, 5, 5, 5])
    assert (found.order, found.fps, len(found.times)) == (None, 24.0, 4)


def test_times_that_run_backwards_are_sorted():
    found = scan([3, 2, 1, 0, 4])
    assert found.order is None and np.allclose(found.times * 24, range(5))


def test_an_index_that_repeats_time_holds_the_last_of_each():
    found = scan([0, 0, 1, 2, 6, 7])
    assert found.order is not None and found.order[0] == 1


def test_a_steady_clock_holds_what_is_missing():
    clock = timeline.Clock(24.0, steady=True, held=2)
    found = scan([0, 1, 4, 5], clock=clock)
    assert found.order is not None and found.order.tolist() == [0, 1, 1, 1, 2, 3, 3, 3]


def test_packets_before_the_first_key_frame_are_left_out():
    found = scan([0, 1, 2, 3, 4], keys={2})
    assert found.undecodable == {0, 1} and found.hidden == 2
    assert np.allclose(found.times * 24, [2, 3, 4])


@pytest.mark.parametrize("jump", [2000, 10**9])
def test_a_jump_is_refused(jump):
    with pytest.raises(ValueError, match="after frame 2: cut"):
        scan([0, 1, 2, 3 + jump, 4 + jump])


def test_slides_of_a_minute_are_no_jump():
    found = scan([0, 1500, 3100, 4400])
    assert found.order is not None or found.fps < 0.02
