"""The packages of requirements-foreign.txt, loaded only where they are used, by names that stand here."""

import importlib
from types import ModuleType
from typing import Literal

from bts.errors import UsageError


def load(name: Literal["monai.networks.nets", "onnx", "onnxruntime", "onnxscript"]) -> ModuleType:
    """An optional package. Raises UsageError, naming the file that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        how = "pip install -r requirements-foreign.txt"
        raise UsageError(f"this model needs {name.partition('.')[0]} ({error}): {how}") from None
