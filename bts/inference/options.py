"""What a user may ask of a segmentation, passed whole through planning, predicting and writing."""

import importlib.metadata
from dataclasses import dataclass
from typing import Literal

from bts.cases.case import Case
from bts.cases.read import reader_of
from bts.errors import UsageError

Engine = Literal["torch", "openvino"]
"""What runs a network."""


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Flags of jobs.segment that a labelmap, or what lies beside it, depends on."""

    labels: str = "auto"
    """Label convention to write, by name or in pairs as jobs.preprocess takes them; auto: each case's own
    (brats2023 where its name does not tell). The result record and _labels/ say which it is."""
    flips: bool = False
    """Mirror at test time: average each prediction with that of its left-right mirror image. Twice the time,
    a little more accurate."""
    allow_missing: tuple[Literal["t1", "t1ce", "t2", "flair"], ...] = ()
    """Segment cases that lack these modalities too: the network gets nothing in their place, and the labelmap
    a quality warning. Train with --augmentation.drop to make the network used to it."""
    probabilities: bool = False
    """Also write _probabilities/CASE.TARGET.nii.gz (WT, TC, ET, or the model's own targets): bytes on the
    same grid, 255 is certain."""
    hold_flagged: bool = False
    """Write labelmaps with quality warnings (empty, very large, unlike the training's, …) to _held/, for
    review."""
    engine: Engine = "torch"
    """What runs the networks: PyTorch (onnxruntime for ONNX models), or OpenVINO, on CPUs alone: faster for
    models of other tools, and a few voxels get other labels. Install requirements-openvino.txt for it."""

    def recorded(self, case: Case) -> dict[str, object]:
        """Those that change the results of a case, as its marker and its fingerprint have them.

        All but flips only where they are asked for and change something: no labelmap of before is made again.
        """
        found: dict[str, object] = {"flips": self.flips}
        if self.probabilities:
            found["probabilities"] = True
        if missing := [name for name in reader_of(case).missing(case) if name in self.allow_missing]:
            found["allow_missing"] = missing
        if self.engine != "torch":
            found["engine"] = engine_version(self.engine)
        return found


def check_engine(engine: Engine, gpu: bool) -> None:
    """Raise UsageError for one that does not run on a GPU, where a GPU is to run it."""
    if gpu and engine != "torch":
        raise UsageError(f"--engine {engine} runs on CPUs alone; give --gpu no, or --engine torch")


def engine_version(engine: Engine) -> str:
    """Its name and version. Raises UsageError where it is not installed."""
    try:
        return f"{engine} {importlib.metadata.version(engine)}"
    except importlib.metadata.PackageNotFoundError:
        how = "pip install -r requirements-openvino.txt (or bts[openvino]), on every machine that segments"
        raise UsageError(f"--engine {engine}: it is not installed: {how}") from None
