"""Brain-tumour segmentation on MRI. No Ray in here: the commands of `jobs` run this on a cluster.

    import bts
    labelmap = bts.segment("cases/BraTS2021_00000")  # a nibabel image on the scan's own grid

The names below are the face for notebooks; each is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bts.notebook import open_model, read_case, score, segment

__version__ = "0.9.0"
__all__ = ["open_model", "read_case", "score", "segment"]


def __getattr__(name: str):
    if name in __all__:
        return getattr(import_module("bts.notebook"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
