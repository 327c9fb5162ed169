"""The Ray jobs, one file each: `python -m jobs.NAME --help`."""

import os

if os.environ.get("RAY_ADDRESS") == "local":
    del os.environ["RAY_ADDRESS"]  # the same as none
# Ray that a job starts for itself shall listen on loopback alone. It reads this, made for laptops, on import.
if not os.environ.get("RAY_ADDRESS"):
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
