"""nnU-Net trained on all cases but those held out, for a time, then used on these. CASES PLACE OUT … → steps.

Its own planning, preprocessing, network, loss (of BraTS's regions, as its authors' entries), augmentation,
optimiser and sliding window; the polynomial schedule runs over the minutes instead of over 250,000 steps.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import torch
from nnunet_preprocess import DATASET, make_dataset, set_folders, timed

# Written over one another in this order, the regions give the labels 2, 1 and 3.
REGIONS = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": 3}
ORDER = [2, 1, 3]


def prepare(cases: Path, place: Path, configuration: str) -> None:
    """Its dataset, fingerprint, plans and preprocessed cases."""
    raw, done = place / "raw" / DATASET, place / f"{configuration}.done"
    if done.exists():
        return
    if not (place / "fingerprint.done").exists():
        shutil.rmtree(raw, ignore_errors=True)
        make_dataset(cases, raw)
        about = json.loads((raw / "dataset.json").read_text())
        about |= {"labels": REGIONS, "regions_class_order": ORDER}
        (raw / "dataset.json").write_text(json.dumps(about))
        timed("nnUNetv2_extract_fingerprint", "-d", "1", "-np", str(os.cpu_count()))
        timed("nnUNetv2_plan_experiment", "-d", "1")
        (place / "fingerprint.done").touch()
    timed("nnUNetv2_preprocess", "-d", "1", "-c", configuration, "-np", str(os.cpu_count()))
    done.touch()


def train(trainer, held_out: list[str], seconds: float) -> tuple[int, str]:
    """nnU-Net's steps until the time is over, kept every minute → (steps, checkpoint)."""
    every = trainer.preprocessed_dataset_folder_base + "/gt_segmentations"
    others = sorted({path.name[: -len(".nii.gz")] for path in Path(every).iterdir()} - set(held_out))
    trainer.do_split = lambda: (others, held_out)
    checkpoint = Path(trainer.output_folder, "checkpoint_latest.pth")
    clock = checkpoint.with_suffix(".json")
    steps, spent = json.loads(clock.read_text()) if clock.exists() else (0, 0.0)
    if spent >= seconds:
        return steps, checkpoint.name
    if steps:
        trainer.load_checkpoint(str(checkpoint))
    trainer.on_train_start()
    trainer.network.train()
    saved, began = spent, time.monotonic() - spent
    while spent < seconds:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - spent / seconds) ** 0.9
        trainer.train_step(next(trainer.dataloader_train))
        steps, spent = steps + 1, time.monotonic() - began
        if spent - saved > 60 or spent >= seconds:
            trainer.save_checkpoint(str(checkpoint))
            clock.write_text(json.dumps([steps, spent]))
            saved = spent
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        getattr(loader, "_finish", lambda: None)()
    return steps, checkpoint.name


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("cases", "place", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--configuration", required=True)
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--batch", type=int, help="patches a step (its plan's)")
    parser.add_argument("--held-out", nargs="+", required=True)
    parser.add_argument("--flips", action="store_true")
    given = parser.parse_args()
    set_folders(given.place)
    os.environ.setdefault("nnUNet_n_proc_DA", str(os.cpu_count()))
    prepare(given.cases, given.place, given.configuration)

    # Not before the folders are known: it reads them when imported.
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = get_trainer_from_args("1", given.configuration, given.fold, device=device)
    if given.batch:
        trainer.configuration_manager.configuration["batch_size"] = given.batch
    trainer.initialize()
    steps, checkpoint = train(trainer, given.held_out, given.minutes * 60)
    predictor = nnUNetPredictor(use_mirroring=given.flips, device=device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (given.fold,), checkpoint)
    raw = given.place / "raw" / DATASET / "imagesTr"
    images = [[str(raw / f"{case}_{n:04d}.nii.gz") for n in range(4)] for case in given.held_out]
    given.output.mkdir(parents=True, exist_ok=True)
    outputs = [str(given.output / case) for case in given.held_out]
    predictor.predict_from_files_sequential(images, outputs, save_probabilities=False, overwrite=False)
    print(json.dumps({"steps": steps}))


if __name__ == "__main__":
    main()
