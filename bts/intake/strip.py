"""Where the brain is: HD-BET's network (trained on patients with tumours), deepbet's, or what is not zero.

Volumes are (z, y, x) in LPS+, 1 mm.
"""

from typing import Literal

import numpy as np

from bts.errors import CaseError
from bts.intake.parts import largest

Strip = Literal["hdbet", "deepbet", "mask", "none"]


def brain_mask(t1ce: np.ndarray, t1: np.ndarray, how: Strip) -> np.ndarray:
    """bool (z, y, x): HD-BET looks at T1ce, deepbet at T1. Raises CaseError where no brain is found."""
    if how == "none":
        return np.ones(t1ce.shape, bool)
    if how == "mask":
        found = t1ce > 0
    else:
        from bts.intake.brain_networks import found_by  # with torch, which --help does without

        found = found_by(how, t1ce if how == "hdbet" else t1)
    found = largest(found)
    if not found.any():
        raise CaseError("no brain was found", mend="look at the check picture and the scan", stage="strip")
    return found
