"""brainles-preprocessing by hand, on a CPU: four NIfTI files → brains in BraTS's space.

STUDY OUT WEIGHTS. Registration by ANTs, its default. Weights of HD-BET, which it would fetch, are taken from
WEIGHTS. Prints JSON: seconds of the steps.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import torch

# HD-BET's file is older than torch's refusal of pickled NumPy scalars.
_load = torch.load
torch.load = lambda *args, **more: _load(*args, **{"weights_only": False, **more})

import brainles_hd_bet  # noqa: E402
from brainles_preprocessing.brain_extraction.brain_extractor import HDBetExtractor  # noqa: E402
from brainles_preprocessing.modality import CenterModality, Modality  # noqa: E402
from brainles_preprocessing.preprocessor import Preprocessor  # noqa: E402
from brainles_preprocessing.registration import ANTsRegistrator  # noqa: E402


class Fast(HDBetExtractor):
    """One network without mirroring, as HD-BET advises for a CPU."""

    def extract(self, *args, **more) -> None:
        super().extract(*args, **{**more, "mode": "fast", "device": "cpu", "do_tta": False})


def main() -> None:
    study, out, weights = map(Path, sys.argv[1:4])
    out.mkdir(parents=True, exist_ok=True)
    theirs = Path(brainles_hd_bet.__file__).with_name("model_weights")
    theirs.mkdir(exist_ok=True)
    shutil.copy(weights, theirs / "0.model")
    files = {role: study / f"{role}.nii.gz" for role in ("t1ce", "t1", "t2", "flair")}
    centre = CenterModality(
        "t1ce",
        files.pop("t1ce"),
        raw_bet_output_path=out / "t1ce.nii.gz",
        bet_mask_output_path=out / "mask.nii.gz",
    )
    moving = [
        Modality(role, file, raw_bet_output_path=out / f"{role}.nii.gz") for role, file in files.items()
    ]
    started = time.perf_counter()
    steps = Preprocessor(centre, moving, registrator=ANTsRegistrator(), brain_extractor=Fast(), use_gpu=False)
    steps.run(log_file=out / "log.txt")
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
