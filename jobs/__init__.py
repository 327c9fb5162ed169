"""The Ray jobs, one file each: `python -m jobs.NAME --help`."""

import os

# Ray that a job starts for itself shall listen on loopback alone. It reads this, made for laptops, on import.
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
