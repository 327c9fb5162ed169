"""A MONAI bundle adopted and run by jobs.segment gives the voxels of `monai.bundle run`."""

import nibabel as nib
import numpy as np
import pytest

from bts.phantom.case import write_case
from jobs import adopt, segment
from tests import bundles
from tests.bundles import FINISH, PREPARE, step

SPACED = {
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            PREPARE[0],
            step("EnsureChannelFirstd", "image"),
            step("Orientationd", "image", axcodes="RAS"),
            step("Spacingd", "image", pixdim=[1.25, 1, 1], mode="bilinear"),
            PREPARE[1],
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer", "roi_size": [40, 40, 48], "sw_batch_size": 2, "overlap": 0.25,
        "mode": "gaussian",
    },
    "postprocessing": {"_target_": "Compose", "transforms": FINISH},
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    for index in range(2):
        for key, data in write_case(5, index, (48, 56, 40)).items():
            (folder / key).parent.mkdir(exist_ok=True)
            (folder / key).write_bytes(data)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("changes", [{}, SPACED], ids=["as in the zoo", "oriented and spaced"])
def test_voxels_are_those_of_monai_bundle_run(cases, tmp_path, monkeypatch, changes):
    monkeypatch.chdir(tmp_path)
    names = sorted(path.name for path in cases.iterdir())
    bundle = bundles.write_bundle(tmp_path / "bundle", **changes)
    theirs = bundles.run_monai(bundle, cases, names)
    adopt.main(adopt.Settings(source=str(bundle), models=str(tmp_path / "models"), name="zoo"))
    model = str(tmp_path / "models" / "zoo.safetensors")
    where = {"cases": str(cases), "labelmaps": str(tmp_path / "labelmaps"), "model": (model,)}
    outcome = segment.main(segment.Settings(**where, labels="brats2021", ray="no", gpu="no"))
    assert not outcome.failed and outcome.counts["written"] == 2
    for name in names:
        ours, expected = (
            nib.load(path) for path in (tmp_path / "labelmaps" / f"{name}.nii.gz", theirs[name])
        )
        expected_values = np.asanyarray(expected.dataobj)
        assert set(np.unique(expected_values)) == {0, 1, 2, 4}, (
            "the comparison shows something of every label"
        )
        np.testing.assert_array_equal(np.asanyarray(ours.dataobj), expected_values)
        np.testing.assert_allclose(ours.affine, expected.affine, atol=1e-5)
