"""The peak is this process's own."""

import subprocess
import sys

import numpy as np

from soraflax import process_memory

MIB = 2**20


# In a process of its own: a block above the peak of this one may be gigabytes.
PEAK = """
import numpy as np
from soraflax import process_memory
before = process_memory.peak_bytes()
block = np.ones(before + 64 * 2**20, np.uint8)
print(before, process_memory.peak_bytes())
del block
print(process_memory.peak_bytes())
"""


def run(words):
    command = [sys.executable, "-c", words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_a_peak_stays_after_what_made_it_is_gone():
    before, peak, after = run(PEAK)
    assert peak >= before + 64 * MIB
    assert after >= before + 64 * MIB


def test_what_is_held_now_falls_again():
    words = """
import numpy as np
from soraflax import process_memory
before = process_memory.resident_bytes()
block = np.ones(256 * 2**20, np.uint8)
print(before, process_memory.resident_bytes())
del block
print(process_memory.resident_bytes())
"""
    before, during, after = run(words)
    assert during >= before + 250 * MIB and after < before + 64 * MIB


def test_a_child_does_not_report_its_parent_s():
    block = np.ones(256 * MIB, np.uint8)
    words = "from soraflax import process_memory; print(process_memory.peak_bytes())"
    assert run(words)[0] < block.nbytes


def test_without_the_record_it_asks_the_system(monkeypatch, tmp_path):
    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "none")
    assert process_memory.peak_bytes() > MIB
    assert process_memory.resident_bytes() == process_memory.peak_bytes()


def test_freed_memory_is_kept():
    """Arrays taken again and again fault their pages in once."""
    code = """
import resource
import numpy as np
from soraflax import process_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(1_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if process_memory.keep_freed():
    faults()
    assert faults() < 500, faults()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
