"""Bytes ↔ voxels on the canonical grid. Knows files and grids, no case."""

import sys

if "jobs" in sys.modules and "pydicom" not in sys.modules:
    # nibabel imports it where it is installed, for an extension of headers: a third of a command's start.
    # A notebook's nibabel stays as it is.
    sys.modules["pydicom"] = None  # type: ignore[assignment]
    import nibabel  # noqa: F401

    del sys.modules["pydicom"]
