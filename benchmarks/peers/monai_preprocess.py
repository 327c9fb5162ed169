"""MONAI: load, orient, crop, normalise, save, by a DataLoader with a worker a core. CASES OUT → s a case."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from monai.data import DataLoader, Dataset
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
)


def items(cases: Path) -> list[dict]:
    found = []
    for case in sorted(cases.iterdir()):
        files = sorted(map(str, case.iterdir()))
        truth = next(f for f in files if "seg" in Path(f).name)
        found.append({"image": [f for f in files if f != truth], "label": truth, "name": case.name})
    return found


class Save:
    def __init__(self, out: Path):
        self.out = out

    def __call__(self, item: dict) -> int:
        np.save(self.out / f"{item['name']}.npy", item["image"].numpy())
        np.save(self.out / f"{item['name']}-seg.npy", item["label"].numpy().astype(np.uint8))
        return 0


def main() -> None:
    cases, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    keys = ["image", "label"]
    chain = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="LPS"),
            CropForegroundd(keys, source_key="image", allow_smaller=True),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            Save(out),
        ]
    )
    work = items(cases)
    started = time.perf_counter()
    for _ in DataLoader(Dataset(work, chain), batch_size=1, num_workers=os.cpu_count()):
        pass
    print(json.dumps({"seconds": (time.perf_counter() - started) / len(work)}))


if __name__ == "__main__":
    main()
