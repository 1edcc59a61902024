"""Reading a stream: the same elements in the same order, whoever reads them."""

import subprocess
import sys

import pytest

from data_pipelines import reading
from tests.data_pipelines import test_pipeline

IN_TURN = reading.ReadConfig(threads=0, buffer=0, ahead=0)
THREADS = reading.ReadConfig(threads=3, buffer=5, ahead=2)

# In an interpreter of its own: workers are started by importing the main module.
WORKERS = """
import json
import sys
from data_pipelines import pipeline
from tests.data_pipelines import clip_data, test_pipeline as t

def batches(workers, size, state=None, passes=0):
    read = pipeline.ReadConfig(workers=workers, threads=1, buffer=4)
    mixture = [clip_data.Latents(size), clip_data.Latents(7)]
    latents = mixture[:1] if passes else mixture
    settings = t.config(read=read, windows=0.5, passes=passes)
    it = iter(pipeline.make_dataset(settings, encode=clip_data.encode_text,
                                    latents=latents))
    if state is not None:
        it.set_state(state)
    return it

if __name__ == "__main__":
    workers = int(sys.argv[1])
    whole = batches(0, 50)
    first = t.take(whole, 3)
    state = json.loads(json.dumps(whole.get_state()))
    assert any(len(row) > 1 for row in t.open_rows(state))
    later = t.take(whole, 3)
    it = batches(workers, 50)
    assert t.equal(t.take(it, 3), first)
    between = json.loads(json.dumps(it.get_state()))
    it.set_state(between)
    assert t.equal(t.take(it, 3), later)
    it.close()
    it = batches(0, 50, state=between)  # goes on without them
    assert t.equal(t.take(it, 3), later)
    it = batches(workers, 50, passes=1)
    assert t.equal(list(it), list(batches(0, 50, passes=1)))
    it.close()
    print("same")
"""


@pytest.mark.parametrize("config", [IN_TURN, THREADS])
def test_a_stream_comes_in_order_and_goes_on_where_it_was(config):
    dataset = reading.StreamIterDataset(range(100, 120), config)
    it = iter(dataset)
    assert [next(it) for _ in range(7)] == list(range(100, 107))
    state = it.get_state()
    assert state == {"next_index": 7}
    assert list(it) == list(range(107, 120))
    it.set_state(state)
    assert list(it) == list(range(107, 120))
    again = iter(dataset)
    again.set_state({"next_index": 20})
    assert list(again) == []
    with pytest.raises(IndexError, match="element 21 of a stream of 20"):
        again.set_state({"next_index": 21})
    it.close()
    again.close()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches_are_the_same_for_any_number_of_workers(tmp_path, workers):
    """Resumed or not: a mixture, windows and captions drawn at random, open rows."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    out = subprocess.run(
        [sys.executable, str(script), str(workers)],
        capture_output=True,
        text=True,
        timeout=240,
        env=test_pipeline.environment(),
    )
    assert out.stdout.strip() == "same", out.stderr


@pytest.mark.parametrize("name", ["threads", "buffer", "ahead", "workers"])
def test_less_than_none_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} -1: use 0 or more"):
        reading.ReadConfig(**{name: -1})
