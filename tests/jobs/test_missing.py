"""Sets that lack modalities, and images whose background is not 0: what preprocess and segment make of it."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bts.model.file import save_model
from bts.model.nets import build
from bts.settings import Budget, Layers, Loss, Preset
from bts.storage import Store
from jobs import preprocess, segment
from tests import builders

NAME = "BraTS-SSA-00001-000"


def without(*roles: str) -> dict[str, bytes]:
    names = [f"-{builders.NAMES_2023[role]}." for role in roles]
    return {k: data for k, data in builders.case_files(NAME).items() if not any(name in k for name in names)}


def pack(folder: Path, **more: object):
    return preprocess.main(preprocess.Settings(f"{folder}/cases", f"{folder}/shards", ray="no", **more))


def cut(folder: Path, model: str, labelmaps: str = "labelmaps"):
    settings = segment.Settings(f"{folder}/cases", f"{folder}/{labelmaps}", (model,), ray="no")
    return segment.main(settings)


def test_a_set_of_two_modalities_is_packed_where_that_is_asked_for(tmp_path):
    builders.put_all(Store(tmp_path / "cases"), without("t1", "t2"))
    refused = pack(tmp_path)
    assert (refused.exit_code, refused.counts["written"]) == (3, 0)
    assert "t1, t2 missing" in refused.failed[0].message and "--allow-missing t1 t2" in refused.failed[0].mend
    assert pack(tmp_path, allow_missing=("t1",)).exit_code == 3, "T2 is missing too"
    assert pack(tmp_path, allow_missing=("t1", "t2")).counts["written"] == 1
    (shard,) = (tmp_path / "shards").glob("*.parquet")
    table = pq.read_table(shard)
    there = {
        name: table[name].null_count == 0
        for name in ("t1", "t1ce", "t2", "flair")
        if name in table.column_names
    }
    assert [name for name, whole in there.items() if whole] == ["t1ce", "flair"]


@pytest.fixture
def of_two(tmp_path) -> str:
    """A model that looks at T1ce and FLAIR alone."""
    how = {"layers": Layers(widths=(4, 8)), "loss": Loss(bce=1), "budget": Budget(epochs=1)}
    preset = Preset(name="two", modalities=("t1ce", "flair"), size=(32, 32), **how)
    torch.manual_seed(1)
    path = tmp_path / "two.safetensors"
    path.write_bytes(save_model(build(preset), preset, {}))
    return str(path)


@pytest.mark.parametrize(("lacks", "written"), [(("t1", "t2"), 1), (("t1", "flair"), 0)])
def test_segment_asks_only_for_what_the_model_looks_at(tmp_path, of_two, lacks, written):
    builders.put_all(Store(tmp_path / "cases"), without(*lacks, "seg"))
    done = cut(tmp_path, of_two)
    assert done.counts["written"] == written
    assert len(done.failed) == 1 - written and all("flair missing" in one.message for one in done.failed)


def test_a_background_that_is_not_zero_changes_no_labelmap(tmp_path, model):
    """Scaled over the whole image, as DeepMedic writes it, and 100 added."""
    found = {}
    for how in ("plain", "plus 100", "z-scored"):
        images, _ = builders.voxels()
        files = builders.case_files(NAME, truth=False)
        for role, voxels in images.items():
            values = {"plus 100": voxels + np.int16(100), "z-scored": (voxels - voxels.mean()) / voxels.std()}
            key = f"{NAME}/{NAME}-{builders.NAMES_2023[role]}.nii.gz"
            files[key] = builders.nifti(values[how].astype(np.float32)) if how in values else files[key]
        builders.put_all(Store(tmp_path / how / "cases"), files)
        assert cut(tmp_path / how, model).counts["written"] == 1
        data = (tmp_path / how / "labelmaps" / f"{NAME}.nii.gz").read_bytes()
        found[how] = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(data)).dataobj)
    assert found["plain"].any()
    for how, labels in found.items():
        assert (labels != found["plain"]).mean() < 1e-3, how
