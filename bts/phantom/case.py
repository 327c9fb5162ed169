"""Synthetic BraTS-like cases for demos and tests: a brain, its four contrasts, its tumours, their truth.

A case depends on (seed, index, size) alone. Its anatomy is drawn by `bts.phantom.anatomy`; here are its
contrasts, its labels and its files.

Axes: D z slices, H rows (y), W columns (x). Volumes are (D, H, W), canonical LPS: x runs to the patient's
left, y to the back, z up. `size` is (x, y, z), as in the flag --size and in the files.
"""

import nibabel as nib
import numpy as np
from isal import igzip

from bts.phantom.anatomy import SIZE, draw_brain, draw_lesions, frame, smooth_field

LEAST = 24  # voxels an axis; with fewer the small tumours are gone
NAMES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}  # BraTS 2023's file names

# Eight cases in a row hold each of these, shuffled; real sets have about this mix.
KINDS = ("ring", "ring", "ring", "ring", "multifocal", "multifocal", "non-enhancing", "small")

# Signal relative to white matter in T1. Oedema is bright in FLAIR and T2, dark necrosis in T1 and bright
# in T2, the rim in T1ce; but cortex, vessels and periventricular caps are bright too, so that no
# threshold on one modality finds a tumour.
TISSUES = ("csf", "grey", "white", "oedema", "necrosis", "rim", "solid", "vessel", "cap")
SIGNAL = {
    "t1": (0.36, 0.82, 1.00, 0.80, 0.58, 0.80, 0.66, 0.60, 0.88),
    "t1ce": (0.36, 0.84, 1.00, 0.80, 0.60, 1.60, 0.70, 1.60, 0.88),
    "t2": (2.50, 1.15, 0.85, 1.50, 1.95, 1.35, 1.90, 0.55, 1.15),
    "flair": (0.38, 1.14, 0.92, 1.36, 1.10, 1.30, 1.26, 0.80, 1.36),
}
BRIGHTNESS = {"t1": 700.0, "t1ce": 900.0, "t2": 550.0, "flair": 650.0}  # scanner units of signal 1
NOISE = 0.035  # standard deviation, in units of white matter's T1 signal


def make_case(seed: int, index: int, size: tuple[int, int, int] = SIZE) -> tuple[dict, np.ndarray, dict]:
    """Case `index` of the set `seed`, drawn on `size` = (x, y, z) voxels over the BraTS field of view.

    Returns the images {t1, t1ce, t2, flair: (D, H, W) int16}, background 0 and brain above 0; the mask
    (D, H, W) uint8 with 1 necrosis/non-enhancing, 2 oedema, 3 enhancing; and facts: kind, lesions, voxels.
    """
    rng = np.random.default_rng([seed, index])
    box, axes, soft = frame(size)
    kind = _kind(seed, index)
    depth, weights = draw_brain(rng, axes, soft)
    lesions, count = draw_lesions(rng, kind, axes, depth, weights, soft)
    weights |= lesions
    mask = np.zeros(size[::-1], np.uint8)
    mask[box] = _labels(weights, kind)
    inside = depth > 0
    weights = {name: weight[inside] for name, weight in weights.items()}
    texture = smooth_field(rng, axes, 4)[inside]
    images = {role: _paint(rng, role, kind, axes, weights, texture, inside, box, size) for role in SIGNAL}
    counts = np.bincount(mask.ravel(), minlength=4)
    facts = {"kind": kind, "lesions": count, "voxels": {k: int(counts[k]) for k in (1, 2, 3)}}
    return images, mask, facts


def case_id(index: int) -> str:
    """BraTS 2023's form, such as BraTS-PHANTOM-00001-000."""
    return f"BraTS-PHANTOM-{index:05d}-000"


def case_keys(index: int) -> dict[str, str]:
    """{t1, t1ce, t2, flair, seg: key of the case's file}."""
    return {role: f"{case_id(index)}/{case_id(index)}-{name}.nii.gz" for role, name in NAMES.items()}


def write_case(seed: int, index: int, size: tuple[int, int, int] = SIZE) -> dict[str, bytes]:
    """The five files of a case as BraTS 2023 lays them out, {key: .nii.gz}: int16, labels 1 2 3 in uint8."""
    images, mask, _ = make_case(seed, index, size)
    return {key: to_nifti((images | {"seg": mask})[role]) for role, key in case_keys(index).items()}


def to_nifti(voxels: np.ndarray) -> bytes:
    """(D, H, W) canonical LPS → .nii.gz with the affine of BraTS: the last row lies at y = 0 mm."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = voxels.shape[1] - 1
    image = nib.Nifti1Image(voxels.T, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    return igzip.compress(image.to_bytes(), 1, mtime=0)  # mtime 0: equal voxels, equal bytes


def _kind(seed: int, index: int) -> str:
    block = np.random.default_rng([seed, index // len(KINDS), 1])
    return KINDS[block.permutation(len(KINDS))[index % len(KINDS)]]


def _labels(weights: dict, kind: str) -> np.ndarray:
    """Truth (D, H, W) uint8: the innermost of oedema, core and necrosis that has more than half a voxel."""
    labels = (weights["oedema"] > 0.5).astype(np.uint8) * np.uint8(2)
    labels[weights["core"] > 0.5] = 3
    labels[(weights["necrosis"] > 0.5) | ((weights["core"] > 0.5) & (kind == "non-enhancing"))] = 1
    return labels


def _paint(rng, role: str, kind: str, axes: tuple, weights: dict, texture, inside, box, size) -> np.ndarray:
    """One modality, (D, H, W) int16: tissues layered, then texture, the coil's bias field, noise.

    `weights` and `texture` hold the voxels `inside` the brain alone.
    """
    signal = dict(zip(TISSUES, np.array(SIGNAL[role]) * rng.uniform(0.92, 1.08, len(TISSUES)), strict=True))
    signal["core"] = signal["solid" if kind == "non-enhancing" else "rim"]
    if kind == "non-enhancing":
        signal["necrosis"] = signal["solid"]
    image = np.full(texture.shape, signal["white"], np.float32)
    for name, weight in weights.items():
        image += weight * (np.float32(signal[name]) - image)
    uneven = 0.02 + 0.04 * np.maximum(weights["oedema"], weights["core"])  # tumours are less uniform
    image *= 1 + uneven * (np.float32(rng.choice((-1, 1))) * texture)
    for axis, shape in zip(axes, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True):
        slope, bow = rng.uniform(-0.07, 0.07, 2).astype(np.float32)
        t = (axis / 80).reshape(shape)
        image *= np.broadcast_to(1 + slope * t + bow * t * t, inside.shape)[inside]
    image += np.float32(NOISE) * rng.standard_normal(texture.shape, np.float32)
    units = np.float32(BRIGHTNESS[role] * 2.0 ** rng.uniform(-0.7, 0.7))
    out = np.zeros(size[::-1], np.int16)
    out[box][inside] = np.clip(np.rint(image * units), 1, 32000)
    return out
