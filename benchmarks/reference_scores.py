"""What BraTS's own code says of the random pairs of tests.label_pairs: the numbers that tests compare with.

    python -m benchmarks.reference_scores 2026 PYTHON
    python -m benchmarks.reference_scores 2024 PYTHON CODE

PYTHON is that of an environment with brats-evaluation 0.0.10 and medpy 0.5.2; CODE a checkout of
rachitsaluja/BraTS-2024-Metrics. Writes tests/unit/scoring/peer_YEAR.json.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.scores import PEER, link_golden
from benchmarks.table import ROOT
from tests.label_pairs import CHALLENGES, digest, label_pair, written_as

GOLDEN = {"2024": "BraTS-SSA-00046", "2026": ""}
"""Year → how the names of its pairs of ../shared/golden start: the code of 2024 takes a minute a pair."""
NAMES = {
    "2024": {
        "lesions_found": "Num_TP",
        "lesions_false": "Num_FP",
        "lesions_missed": "Num_FN",
        "lesion_dice": "LesionWise_Score_Dice",
        "lesion_hd95": "LesionWise_Score_HD95",
        "lesion_nsd05": "LesionWise_Score_NSD @ 0.5",
        "lesion_nsd1": "LesionWise_Score_NSD @ 1.0",
    },
    "2026": {
        "dice": "global_dsc",
        "hd95": "global_hd95",
        "nsd05": "global_nsd",
        "lesion_dice": "lesionwise_dsc_mean",
        "lesion_hd95": "lesionwise_hd95_mean",
        "lesion_nsd1": "lesionwise_nsd_mean",
        "lesions_found": "all_instance_tp",
        "lesions_false": "all_instance_fp",
        "lesions_missed": "all_instance_fn",
        **{
            f"{ours}_{of}": f"{theirs}_instance_{short}"
            for ours, theirs in {"lesion": "all", "large": "large", "small": "small"}.items()
            for of, short in {"f1": "f1", "precision": "prec", "recall": "rec"}.items()
        },
    },
}
"""Ours → the peer's, by year."""


def write_pairs(place: Path, challenge: str, seeds: range) -> None:
    for seed in seeds:
        folder = place / challenge / f"{seed:05}"
        folder.mkdir(parents=True)
        for side, labels in zip(("truth", "prediction"), label_pair(seed), strict=True):
            image = nib.Nifti1Image(written_as(labels, challenge), np.diag([-1.0, -1.0, 1.0, 1.0]))
            nib.save(image, folder / f"{side}.nii.gz")


def figures_of(year: str, python: str, place: Path, *code: str) -> dict[str, dict]:
    """{challenge: {pair: {figures, seconds}}} of the peer."""
    command = [python, str(PEER), year, str(place), *code]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def named(figures: Mapping[str, Mapping], year: str) -> dict[str, dict[str, list[float | None]]]:
    """{region: {our metric: a value a pair}}; None where the peer has none."""
    rows = [one["figures"] for _, one in sorted(figures.items())]
    return {
        region.upper(): {
            ours: [_number(row[region][theirs]) for row in rows]
            for ours, theirs in NAMES[year].items()
            if theirs in rows[0][region]
        }
        for region in rows[0]
    }


def _number(text: object) -> float | None:
    """Rounded, for a file of figures; the peer's infinity is the farthest distance."""
    if text in (None, ""):
        return None
    number = float(text)
    return None if np.isnan(number) else round(373.0 if np.isinf(number) else number, 9)


def main() -> None:
    year, python, *code = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for challenge, count in CHALLENGES[year].items():
            write_pairs(Path(folder), challenge, range(count))
        found = figures_of(year, python, Path(folder), *code)
    kept = {challenge: named(of, year) for challenge, of in found.items()}
    kept["pairs"] = [digest(*label_pair(seed)) for seed in range(max(CHALLENGES[year].values()))]
    with tempfile.TemporaryDirectory() as folder:
        link_golden(Path(folder), GOLDEN[year])
        golden = figures_of(year, python, Path(folder), *code)["gli"]
    kept["golden"] = {"pairs": sorted(golden), **named(golden, year)}
    file = ROOT / "tests" / "unit" / "scoring" / f"peer_{year}.json"
    file.write_text(json.dumps(kept))
    print(f"{file}: {', '.join(kept)}")


if __name__ == "__main__":
    main()
