import numpy as np
import pytest

from data_pipelines import sources


def take(dataset, count):
    return [dataset[index] for index in range(count)]


@pytest.mark.parametrize("size", [1, 7, 70_000])
def test_every_pass_holds_every_clip_once_in_a_new_order(size):
    stream = sources.stream([range(size)], seed=3)
    passes = [
        [stream[number * size + k] for k in range(min(size, 200))] for number in (0, 1)
    ]
    if size == 7:
        assert all(sorted(one) == list(range(7)) for one in passes)
    if size > 1:
        assert passes[0] != passes[1]
    assert all(len(set(one)) == len(one) for one in passes)


def test_the_stream_is_a_function_of_the_seed_alone():
    first = take(sources.stream([range(50)], seed=1), 100)
    assert take(sources.stream([range(50)], seed=1), 100) == first
    assert take(sources.stream([range(50)], seed=2), 100) != first


def test_passes_end_the_stream():
    stream = sources.stream([range(5)], seed=0, passes=2)
    assert len(stream) == 10
    assert sorted(take(stream, 10)) == sorted([*range(5), *range(5)])


def test_hosts_divide_the_stream():
    stream = sources.stream([range(10)], seed=0)
    hosts = [sources.shard_stream(stream, index, count=3) for index in range(3)]
    merged = [hosts[k % 3][k // 3] for k in range(60)]
    assert merged == take(stream, 60)
    with pytest.raises(ValueError, match=r"host 3 of 3: use 0\.\.2"):
        sources.shard_stream(stream, 3, count=3)


def test_more_hosts_than_clips_still_all_have_some():
    stream = sources.stream([range(2)], seed=0)
    assert set(take(sources.shard_stream(stream, 4, count=5), 20)) == {0, 1}


def test_mixtures_follow_their_weights():
    few, many = range(3), range(1000, 2000)
    stream = sources.stream([few, many], seed=0, weights=(3.0, 1.0))
    drawn = np.array(take(stream, 400))
    assert np.mean(drawn < 3) == pytest.approx(0.75, abs=0.01)
    assert {0, 1, 2} <= set(drawn.tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": []}, "without clips"),
        ({"sources": [[]]}, "without clips"),
        ({"sources": [[1], [2]], "weights": (1.0,)}, r"weights \(1.0,\) for 2"),
        ({"sources": [[1], [2]], "weights": (1.0, 0.0)}, "one positive weight"),
        ({"sources": [[1], [2]], "weights": (-1.0, 1.0)}, "one positive weight"),
        ({"sources": [[1], [2]], "weights": (float("nan"), 1.0)}, "one positive"),
        ({"sources": [[1], [2]], "weights": (float("inf"), 1.0)}, "one positive"),
        ({"sources": [[1], [2]], "passes": 1}, "passes over a mixture"),
    ],
)
def test_streams_that_cannot_be_drawn_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sources.stream(arguments.pop("sources"), seed=0, **arguments)
