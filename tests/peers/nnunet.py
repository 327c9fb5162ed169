"""Run by the Python of `.venv-nnunet`: nnU-Net's own planning, a few steps of its training, its predictions.

    python tests/peers/nnunet.py train CASES WORK --name regions     a small network, of edited plans
    python tests/peers/nnunet.py predict CASES MODEL=OUTPUT …        by trained folders, one process for all

CASES: folder of BraTS-like cases. Trained folders lie in WORK/results/Dataset001_NAME/.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

WIDTH = 4  # filters of the finest level
MODALITIES = {"t1n": "T1", "t1c": "T1Gd", "t2w": "T2", "t2f": "FLAIR"}
LABELS = {
    "labels": {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3},
    "regions": {
        "background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": 3,
    },
}  # fmt: skip


def lay(cases: Path, raw: Path, name: str) -> list[str]:
    """The cases as nnU-Net wants them in raw data; their names."""
    folder = raw / f"Dataset001_{name}"
    names = sorted(case.name for case in cases.iterdir() if case.is_dir() and not case.name.startswith("_"))
    for place in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / place).mkdir(parents=True)
    for case in names:
        for channel, modality in enumerate(MODALITIES):
            for place in ("imagesTr", "imagesTs"):
                source = cases / case / f"{case}-{modality}.nii.gz"
                shutil.copy(source, folder / place / f"{case}_{channel:04d}.nii.gz")
        shutil.copy(cases / case / f"{case}-seg.nii.gz", folder / "labelsTr" / f"{case}.nii.gz")
    described = {
        "channel_names": {str(n): name for n, name in enumerate(MODALITIES.values())},
        "labels": LABELS[name],
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    if name == "regions":
        described["regions_class_order"] = [2, 1, 3]
    (folder / "dataset.json").write_text(json.dumps(described))
    return names


def plan(work: Path, name: str, configurations: list[str], planner: str) -> str:
    """nnU-Net's own plans, with fewer filters; the preprocessed cases. Returns the plans' name."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess

    extractor = DatasetFingerprintExtractor(1, num_processes=1)
    # Its 100 million draws of each image's intensities, of cases with 60,000 voxels, take a minute.
    extractor.num_foreground_voxels_for_intensitystats = 1e5
    extractor.run(overwrite_existing=True)
    plans = plan_experiments([1], planner)
    plans = plans if isinstance(plans, str) else "nnUNetPlans"
    file = work / "preprocessed" / f"Dataset001_{name}" / f"{plans}.json"
    found = json.loads(file.read_text())
    for one in configurations:
        kwargs = found["configurations"][one]["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [
            min(f, WIDTH * 2**n) for n, f in enumerate(kwargs["features_per_stage"])
        ]
    file.write_text(json.dumps(found))
    preprocess([1], plans, configurations, num_processes=[1] * len(configurations))
    return plans


def train(name: str, configuration: str, plans: str, folds: int) -> None:
    """A few steps of each fold, by nnU-Net's own trainer."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    for fold in range(folds):
        trainer = get_trainer_from_args(
            f"Dataset001_{name}", configuration, fold, "nnUNetTrainer", plans, device=torch.device("cpu")
        )
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 4, 1
        trainer.run_training()


def predict(cases: Path, pairs: list[str]) -> None:
    """Labelmaps of the cases by each trained folder, by the functions that nnUNetv2_predict calls."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    for model, output in (pair.split("=") for pair in pairs):
        channels = json.loads((Path(model) / "dataset.json").read_text())["channel_names"]
        names = {"T1": "t1n", "T1ce": "t1c", "T2": "t2w", "FLAIR": "t2f"}
        found = sorted(case for case in cases.iterdir() if case.is_dir())
        inputs = [[str(case / f"{case.name}-{names[c]}.nii.gz") for c in channels.values()] for case in found]
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(model, None)
        predictor.predict_from_files_sequential(inputs, [str(Path(output) / case.name) for case in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("train", "predict"))
    parser.add_argument("cases", type=Path)
    parser.add_argument("rest", nargs="+")
    parser.add_argument("--name", choices=LABELS, default="regions")
    parser.add_argument("--configurations", nargs="+", default=["2d", "3d_fullres"])
    parser.add_argument("--planner", default="ExperimentPlanner")
    parser.add_argument("--folds", type=int, default=1)
    given = parser.parse_args()
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    work = Path(given.rest[0])
    for variable in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{variable}"] = str(work / variable)
    if given.what == "predict":
        return predict(given.cases, given.rest)
    for variable in ("raw", "preprocessed", "results"):
        (work / variable).mkdir(parents=True, exist_ok=True)
    lay(given.cases, work / "raw", given.name)
    plans = plan(work, given.name, given.configurations, given.planner)
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # with none, planning fails
    for configuration in given.configurations:
        train(given.name, configuration, plans, given.folds)


if __name__ == "__main__":
    main()
