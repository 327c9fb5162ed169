"""The predicting stage of jobs.segment, between those of `read`: labels, flags and expected Dice."""

import json
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from bts.cases.case import CaseVolume
from bts.errors import CaseError
from bts.inference import confidence, quality
from bts.inference.options import SegmentOptions
from bts.inference.segmenter import Segmenter
from bts.model.device import pick_device
from bts.model.load import load

NOTHING = np.zeros((1, 1, 1, 1), np.uint8)  # where no probabilities are asked for

Models = Callable[[], Sequence[tuple[str, bytes]]]


class Predict:
    """Voxels → labels of the project, and flags. One actor a GPU, or a few CPU threads."""

    def __init__(self, models: Models, device: str | None, threads: int, options: SegmentOptions):
        """models: gives name and bytes of each, which are too large to travel with every actor. device: "cpu"
        where no GPU was asked for, None: the machine's GPU if it has one.
        """
        if pick_device(device).type == "cpu":
            torch.set_num_threads(threads)
        loaded = [load(data, name) for name, data in models()]
        how = {"flips": options.flips, "allow_missing": options.allow_missing}
        self.segmenter = Segmenter(loaded, device, **how)
        self.options = options

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        volume = CaseVolume.described(row.pop("images"), row["volume"])
        labels, sure, found, expected = self.predict(volume)
        seconds = time.monotonic() - started
        columns = {"labelmap": labels, "probabilities": sure, "flags": json.dumps(found)}
        columns["volume"] = self.segmenter.seen(volume).describe()
        return {**row, **columns, "expected": json.dumps(expected), "predict_s": seconds}

    def predict(self, volume: CaseVolume) -> tuple[np.ndarray, np.ndarray, list[str], dict[str, float]]:
        """(labels as Segmenter.seen has the case, probabilities as bytes if they are asked for, flags,
        expected Dice by region).

        Raises CaseError.
        """
        try:
            each = self.segmenter.each(volume)
        except torch.OutOfMemoryError as error:
            problem = f"{'×'.join(map(str, volume.images.shape))} voxels do not fit into the GPU's memory"
            kind = type(error).__name__
            raise CaseError(problem, mend="use a larger GPU", case=volume.case_id, kind=kind) from error
        volume = self.segmenter.seen(volume)
        mean = sum(each) / len(each)
        decoded = self.segmenter.decoded(mean)
        labels = self.segmenter.tidied(volume, decoded)
        sure = self.segmenter.as_bytes(volume, mean) if self.options.probabilities else NOTHING
        found = quality.of_labels(labels, volume)
        if volume.traits.stripped:
            found += quality.of_doubt(decoded, labels, volume)
        if len(each) > 1:
            members = (self.segmenter.decoded(one) for one in each)
            found += quality.of_ensemble([self.segmenter.tidied(volume, labels) for labels in members])
        found += quality.of_noise(volume) + quality.of_place(volume)
        for one in self.segmenter.models:
            found += quality.of_missing(volume, one.card.modalities)
            found += quality.of_input(volume, one.card.inputs)
        expected = self.segmenter.expected_dice(volume, mean, labels)
        found += confidence.flag(expected)
        return labels, sure, list(dict.fromkeys(found)), expected
