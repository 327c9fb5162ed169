"""BraTS's own scores of pairs of labelmaps, in its own environment. YEAR PAIRS [CODE] → figures, s a case.

2026: the package brats-evaluation 0.0.10. 2024: CODE, a checkout of rachitsaluja/BraTS-2024-Metrics; medpy.
PAIRS/CHALLENGE/NAME/truth.nii.gz and prediction.nii.gz; challenges as in bts.scoring.rules.
"""

import contextlib
import csv
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

SECTIONS = {"met": "mets", "men": "MenPre", "men-rt": "MenRT", "goat": "GoAT"}  # names in 2026
SIDES = ("truth", "prediction")


def of_2026(pairs: Path, challenge: str) -> dict[str, dict]:
    """The package's own two steps: the figures of panoptica, then the leaderboard's table of them."""
    from brats_evaluation import config_path, evaluate_single_exam
    from panoptica import Panoptica_Evaluator

    evaluator = Panoptica_Evaluator.load_from_config(str(config_path(SECTIONS.get(challenge, challenge))))
    seconds, figures = {}, []
    for place in sorted(pairs.iterdir()):
        truth, prediction = (str(place / f"{side}.nii.gz") for side in SIDES)
        started = time.perf_counter()
        figures.append(evaluate_single_exam(prediction, truth, place.name, evaluator))
        seconds[place.name] = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        whole, table = Path(folder, "whole.json"), Path(folder, "table.csv")
        whole.write_text(json.dumps({"metrics": figures, "missings": []}))
        how = "mets" if challenge == "met" else "seg"
        tool = Path(sys.executable).with_name("brats-parse-metrics")
        command = [tool, how, "--json_path", whole, "--output_csv_path", table]
        subprocess.run(command, check=True, capture_output=True)
        with table.open() as file:
            rows = {row.pop("subject_id"): _by_region(row) for row in csv.DictReader(file)}
    return {name: {"figures": rows[name], "seconds": of} for name, of in seconds.items()}


def _by_region(row: dict[str, str]) -> dict[str, dict[str, str]]:
    """{region: {figure: value}} of a row of the table, whose columns are FIGURE_REGION."""
    found = {}
    for column, value in row.items():
        name, _, region = column.rpartition("_")
        found.setdefault(region, {})[name] = value
    return found


def of_2024(pairs: Path, challenge: str, code: Path) -> dict[str, dict]:
    import numpy as np

    np.Inf = np.inf  # gone from NumPy 2, and the code says it
    sys.path.insert(0, str(code))
    name = challenge.upper()
    module = importlib.import_module(f"metrics_{name.replace('-', '_')}")
    found = {}
    for place in sorted(pairs.iterdir()):
        files = {side: (place / f"{side}.nii.gz").resolve() for side in SIDES}
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            started = time.perf_counter()
            table, _ = module.get_LesionWiseResults(
                str(files["prediction"]), str(files["truth"]), f"BraTS-{name}"
            )
            seconds = time.perf_counter() - started
        rows = table.set_index("Labels").astype(float).to_dict("index")
        found[place.name] = {"figures": rows, "seconds": seconds}
    return found


def main() -> None:
    year, pairs = sys.argv[1], Path(sys.argv[2])
    warnings.filterwarnings("ignore")
    found = {}
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        for folder in sorted(pairs.iterdir()):
            if year == "2026":
                found[folder.name] = of_2026(folder, folder.name)
            else:
                found[folder.name] = of_2024(folder, folder.name, Path(sys.argv[3]).resolve())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
