"""The predicting stage of jobs.segment, between `read` and `write`: the networks, and nothing else."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch

from bts.cases.case import CaseVolume
from bts.errors import CaseError
from bts.inference.options import SegmentOptions
from bts.inference.segmenter import Segmenter
from bts.model.device import pick_device
from bts.model.load import Loaded, load

T = TypeVar("T")


def load_all(files: Callable[[], Sequence[tuple[str, bytes]]]) -> list[Loaded]:
    """The models of name and bytes of each, which are too large to travel with every actor."""
    return [load(data, name) for name, data in files()]


class Predict:
    """Voxels → what the networks say of them. One actor a GPU, or a few CPU threads."""

    def __init__(
        self,
        models: Callable[[], Sequence[Loaded]],
        device: str | None,
        threads: int,
        options: SegmentOptions,
    ):
        """device: "cpu" where no GPU was asked for, None: the machine's GPU if it has one."""
        if pick_device(device).type == "cpu":
            torch.set_num_threads(threads)
        self.segmenter = Segmenter(
            models(),
            device,
            flips=options.flips,
            allow_missing=options.allow_missing,
            engine=options.engine,
        )
        self.probabilities = options.probabilities
        self.turn, self.at_work = threading.Condition(), 0

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        if "seen" in row:  # by `Before`; the rest is left to `After`
            answer = self._done(partial(self.segmenter.answered, row["seen"]), row)
            return {**row, "seen": answer, "predict_s": row["predict_s"] + time.monotonic() - started}
        volume = CaseVolume.described(row.pop("images"), row["volume"])
        (brain,) = CaseVolume.outlined(row["outline"], row["volume"]).images
        said = self._done(partial(self.segmenter.predict, volume, brain, self.probabilities), row)
        return {**row, "said": said, "predict_s": time.monotonic() - started}

    def _done(self, work: Callable[[], T], row: dict) -> T:
        """Raises CaseError for a case that the GPU has no memory for."""
        with contextlib.suppress(torch.OutOfMemoryError):  # which holds on to memory as long as it is handled
            return self._beside_others(work)
        return self._alone(work, row)

    def _beside_others(self, work: Callable[[], T]) -> T:
        """Raises torch.OutOfMemoryError where a GPU has too little memory for it now."""
        with self.turn:
            self.at_work += 1
        try:
            return work()
        finally:
            with self.turn:
                self.at_work -= 1
                self.turn.notify_all()

    def _alone(self, work: Callable[[], T], row: dict) -> T:
        """While no other case is at work in this actor."""
        try:
            with self.turn:
                self.turn.wait_for(lambda: not self.at_work)
                return work()
        except torch.OutOfMemoryError as error:
            shape = "×".join(map(str, json.loads(row["volume"])["shape"]))
            problem, kind = f"{shape} voxels do not fit into the GPU's memory", type(error).__name__
            case = row["case_id"]
            raise CaseError(problem, mend="use a larger GPU", case=case, kind=kind) from error
