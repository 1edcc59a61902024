"""The benchmark of input: its synthetic index is one, in little memory."""

import numpy as np

from data_pipelines import latents, reading
from experiments.benchmarks import data


def test_the_index_of_many_clips_takes_memory_by_the_shard() -> None:
    small = data.index_line(clips=1_000_000, count=1_000)
    large = data.index_line(clips=100_000_000, count=1_000)
    assert small["ok"] and large["ok"]
    assert large["clips"] == 100_000_000
    assert large["held_mib"] <= small["held_mib"] + 0.1


def test_latents_that_are_written_are_read(tmp_path) -> None:
    arrays = [np.full(data.LATENT, n, np.float16) for n in range(3)]
    opened = latents.open_latents(data.write_latents(tmp_path / "set", arrays))
    np.testing.assert_array_equal(opened[2].latent, arrays[2])
    assert data.drain(opened, reading.ReadConfig(threads=1, buffer=2)) == 3


def test_a_peer_that_is_faster_is_said() -> None:
    seconds = {"ours": 2.0, "torch": 2.0}
    line = data._compared("decode", seconds, items=8, workers=0)
    assert line["ok"] and line["ratio"] == 1.0 and "torchcodec_ratio" not in line
    line = data._compared("decode", seconds | {"torchcodec": 1.0}, items=8, workers=0)
    assert not line["ok"]
    assert (line["torchcodec_ratio"], line["torchcodec_per_second"]) == (0.5, 8.0)


def test_the_stall_of_a_run_is_that_of_all_its_steps() -> None:
    log = [
        {"step": 1, "loss": 1.0},
        {"step": 2, "seconds_per_step": 1.0, "input_stall": 0.01},
        {"step": 4, "seconds_per_step": 3.0, "input_stall": 0.03},
    ]
    line = data.stall_of(log)
    assert line == {"seconds_per_step": 2.0, "input_stall": 0.025, "ok": False}
    log[-1]["input_stall"] = 0.02
    assert data.stall_of(log)["ok"]


def test_what_the_steps_of_a_training_wait_is_measured() -> None:
    line = data.stall_line("tiny", clips=16, steps=4)
    assert line["steps"] == 4 and line["seconds_per_step"] > 0
    assert 0 <= line["input_stall"] < 1
