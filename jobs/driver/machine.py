"""What this machine has for one process, or its container where that has less. Not a command."""

import contextlib
import os
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")
"""Where Linux tells the bounds of a container: its control group, of version 2 or 1."""
CPU = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
MEMORY = ("memory.max", "memory/memory.limit_in_bytes")


def cores(group: Path = GROUP) -> int:
    """Cores that this process may use."""
    known = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for names in CPU:
        match _numbers(group, *names):
            case [quota, period] if quota > 0:  # microseconds; -1 is no bound
                known.append(max(1, quota // period))
    return min(known)


def memory(group: Path = GROUP) -> int:
    """Bytes of memory that this process may use; 0 where nobody tells."""
    known = [number for name in MEMORY for number in _numbers(group, name)]
    with contextlib.suppress(AttributeError, ValueError):  # Windows has no sysconf
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(known, default=0)


def _numbers(group: Path, *names: str) -> list[int]:
    """Those in the files; none where a file is missing, or sets no bound."""
    try:
        return [int(word) for name in names for word in (group / name).read_text().split()]
    except (OSError, ValueError):
        return []
