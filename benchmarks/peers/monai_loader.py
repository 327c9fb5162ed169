"""MONAI without a cache: load a case, cut random slices of it, collate. CASES → slices a second."""

import json
import sys
import time
from pathlib import Path

import torch
from monai.data import DataLoader, Dataset, list_data_collate
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropSamplesd
from monai_preprocess import items

SLICES = 88  # of a case in an epoch, as many as this project draws
BATCH = 16


def main() -> None:
    torch.set_num_threads(1)
    work, keys = items(Path(sys.argv[1])), ["image", "label"]
    chain = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            RandSpatialCropSamplesd(keys, roi_size=(160, 128, 1), num_samples=SLICES, random_size=False),
        ]
    )
    loader = DataLoader(Dataset(work, chain), batch_size=1, collate_fn=list_data_collate)
    made, started = 0, time.perf_counter()
    for slices in loader:
        for batch in slices["image"].split(BATCH):
            made += len(batch)
    print(json.dumps({"slices_per_second": made / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
