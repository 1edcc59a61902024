"""The peak is this process's own."""

import subprocess
import sys

import numpy as np

from soraflax import process_memory

MIB = 2**20


def test_a_peak_stays_after_what_made_it_is_gone():
    before = process_memory.peak_bytes()
    block = np.ones(before + 64 * MIB, np.uint8)
    assert process_memory.peak_bytes() >= block.nbytes
    del block
    assert process_memory.peak_bytes() >= before + 64 * MIB


def test_a_child_does_not_report_its_parent_s():
    block = np.ones(256 * MIB, np.uint8)
    words = "from soraflax import process_memory; print(process_memory.peak_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < block.nbytes


def test_without_the_record_it_asks_the_system(monkeypatch, tmp_path):
    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "none")
    assert process_memory.peak_bytes() > MIB
