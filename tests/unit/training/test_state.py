"""bts.training.state: of several checkpoints the one that got furthest counts."""

import io

import pytest
import torch

from bts.errors import UsageError
from bts.settings import Budget, Layers, Loss, Preset
from bts.training.state import furthest, start

TINY = Preset(
    name="tiny", size=(32, 32), layers=Layers(widths=(4, 8)), loss=Loss(bce=1), budget=Budget(epochs=1)
)


def checkpoint(epoch: int, step: int) -> bytes:
    """Of a training that stands there."""
    progress = start(TINY, torch.device("cpu"))
    progress.epoch, progress.step = epoch, step
    return progress.state()


def test_the_furthest_checkpoint_counts_and_half_a_one_does_not():
    within, after = checkpoint(2, 30), checkpoint(3, 30)
    assert furthest([None, within, after]) == furthest([after, within]) == after
    assert furthest([within, checkpoint(2, 31)[: len(after) // 2], b""]) == within
    assert furthest([None, after[:100]]) is None


def test_a_checkpoint_of_another_version_is_refused():
    values = torch.load(io.BytesIO(checkpoint(1, 2)), weights_only=True)
    del values["falls"]
    file = io.BytesIO()
    torch.save(values, file)
    with pytest.raises(UsageError, match=r"of another version .* \(it lacks falls\); delete it"):
        start(TINY, torch.device("cpu"), file.getvalue())
