"""The Ray jobs, one file each: `python -m jobs.NAME --help`."""

import contextlib
import ctypes
import os

if os.environ.get("RAY_ADDRESS") == "local":
    del os.environ["RAY_ADDRESS"]  # the same as none
# Ray that a job starts for itself shall listen on loopback alone. It reads this, made for laptops, on import.
if not os.environ.get("RAY_ADDRESS"):
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def keep_freed_memory() -> None:
    """Have glibc keep memory that is freed, up to a gibibyte, for what comes next.

    Images and what networks make of them are tens of megabytes. By default glibc hands such memory back to
    the system each time, which fills it with zeros before it gives it out again: a fifth of the CPU of a case
    and more. Arrays above 136 MiB still go back: 16 channels of a patch of 128³ stay, four of a whole volume
    do not, of which a few would take gigabytes. Threads share one heap, for others of 64 MiB each would be
    too small. Where there is no glibc, nothing happens.
    """
    trim_above, map_above, heaps = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((trim_above, 1 << 30), (map_above, 136 << 20), (heaps, 1)):
            mallopt(parameter, value)


keep_freed_memory()
