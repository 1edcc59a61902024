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
