"""One study → one case: converted, registered, interpolated once, stripped, measured and recorded.

Matrices are 4×4 in mm of RAS+, from the case's space to the scanner's space of a series: with them one
interpolation brings scans here, and their inverses bring labelmaps back.
"""

import hashlib
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from bts.errors import CaseError
from bts.images.nifti import write_image
from bts.intake import atlas as atlases
from bts.intake import picture, quality, tools
from bts.intake.convert import convert
from bts.intake.grids import BRATS, Image, Lattice, isotropic, resample, resample_scan, turn_deg
from bts.intake.register import pyramid, register, similarity, starts_between, starts_to_atlas
from bts.intake.strip import Strip, brain_mask

FORMAT = 2  # raised when a case changes for the same scans and options
NAMES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}  # BraTS 2023's
MOST = 32000  # of int16
FINE = 200  # an image whose brightest voxel is below is scaled up: integers would be too coarse


@dataclass(frozen=True, slots=True)
class Options:
    """What the user decides about every case."""

    strip: Strip = "hdbet"
    atlas: Literal["sri24", "none"] = "sri24"


@dataclass(slots=True)
class Taken:
    """A finished case: its files, and its record (the result record of jobs.intake)."""

    files: dict[str, bytes]
    record: dict


@dataclass(slots=True)
class Clock:
    """Seconds of each step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str):
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


def case_keys(case_id: str, roles) -> dict[str, str]:
    """{role, or mask, or check: key below the cases' URI}."""
    keys = {role: f"{case_id}/{case_id}-{NAMES[role]}.nii.gz" for role in roles}
    return keys | {"mask": f"_masks/{case_id}.nii.gz", "check": picture.KEY.format(case_id=case_id)}


def take_in(case_id: str, scans: Mapping[str, list[bytes]], options: Options, *, dicom: bool) -> Taken:
    """The case of one study. scans: the files of each modality, slices in any order. Raises CaseError."""
    if "t1ce" not in scans:
        raise CaseError(
            "T1ce is missing, which the others are registered to", mend="take it in first", stage="choose"
        )
    clock = Clock()
    with clock.step("convert"):
        images = {role: convert(files, role, dicom=dicom) for role, files in scans.items()}
    with clock.step("register"):
        space, matrices = _register(images, options)
    with clock.step("resample"):
        voxels = bring(images, space, matrices, options)
    with clock.step("strip"):
        mask = brain_mask(voxels["t1ce"], voxels.get("t1", voxels["t1ce"]), options.strip)
    with clock.step("write"):
        # Where the skull stays, what is bright stands for the brain in the measures.
        where = mask if options.strip != "none" else voxels["t1ce"] > voxels["t1ce"].mean()
        measured = {role: _measure(role, images, voxels, space, matrices, where) for role in images}
        brain = _brain(mask, space, options)
        flags = quality.warnings(measured, brain.get("ml"), brain.get("overlap"))
        files, scales = write_case(case_id, voxels, mask, space, options)
    series = {
        role: {
            "native": image.lattice.to_json(),
            "matrix": matrices[role].tolist(),
            "voxels_blake2b": _digest(image.voxels),
            "scale": scales[role],
            **asdict(measured[role]),
        }
        for role, image in images.items()
    }
    record = {
        "case_id": case_id,
        "space": {"name": "SRI24" if options.atlas == "sri24" else "t1ce", **space.to_json()},
        "series": series,
        "brain": brain,
        "flags": flags,
        "options": asdict(options),
        "versions": {"format": FORMAT, **tools.versions()},
        "seconds": clock.seconds,
        "files": {key: _digest(data) for key, data in files.items()},
    }
    return Taken(files, record)


def bring(
    images: Mapping[str, Image], space: Lattice, matrices: Mapping[str, np.ndarray], options: Options
) -> dict[str, np.ndarray]:
    """Each series on the case's grid, (z, y, x) float32."""
    stripped = options.strip == "mask"
    return {r: resample_scan(image, space, matrices[r], stripped=stripped) for r, image in images.items()}


def _register(images: Mapping[str, Image], options: Options) -> tuple[Lattice, dict[str, np.ndarray]]:
    """(the case's grid, {role: case → series})."""
    head = images["t1ce"]
    fixed = pyramid(head)
    to_t1ce, space = np.eye(4), isotropic(head.lattice)
    if options.atlas == "sri24":
        space = BRATS
        # Scans that come without a skull are registered to the atlas's brain.
        still = pyramid(atlases.head(skull=options.strip != "mask"))
        to_t1ce = register(still, fixed, starts_to_atlas(space, fixed[0]))
    matrices = {"t1ce": to_t1ce}
    for role, image in images.items():
        if role != "t1ce":
            moved = register(fixed, pyramid(image), starts_between(head.lattice, image.lattice))
            matrices[role] = moved @ to_t1ce
    return space, matrices


def _measure(
    role: str,
    images: Mapping[str, Image],
    voxels: Mapping[str, np.ndarray],
    space: Lattice,
    matrices: Mapping[str, np.ndarray],
    mask: np.ndarray,
) -> quality.Measures:
    """Of one series on the case's grid; mask: bool (z, y, x), the brain."""
    scan, moved, before, after = images[role], matrices[role], 0.0, 0.0
    whole = Image(np.ones(scan.lattice.shape, np.uint8), scan.lattice)
    covered = float((resample(whole, space, moved) > 0.5)[mask].mean())
    if role != "t1ce":
        t1ce, to_t1ce = voxels["t1ce"][mask], matrices["t1ce"]
        before = similarity(t1ce, resample(scan, space, to_t1ce)[mask])
        after = similarity(t1ce, voxels[role][mask])
        moved = moved @ np.linalg.inv(to_t1ce)
    figures = round(covered, 4), round(turn_deg(moved), 2), round(before, 4), round(after, 4)
    return quality.Measures(scan.lattice.zooms, *figures)


def _brain(mask: np.ndarray, space: Lattice, options: Options) -> dict:
    if options.strip == "none":
        return {}
    found = {"ml": round(float(mask.sum()) * space.voxel_ml, 1)}
    if options.atlas == "sri24":
        there = atlases.brain()
        found["overlap"] = round(float(2 * (mask & there).sum() / (mask.sum() + there.sum())), 4)
    return found


def write_case(
    case_id: str, voxels: Mapping[str, np.ndarray], mask: np.ndarray, space: Lattice, options: Options
) -> tuple[dict[str, bytes], dict[str, float]]:
    """(the case's files, the factor that each modality was multiplied with)."""
    keys = case_keys(case_id, voxels)
    files, scales = {}, {}
    for role, image in voxels.items():
        scales[role] = _scale(image)
        whole = np.clip(np.rint(image * scales[role]), 0, MOST)
        # Within the brain 0 would mean that there is none.
        whole = np.where(mask & (image > 0), np.maximum(whole, 1), whole * mask)
        files[keys[role]] = write_image(whole.astype(np.int16), space.affine)
    stripped = options.strip != "none"
    if stripped:
        files[keys["mask"]] = write_image(mask.astype(np.uint8), space.affine)
    files[keys["check"]] = picture.draw(voxels["t1ce"], voxels.get("flair"), mask if stripped else None)
    return files, scales


def _scale(image: np.ndarray) -> float:
    """1 where int16 holds the values well."""
    brightest = float(image.max())
    return 1.0 if FINE <= brightest <= MOST else 4000.0 / max(brightest, 1e-30)


def _digest(data: bytes | np.ndarray) -> str:
    raw = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
