"""Small BraTS-like files for tests, made with nibabel: the project's own writer is not its own judge."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.model.file import save_model
from bts.model.nets import build
from bts.phantom.case import write_case
from bts.settings import Budget, Layers, Loss, Preset
from bts.shards.format import write_shard
from bts.storage import Store

LPS = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]])
NAMES_2021 = {"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair", "seg": "seg"}
NAMES_2023 = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}


def affine(codes: str = "LPS", zooms=(1.0, 1.0, 1.0), rotation: float = 0.0) -> np.ndarray:
    """An affine of the given axis codes (x, y, z), turned by `rotation` radians about two axes."""
    signs = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    linear = np.zeros((3, 3))
    for column, (code, zoom) in enumerate(zip(codes, zooms, strict=True)):
        row, sign = signs[code]
        linear[row, column] = sign * zoom
    c, s = np.cos(rotation), np.sin(rotation)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    out = np.eye(4)
    out[:3, :3] = turn @ linear
    out[:3, 3] = (7.0, -11.0, 3.5)
    return out


def nifti(voxels_xyz: np.ndarray, matrix: np.ndarray = LPS, *, compress: bool = True) -> bytes:
    """A .nii(.gz) file of voxels in the file's own (x, y, z) order."""
    image = nib.Nifti1Image(voxels_xyz, matrix)
    image.header.set_qform(matrix, 1)
    image.header.set_sform(matrix, 1)
    raw = image.to_bytes()
    return gzip.compress(raw, 1) if compress else raw


def voxels(seed: int = 0, shape=(20, 24, 12), dtype=np.int16) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(images by modality, truth with internal labels 0–3), (x, y, z), zero outside a box of brain."""
    rng = np.random.default_rng(seed)
    inside = tuple(slice(2, n - 1 - axis) for axis, n in enumerate(shape))
    images = {}
    for modality in ("t1", "t1ce", "t2", "flair"):
        image = np.zeros(shape, dtype)
        image[inside] = rng.integers(1, 900, image[inside].shape)
        images[modality] = image
    truth = np.zeros(shape, np.uint8)
    truth[6:14, 8:16, 3:9] = 2
    truth[8:12, 10:14, 4:8] = 3
    truth[9:11, 11:13, 5:7] = 1
    return images, truth


def case_files(
    case_id: str, *, seed=0, names=None, matrix=LPS, enhancing=3, truth=True, shape=(20, 24, 12)
) -> dict[str, bytes]:
    """The files of one case, {key: bytes}; `enhancing` is the file's value for enhancing tumour."""
    names = names or NAMES_2023
    join = "-" if names is NAMES_2023 else "_"
    images, labels = voxels(seed, shape)
    if truth:
        images["seg"] = np.where(labels == 3, enhancing, labels).astype(np.uint8)
    return {
        f"{case_id}/{case_id}{join}{names[role]}.nii.gz": nifti(image, matrix)
        for role, image in images.items()
    }


def tiny_model(seed: int = 1, **provenance: object) -> bytes:
    """An untrained network that fits the small cases: its labels are arbitrary, but not constant."""
    torch.manual_seed(seed)
    preset = Preset(
        name="tiny", size=(32, 32), layers=Layers(widths=(4, 8)), loss=Loss(bce=1), budget=Budget(epochs=1)
    )
    return save_model(build(preset), preset, provenance)


def results(store, suffix: str) -> dict[str, bytes]:
    """Bytes by case of the results in a store, whatever fingerprint is in their names."""
    return {e.key.split(".")[0]: store.read(e.key) for e in store.list() if e.key.endswith(suffix)}


def put_all(store, files: dict[str, bytes], prefix: str = "") -> None:
    for key, data in files.items():
        store.put(prefix + key, data)


def phantom_shards(folder: Path) -> Path:
    """Shards of six small phantom cases: four to train, two held out in fold 0."""
    cases, made = Store(folder / "cases"), Store(folder / "shards")
    for index in range(6):
        put_all(cases, write_case(0, index, (40, 40, 24)))
    for case in find_cases(cases.list()).cases:
        made.put(f"{case.id}.0123456789ab.parquet", write_shard(load_case(case, cases), {}))
    return folder / "shards"
