"""What stands around an nnU-Net's networks: images cropped, normalised, resampled; logits brought back.

It takes seconds of a processor, and none of a GPU. Axes: C channel, K output; x, y, z of the plan.
"""

from dataclasses import dataclass

import numpy as np
import torch

from bts.cases.case import CaseVolume
from bts.errors import CaseError
from bts.inference.foreign.nnunet.images import Prepared, prepare
from bts.inference.foreign.nnunet.plan import Plan
from bts.inference.foreign.nnunet.resample import resample
from bts.inference.foreign.voxels import on_crop, spacing_of, turned, whole_images
from bts.inference.foreign.winners import obeying
from bts.model.card import ModelCard


@dataclass(frozen=True, slots=True)
class Around:
    """As bts.inference.predictor.Around has it."""

    card: ModelCard
    plan: Plan
    allow_missing: frozenset[str] = frozenset()

    def before(self, volume: CaseVolume) -> Prepared:
        """A case → what the networks see. Raises CaseError."""
        images = whole_images(volume, self.card.modalities, self.plan.order, self.allow_missing)
        try:
            return prepare(images, spacing_of(volume, self.plan.order), self.plan)
        except ValueError as error:
            mend = "look at the spacing in its header"
            raise CaseError(str(error), mend=mend, case=volume.case_id, stage="predict") from None

    def after(self, answer: Prepared, volume: CaseVolume) -> torch.Tensor:
        """Logits at the plan's spacing → float32 (3, D, H, W) of WT, TC, ET or NCR, ED, ET on the crop, of
        whose voxels none is looked at."""
        plan = self.plan
        shape = tuple(side.stop - side.start for side in answer.box)
        resampled = resample(answer.images, shape, answer.wanted, answer.spacing, plan.logits)
        logits = torch.from_numpy(np.require(resampled, requirements="W"))  # from another process it is not
        if plan.regions:
            found = logits[list(plan.regions)].float().sigmoid()
        else:
            each = logits.float().softmax(dim=0)
            names = torch.tensor(plan.labels)
            found = torch.stack([each[names == label].sum(dim=0) for label in (1, 2, 3)])
            found = obeying(found, names[logits.argmax(dim=0)])
        there = np.zeros(turned(np.empty(volume.grid.shape, np.bool_), volume, plan.order).shape, np.float32)
        back = []
        for one in found.numpy():
            there[...] = 0
            there.transpose(plan.transpose)[answer.box] = one
            back.append(on_crop(there[None], volume, plan.order)[0])
        return torch.from_numpy(np.stack(back))
