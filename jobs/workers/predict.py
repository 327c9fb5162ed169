"""The predicting stage of jobs.segment, between `read` and `write`: the networks, and nothing else."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from bts.cases.case import CaseVolume
from bts.errors import CaseError
from bts.inference.options import SegmentOptions
from bts.inference.prediction import Prediction
from bts.inference.segmenter import Segmenter
from bts.model.device import pick_device
from bts.model.load import load

Models = Callable[[], Sequence[tuple[str, bytes]]]


class Predict:
    """Voxels → what the networks say of them. One actor a GPU, or a few CPU threads."""

    def __init__(self, models: Models, device: str | None, threads: int, options: SegmentOptions):
        """models: gives name and bytes of each, which are too large to travel with every actor. device: "cpu"
        where no GPU was asked for, None: the machine's GPU if it has one.
        """
        if pick_device(device).type == "cpu":
            torch.set_num_threads(threads)
        loaded = [load(data, name) for name, data in models()]
        missing = options.allow_missing
        self.segmenter = Segmenter(loaded, device, flips=options.flips, allow_missing=missing)
        self.probabilities = options.probabilities
        self.turn, self.at_work = threading.Condition(), 0

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        volume = CaseVolume.described(row.pop("images"), row["volume"])
        (brain,) = CaseVolume.outlined(row["outline"], row["volume"]).images
        said = self._beside_others(volume, brain) or self._alone(volume, brain)
        return {**row, "said": said, "predict_s": time.monotonic() - started}

    def _beside_others(self, volume: CaseVolume, brain_DHW: np.ndarray) -> Prediction | None:
        """None where a GPU has too little memory for it now."""
        with self.turn:
            self.at_work += 1
        try:
            return self.segmenter.predict(volume, brain_DHW, self.probabilities)
        except torch.OutOfMemoryError:
            return None
        finally:
            with self.turn:
                self.at_work -= 1
                self.turn.notify_all()

    def _alone(self, volume: CaseVolume, brain_DHW: np.ndarray) -> Prediction:
        """While no other case is at work in this actor. Raises CaseError."""
        try:
            with self.turn:
                self.turn.wait_for(lambda: not self.at_work)
                return self.segmenter.predict(volume, brain_DHW, self.probabilities)
        except torch.OutOfMemoryError as error:
            problem = f"{'×'.join(map(str, volume.images.shape))} voxels do not fit into the GPU's memory"
            kind = type(error).__name__
            raise CaseError(problem, mend="use a larger GPU", case=volume.case_id, kind=kind) from error
