"""Models of other tools: the one list of kinds, and what a kind is.

A kind is a module with the three functions of `Kind`. Nothing of a source is executed, or imported by a name
that it gives: a kind reads descriptions against lists of its own, and refuses what is not on them. A program
alone is run, once, on being adopted, if whoever adopts it says so (`program`).
"""

from typing import Protocol

from bts.errors import UsageError
from bts.inference.foreign import bundle, nnunet, onnx_model
from bts.inference.foreign.source import Asked, Source
from bts.inference.predictor import How, Predictor
from bts.model.adopted import Adopted


class Kind(Protocol):
    """What a module of this folder offers."""

    def recognises(self, source: Source) -> bool:
        """Whether a source is of this kind, told by its files' names."""

    def convert(self, source: Source, asked: Asked) -> bytes:
        """The source as one file (bts.model.adopted.save_adopted). Raises UsageError for what it refuses."""

    def predictor(self, model: Adopted, how: How) -> Predictor:
        """The adopted model, ready. Raises UsageError where its description makes no sense."""


KINDS: dict[str, Kind] = {"nnunet": nnunet, "monai": bundle, "onnx": onnx_model}
"""By the name that the file of an adopted model carries."""


def convert(source: Source, asked: Asked) -> tuple[str, bytes]:
    """(kind, model file) of a source. Raises UsageError for what is of no kind, or refused by its own."""
    for name, kind in KINDS.items():
        if kind.recognises(source):
            return name, kind.convert(source, asked)
    files = ", ".join(source.names[:5]) + (", …" if len(source.names) > 5 else "")
    raise UsageError(
        f"{source.uri}: of no kind that can be adopted; it holds {files}. Give the whole folder or zip of an "
        "nnU-Net v2 training or of a MONAI bundle, or an ONNX graph with its description: weights alone do "
        "not say what network they are of"
    )


def predictor(model: Adopted, how: How) -> Predictor:
    """An adopted model, ready to run. Raises UsageError."""
    if model.kind not in KINDS:
        known = ", ".join(KINDS)
        raise UsageError(f"{model.card.name}: a model of kind {model.kind!r}; this version runs {known}")
    return KINDS[model.kind].predictor(model, how)
