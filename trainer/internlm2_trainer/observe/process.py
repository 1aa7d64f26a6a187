"""What Linux says about this process."""

import os
import time
from pathlib import Path


def age_seconds() -> float:
    """Return how long ago this process was started, imports included; 0 where there is no /proc."""
    try:
        stat = Path("/proc/self/stat").read_text()
    except OSError:
        return 0.0
    # The name, in parentheses, may hold anything; starttime is field 22 of proc(5).
    ticks = int(stat.rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def resident_bytes() -> int | None:
    """Return the memory of this process that is in RAM, None where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
