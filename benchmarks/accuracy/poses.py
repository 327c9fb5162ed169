"""What intake costs: real cases in random poses and thick slices, taken in again and segmented.

    python -m benchmarks.accuracy.poses CASES [--mm 5 1] [--limit 6] [--strip mask]

CASES: folder of labelled BraTS cases. Each image is moved into a pose of its own, as a patient lies in a
scanner, and sampled in slices of so many mm, averaged over their thickness. "known" brings it back by
the pose itself, so that only interpolation costs; "found" by jobs.intake, which has to find the pose. The
labelmap goes to the case's own grid by the known pose and is scored there against its ground truth.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

import bts
from bts.cases.case import Case
from bts.cases.layouts import find_cases
from bts.cases.read import fetch, load_case
from bts.images.nifti import read_nifti
from bts.inference.segmenter import Segmenter
from bts.intake.grids import Image, Lattice, resample, turn_deg
from bts.intake.register import shifted
from bts.intake.strip import brain_mask
from bts.intake.study_to_case import Options, bring, case_keys, take_in, write_case
from bts.labels import REGIONS, to_internal
from bts.modalities import MODALITIES
from bts.scoring import metrics
from bts.storage import Store

IN_PLANE_MM = 0.9
FIELD_MM = 250.0  # of the field of view, along each axis
BASE, BETWEEN = (12.0, 12.0), (3.0, 3.0)  # most degrees and mm about each axis: of a head, between its series
SUB = 5  # samples over the thickness of a slice


def pose(rng: np.random.Generator, degrees: float, mm: float, about: np.ndarray) -> np.ndarray:
    """A random rigid 4×4 that turns about a point."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-degrees, degrees, 3), degrees=True).as_matrix()
    return shifted(about + rng.uniform(-mm, mm, 3)) @ turn @ shifted(-about)


def scan(image: Image, moved: np.ndarray, mm: float) -> Image:
    """An image as a scanner sees it whose patient lies in the pose `moved`, mm of the image → its own mm."""
    zooms = np.array([IN_PLANE_MM, IN_PLANE_MM, mm])
    x, y, z = np.ceil(FIELD_MM / zooms).astype(int).tolist()
    affine = np.diag([*zooms, 1.0])
    affine[:3, 3] = (moved @ [*image.lattice.centre, 1])[:3] - zooms * (np.array([x, y, z]) - 1) / 2
    count = SUB if mm > 1 else 1
    fine = affine.copy()
    fine[2, 2] /= count
    fine[2, 3] -= (mm - mm / count) / 2
    sampled = resample(image, Lattice((z * count, y, x), fine), np.linalg.inv(moved))
    return Image(sampled.reshape(z, count, y, x).mean(1), Lattice((z, y, x), affine))


def read(case: Case, store: Store) -> tuple[dict[str, Image], Image]:
    """(images by modality, ground truth as labels of the project), all on the canonical grid."""
    images = {}
    for role in MODALITIES:
        volume = read_nifti(fetch(case.files[role].key, store), role)
        images[role] = Image(
            volume.voxels.astype(np.float32), Lattice(volume.grid.shape, volume.grid.canonical_affine)
        )
    known = load_case(case, store)
    return images, Image(known.whole(known.mask), images["t1ce"].lattice)


def brought(scans: dict[str, Image], space: Lattice, matrices: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The files that jobs.intake would write if these were the matrices that it found."""
    options = Options("mask")
    voxels = bring(scans, space, matrices, options)
    mask = brain_mask(voxels["t1ce"], voxels["t1"], options.strip)
    return write_case("Scan-a-b", voxels, mask, space, options)[0]


def segment(files: dict[str, bytes], segmenter: Segmenter) -> Image:
    """Labels of a case of jobs.intake."""
    keys = case_keys("Scan-a-b", MODALITIES)
    with tempfile.TemporaryDirectory() as folder:
        paths = {role: str(Path(folder, f"{role}.nii.gz")) for role in MODALITIES}
        for role, path in paths.items():
            Path(path).write_bytes(files[keys[role]])
        made = bts.segment(paths, segmenter, labels="brats2023")
    volume = read_nifti(made.to_bytes(), "labelmap")
    lattice = Lattice(volume.grid.shape, volume.grid.canonical_affine)
    return Image(to_internal(volume.voxels, "brats2023"), lattice)


def dice(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """By region; 1 where it is empty on both sides, as in all scores of this project."""
    scores = metrics.score(truth.astype(np.uint8), found.astype(np.uint8), REGIONS, {})
    return {region: of["dice"] for region, of in scores.items()}


def conditions(
    images: dict[str, Image], truth: Image, mm: list[float], strip, segmenter: Segmenter, seed: list[int]
) -> Iterator[tuple[str, dict[str, float], str]]:
    """(condition, Dice by region, how far found poses lie from known ones) of one case."""
    rng, space = np.random.default_rng(seed), truth.lattice
    still = {role: np.eye(4) for role in images}
    yield "as it is", dice(truth.voxels, segment(brought(images, space, still), segmenter).voxels), ""
    head = pose(rng, *BASE, space.centre)
    poses = {role: pose(rng, *BETWEEN, space.centre) @ head for role in images}
    for thick in mm:
        scans = {role: scan(image, poses[role], thick) for role, image in images.items()}
        files = brought(scans, space, poses)
        yield f"{thick:g} mm, known", dice(truth.voxels, segment(files, segmenter).voxels), ""
        packed = {
            role: [nib.Nifti1Image(one.voxels.T, one.lattice.affine).to_bytes()]
            for role, one in scans.items()
        }
        taken = take_in("Scan-a-b", packed, Options(strip), dicom=False)
        matrices = {role: np.array(of["matrix"]) for role, of in taken.record["series"].items()}
        to_case = (
            np.linalg.inv(matrices["t1ce"]) @ poses["t1ce"]
        )  # mm of the case as it was → as it is taken in
        labels = resample(segment(taken.files, segmenter), space, to_case, labels=True)
        apart = {role: np.linalg.inv(poses[role]) @ matrices[role] @ to_case for role in images}
        yield f"{thick:g} mm, found", dice(truth.voxels, labels), far(apart, space.centre)


def far(apart: dict[str, np.ndarray], centre: np.ndarray) -> str:
    """By series: degrees, and mm at the centre, relative to T1ce."""
    told = []
    for role, matrix in apart.items():
        shift = np.linalg.norm((matrix @ [*centre, 1])[:3] - centre)
        told.append(f"{role} {turn_deg(matrix):.2f}° {shift:.2f} mm")
    return ", ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases")
    parser.add_argument("--mm", type=float, nargs="+", default=[5.0, 1.0])
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--strip", default="mask")
    given = parser.parse_args()
    store, segmenter = Store(given.cases), bts.open_model()
    cases = [case for case in find_cases(store.list()).cases if "seg" in case.files]
    cases = cases[:: max(1, len(cases) // given.limit)][: given.limit]
    found: dict[str, list[dict[str, float]]] = {}
    for case in cases:
        images, truth = read(case, store)
        for name, scores, apart in conditions(
            images, truth, given.mm, given.strip, segmenter, [*case.id.encode()]
        ):
            found.setdefault(name, []).append(scores)
            print(case.id, name, {r: round(float(v), 3) for r, v in scores.items()}, apart, flush=True)
    print(f"| {len(cases)} cases | {' | '.join(REGIONS)} |\n|---|{'---|' * len(REGIONS)}")
    for name, scores in found.items():
        print(f"| {name} | {' | '.join(f'{np.mean([s[r] for s in scores]):.3f}' for r in REGIONS)} |")


if __name__ == "__main__":
    main()
