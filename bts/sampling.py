"""Shard rows → training batches, and patients → training and held-out sets."""

import hashlib

import numpy as np
import pyarrow as pa

from bts.cases import MODALITIES
from bts.shards import STATISTICS, pixels


def split_patients(
    groups: dict[str, str], *, seed: int, fold: int, folds: int = 5
) -> tuple[list[str], list[str]]:
    """(training, held-out) patients of one fold of a patient-wise split, stratified by group.

    `groups` maps patient_id → group (tumour type, grade or data set). Within a group, patients are ordered
    by a hash of (patient_id, seed) and dealt to the folds in turn, each group going on where the last one
    stopped: folds differ by at most one patient, and neither file order nor number of cases matters.
    """
    if not 0 <= fold < folds:
        raise ValueError(f"fold {fold} is not one of 0…{folds - 1}")
    order = sorted(groups, key=lambda patient: (groups[patient], _hash(patient, seed)))
    held_out = set(order[fold::folds])
    return sorted(set(groups) - held_out), sorted(held_out)


def _hash(patient: str, seed: int) -> str:
    return hashlib.blake2b(f"{seed}:{patient}".encode(), digest_size=8).hexdigest()


def collate_slices(
    rows: pa.Table, modalities: tuple[str, ...], size: tuple[int, int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Rows of shards → one batch of raw slices, each cropped at random or padded with zeros to `size` (H, W).

    Returns images (B, C, H, W) int16 (float32 if any row is not int16), mask (B, H, W) uint8, and mean,
    std, p01, p99 (B, C) float32. Normalisation and augmentation follow on the device.
    """
    kinds = {np.dtype(name) for name in rows["dtype"].unique().to_pylist()}
    dtype = np.int16 if kinds == {np.dtype(np.int16)} else np.float32
    images = np.zeros((rows.num_rows, len(modalities), *size), dtype)
    mask = np.zeros((rows.num_rows, *size), np.uint8)
    # `dtype` differs from case to case, so each row is read by itself.
    places = zip(
        rows["height"].to_pylist(), rows["width"].to_pylist(), rows["dtype"].to_pylist(), strict=True
    )
    for b, (height, width, kind) in enumerate(places):
        target, source = _window((height, width), size, rng)
        row = rows.slice(b, 1)
        for c, modality in enumerate(modalities):
            little = np.dtype(kind).newbyteorder("<")
            images[(b, c, *target)] = pixels(row[modality], little).reshape(height, width)[source]
        mask[(b, *target)] = pixels(row["mask"], np.dtype(np.uint8)).reshape(height, width)[source]
    columns = [MODALITIES.index(m) for m in modalities]
    statistics = {name: np.array(rows[name].to_pylist(), np.float32)[:, columns] for name in STATISTICS}
    return {"images": images, "mask": mask, **statistics}


def _window(
    have: tuple[int, int], want: tuple[int, int], rng: np.random.Generator
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(where in the patch, where in the slice) of a random crop, or of the slice in the padded middle."""
    target, source = [], []
    for n, size in zip(have, want, strict=True):
        start = int(rng.integers(0, abs(n - size) + 1))
        length = min(n, size)
        target.append(slice(start, start + length) if n < size else slice(0, size))
        source.append(slice(start, start + length) if n > size else slice(0, n))
    return tuple(target), tuple(source)
