"""TorchIO's queue of random slices. CASES → slices a second."""

import json
import sys
import time
from pathlib import Path

import torch
import torchio as tio
from monai_preprocess import items

SLICES = 88  # of a case in an epoch, as many as this project draws
BATCH = 16


def main() -> None:
    torch.set_num_threads(1)
    subjects = [
        tio.Subject(image=tio.ScalarImage(path=item["image"]), label=tio.LabelMap(item["label"]))
        for item in items(Path(sys.argv[1]))
    ]
    queue = tio.Queue(
        tio.SubjectsDataset(subjects),
        max_length=4 * SLICES,
        samples_per_volume=SLICES,
        sampler=tio.data.UniformSampler((160, 128, 1)),
        num_workers=0,
    )
    made, started = 0, time.perf_counter()
    for batch in tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0):
        made += len(batch["image"][tio.DATA])
    print(json.dumps({"slices_per_second": made / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
