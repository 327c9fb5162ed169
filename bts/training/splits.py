"""Patients (or, for a comparison, slices) → training and held-out sets."""

import hashlib
from collections.abc import Iterable

import numpy as np

FOLDS = 5


def split_patients(groups: dict[str, str], *, seed: int, fold: int) -> tuple[list[str], list[str]]:
    """(training, held-out) patients of one fold of a patient-wise split, stratified by group.

    `groups` maps patient_id → group (tumour type, grade or data set). Within a group, patients are ordered
    by a hash of (patient_id, seed) and dealt to the folds in turn, each group going on where the last one
    stopped: folds differ by at most one patient, and neither file order nor number of cases matters. Another
    patient in the set may move others to another fold.
    """
    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold {fold} is not one of 0…{FOLDS - 1}")
    order = sorted(groups, key=lambda patient: (groups[patient], _hash(patient, seed)))
    held_out = set(order[fold::FOLDS])
    return sorted(set(groups) - held_out), sorted(held_out)


def leaked(case: str, z: Iterable[int], *, seed: int, fold: int) -> np.ndarray:
    """Which slices `leaking_by_slice` holds out: a fifth of every case's, by a hash of case and z."""
    return np.array([int(_hash(f"{case}:{n}", seed), 16) % FOLDS == fold for n in z], bool)


def _hash(name: str, seed: int) -> str:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).hexdigest()
