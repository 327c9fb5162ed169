"""nnU-Net: fingerprint and 2D preprocessing by its own commands. CASES PLACE → s of both, and the cases."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np

DATASET = "Dataset001_BraTS"
CHANNELS = [("t1ce", "t1c"), ("t1", "t1n"), ("t2", "t2w"), ("flair", "t2f")]


def make_dataset(cases: Path, raw: Path) -> int:
    """The cases as nnU-Net wants them, labels in order without a gap; how many."""
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True, exist_ok=True)
    for case in (found := sorted(cases.iterdir())):
        files = {re.split(r"[-_]", f.name.removesuffix(".nii.gz"))[-1]: f for f in case.iterdir()}
        for n, names in enumerate(CHANNELS):
            source = next(files[name] for name in names if name in files)
            os.link(source, raw / "imagesTr" / f"{case.name}_{n:04d}.nii.gz")
        truth = nib.load(files["seg"])
        labels = np.asarray(truth.dataobj).astype(np.uint8)
        labels[labels == 4] = 3
        nib.save(nib.Nifti1Image(labels, truth.affine), raw / "labelsTr" / f"{case.name}.nii.gz")
    names = {"background": 0, "ncr": 1, "ed": 2, "et": 3}
    about = {
        "channel_names": {str(n): a for n, (a, _) in enumerate(CHANNELS)},
        "labels": names,
        "numTraining": len(found),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about))
    return len(found)


def set_folders(place: Path) -> None:
    """Where nnU-Net and its commands keep what is theirs."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(place / name)
        (place / name).mkdir(parents=True, exist_ok=True)


def timed(command: str, *arguments: str) -> float:
    started = time.perf_counter()
    program = Path(sys.executable).parent / command
    subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    cases, place = Path(sys.argv[1]), Path(sys.argv[2])
    set_folders(place)
    count, cores = make_dataset(cases, place / "raw" / DATASET), str(os.cpu_count())
    fingerprint = timed("nnUNetv2_extract_fingerprint", "-d", "1", "-np", cores)
    timed("nnUNetv2_plan_experiment", "-d", "1")
    preprocess = timed("nnUNetv2_preprocess", "-d", "1", "-c", "2d", "-np", cores)
    print(json.dumps({"fingerprint": fingerprint, "preprocess": preprocess, "cases": count}))


if __name__ == "__main__":
    main()
