"""How much memory this process has held at most."""

import pathlib
import resource
import sys

STATUS = pathlib.Path("/proc/self/status")


def peak_bytes() -> int:
    """Most resident memory of this process so far, in bytes.

    From Linux's own record where there is one: what `getrusage` says there may be of
    the process that started this one.
    """
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # In KiB, but on macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
