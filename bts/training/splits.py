"""Patients (or, for a comparison, slices) → training and held-out sets."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

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


def turns(cases: Mapping[str, tuple[str, int]], *, seed: int, fold: int) -> dict[str, int]:
    """Case → the first of its slices that `leaking_by_slice` holds out, in the order of `leaked`.

    `cases` maps each case → (group, number of slices). A group's slices are dealt to the folds in turn, case
    after case by a hash of the name: folds differ by at most one slice a group, as of a stratified split.
    """
    dealt: Counter[str] = Counter()
    found = {}
    for case in sorted(cases, key=lambda case: _hash(case, seed)):
        group, slices = cases[case]
        found[case] = (fold - dealt[group]) % FOLDS
        dealt[group] += slices
    return found


def leaked(case: str, z: Sequence[int], *, seed: int, turn: int) -> np.ndarray:
    """Which of all slices (bool) of a case are held out: every fifth, from number `turn` on, in the order of
    a hash of case and z."""
    order = sorted(range(len(z)), key=lambda n: _hash(f"{case}:{z[n]}", seed))
    held_out = np.zeros(len(z), bool)
    held_out[order[turn::FOLDS]] = True
    return held_out


def _hash(name: str, seed: int) -> str:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).hexdigest()
