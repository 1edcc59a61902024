"""The memory of this process: how much it holds, held at most, and keeping it."""

import ctypes
import pathlib
import resource
import sys

STATUS = pathlib.Path("/proc/self/status")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt


def peak_bytes() -> int:
    """Most resident memory of this process so far, in bytes.

    From Linux's own record where there is one: what `getrusage` says there may be of
    the process that started this one.
    """
    return _status("VmHWM:") or _peak_by_usage()


def resident_bytes() -> int:
    """Resident memory of this process now, in bytes; the most so far but on Linux."""
    return _status("VmRSS:") or _peak_by_usage()


def _status(key: str) -> int | None:
    """A line of Linux's record of this process, in bytes."""
    if not STATUS.is_file():
        return None
    for line in STATUS.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return None


def _peak_by_usage() -> int:
    # In KiB, but on macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def keep_freed() -> bool:
    """Keep freed memory in the process instead of returning it to the system.

    A training step on a CPU frees and takes its activations anew, and glibc gives large
    arrays back to the system each time, to fault their pages in again. What is kept is
    at most what the process has held (`peak_bytes`).

    Returns:
      Whether the C library took it; only glibc does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
