"""What a model gets when the input is not as in its training. `python -m benchmarks.accuracy.robust CASES`

CASES: folder of cases that the model has not seen; --model FILE, else the bundled model. Each condition
changes every image of every case, and the table says the mean Dice and how many cases got which flag.
"""

import argparse
import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from bts.cases.case import Case, CaseVolume
from bts.cases.crop import assemble
from bts.cases.layouts import find_cases
from bts.cases.read import fetch
from bts.images.nifti import read_nifti
from bts.inference.segmenter import Segmenter
from bts.labels import REGIONS
from bts.modalities import MODALITIES
from bts.model.file import BOX, load_model
from bts.scoring import metrics
from bts.storage import Store
from bts.training.augment import smooth_field

Image = nib.Nifti1Image


def noisy(image: Image, rng: np.random.Generator) -> Image:
    """Gaussian noise of a fifth of the brain's standard deviation, in the brain."""
    voxels = image.get_fdata(dtype=np.float32)
    brain = voxels != 0
    voxels[brain] += rng.normal(0, 0.2 * voxels[brain].std(), int(brain.sum()))
    return Image(voxels, image.affine)


def shaded(image: Image, rng: np.random.Generator) -> Image:
    """A smooth field of 1 ± 0.4, as a coil's."""
    voxels = image.get_fdata(dtype=np.float32)
    field = smooth_field((1,), voxels.shape, torch.Generator().manual_seed(int(rng.integers(1 << 31))))
    return Image(voxels * (1 + 0.4 * field[0].numpy()), image.affine)


def coarse(image: Image, rng: np.random.Generator) -> Image:
    """Every second pixel: 2 mm in-plane."""
    return image.slicer[::2, ::2]


def thick(image: Image, rng: np.random.Generator) -> Image:
    """Every third slice: 3 mm apart."""
    return image.slicer[:, :, ::3]


def scaled(image: Image, rng: np.random.Generator) -> Image:
    """Another scanner's units: seven times the values."""
    return Image(image.get_fdata(dtype=np.float32) * 7, image.affine)


def unstripped(image: Image, rng: np.random.Generator) -> Image:
    """The skull left on, as drawn: 8 mm of dark bone and fluid around the brain, 6 mm of bright scalp."""
    voxels = image.get_fdata(dtype=np.float32)
    middle, bright = np.percentile(voxels[voxels != 0], (50, 99))
    away = distance_transform_edt(voxels == 0, sampling=image.header.get_zooms())
    shells = np.select([away > 14, away > 8, away > 0], [0, bright, 0.2 * middle], default=1)
    uneven = rng.normal(1, 0.1, voxels.shape).clip(0.5)
    return Image(np.where(away > 0, shells * uneven, voxels).astype(np.float32), image.affine)


CONDITIONS: dict[str, tuple[Callable | None, str]] = {
    "as it is": (None, ""),
    **{f"without {modality}": (None, modality) for modality in MODALITIES},
    "noise, 0.2 of the brain's deviation": (noisy, ""),
    "bias field, ± 40 %": (shaded, ""),
    "slices 3 mm apart": (thick, ""),
    "pixels of 2 mm": (coarse, ""),
    "seven times the values": (scaled, ""),
    "skull and scalp around the brain": (unstripped, ""),
}


OF_THE_GRID = (coarse, thick)  # these change the truth too


def read(case: Case, store: Store, change: Callable | None, missing: str) -> CaseVolume:
    """The case as a condition has it."""
    volumes = {}
    for seed, role in enumerate([*MODALITIES, "seg"]):
        data = fetch(case.files[role].key, store)
        if change and (role != "seg" or change in OF_THE_GRID):
            image = change(Image.from_bytes(gzip.decompress(data)), np.random.default_rng(seed))
            data = image.to_bytes()
        volumes[role] = read_nifti(data, case.files[role].key)
    seg = volumes.pop("seg")
    return assemble(case, {role: volume for role, volume in volumes.items() if role != missing}, seg)


def judge(segmenter: Segmenter, volume: CaseVolume) -> tuple[dict[str, float], set[str]]:
    """(Dice by region, kinds of flags), as jobs.segment and jobs.evaluate would have them."""
    seen = segmenter.seen(volume)
    labels, found, _ = segmenter.finish(seen, segmenter.predict(seen, seen.brain))
    scores = metrics.score(seen.mask, labels)
    return {r: scores[r]["dice"] for r in REGIONS}, {flag.partition(":")[0] for flag in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases")
    parser.add_argument("--model", type=Path, nargs="+", default=BOX)
    given = parser.parse_args()
    models = [load_model(file.read_bytes(), str(file)) for file in given.model]
    segmenter = Segmenter(models, allow_missing=MODALITIES)
    store = Store(given.cases)
    cases = [case for case in find_cases(store.list()).cases if "seg" in case.files]
    print(f"| {len(cases)} cases | {' | '.join(REGIONS)} | flagged |\n|---|---|---|---|---|")
    for name, (change, missing) in CONDITIONS.items():
        found = [judge(segmenter, read(case, store, change, missing)) for case in cases]
        means = (f"{np.mean([dice[region] for dice, _ in found]):.3f}" for region in REGIONS)
        kinds = Counter(kind for _, kinds in found for kind in kinds)
        flagged = ", ".join(f"{kind} {kinds[kind]}" for kind in sorted(kinds))
        print(f"| {name} | {' | '.join(means)} | {flagged} |", flush=True)


if __name__ == "__main__":
    main()
