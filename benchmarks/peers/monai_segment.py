"""MONAI: load, orient, normalise, SliceInferer over whole slices in float32, save. CASES MODEL OUT → s/case.

The network and its weights are this project's.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SaveImaged,
)

from bts.model.file import load_model

ROLES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
PAINT = {0: 2, 1: 1, 2: 3}  # WT, TC and ET by label


def images(case: Path, modalities: tuple[str, ...]) -> list[str]:
    files = {f.name.removesuffix(".nii.gz").replace("_", "-").split("-")[-1]: str(f) for f in case.iterdir()}
    return [files.get(name) or files[ROLES[name]] for name in modalities]


def main() -> None:
    torch.set_num_threads(os.cpu_count())
    cases, out = sorted(Path(sys.argv[1]).iterdir()), sys.argv[3]
    model = load_model(Path(sys.argv[2]).read_bytes(), sys.argv[2])
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="LPS"),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    save = SaveImaged(
        "found",
        output_dir=out,
        output_postfix="",
        separate_folder=False,
        print_log=False,
        output_dtype="uint8",
    )
    after = Compose([Invertd("found", before, orig_keys="image", nearest_interp=True), save])
    inferer = SliceInferer(roi_size=(240, 240), sw_batch_size=16, spatial_dim=2)
    started = time.perf_counter()
    for case in cases:
        item = before({"image": images(case, model.preset.modalities)})
        with torch.inference_mode():  # rows are y here, and x in MONAI
            logits = inferer(item["image"].as_tensor().permute(0, 2, 1, 3)[None], model.network)[0]
        labels = torch.zeros(logits.shape[1:])
        for channel, label in PAINT.items():
            labels[logits[channel] > 0] = label
        item["found"] = MetaTensor(labels.permute(1, 0, 2)[None], meta=item["image"].meta)
        after(item)
    print(json.dumps({"seconds": (time.perf_counter() - started) / len(cases)}))


if __name__ == "__main__":
    main()
