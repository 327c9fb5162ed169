"""Adopted nnU-Nets beside nnU-Net itself, in its own environment: `make .venv-nnunet/installed`.

Labelmaps are to be equal, voxel by voxel, on the CPU.
"""

import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bts.phantom.case import write_case
from bts.storage import Store
from jobs import adopt, segment
from tests import builders, nnunet_folders
from tests.conftest import ROOT

PYTHON = ROOT / ".venv-nnunet" / "bin" / "python"
AS_THEIRS = "1=ED,2=NCR,3=ET"  # of nnunet_folders
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-nnunet: make .venv-nnunet/installed"),
]
# name of the configuration, how the folder is written
MODELS = {
    "labels in 2D, mirrored": ("2d", {"mirror": (0, 1)}),
    "regions in 3D, residual, two folds, mirrored": (
        "3d_fullres",
        {"regions": True, "family": "residual", "folds": 2, "mirror": (0, 1, 2)},
    ),
    "low resolution, reoriented, transposed": (
        "3d_lowres",
        {
            "mirror": (1,),
            "plan": {
                "spacing": [1.7, 1.4, 1.3], "image_reader_writer": "NibabelIOWithReorient",
                "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0],
            },
        },
    ),
    "another spacing in 2D, residual, every normalisation": (
        "2d",
        {
            "regions": True, "family": "residual",
            "plan": {
                "spacing": [0.8, 1.2], "use_mask_for_norm": [False, False, False, True],
                "normalization_schemes": [
                    "ZScoreNormalization", "CTNormalization", "RescaleTo01Normalization", "NoNormalization",
                ],
            },
        },
    ),
    "thick slices resampled by torch": (
        "3d_fullres",
        {
            "plan": {
                "resampling_fn_data": "resample_torch_fornnunet", "spacing": [2.0, 1.2, 0.9],
                "resampling_fn_data_kwargs": {"is_seg": False, "force_separate_z": None},
                "resampling_fn_probabilities": "resample_torch_fornnunet",
                "resampling_fn_probabilities_kwargs": {"is_seg": False, "force_separate_z": None},
            }
        },
    ),
}  # fmt: skip
# codes and mm along x, y, z of each case's files
STORED = {"BraTS-GLI-00001-000": ("LPS", (1, 1, 1)), "BraTS-GLI-00002-000": ("RAS", (0.9, 1.1, 3.5)),
          "BraTS-GLI-00003-000": ("PSR", (1.2, 1, 0.8))}  # fmt: skip


def peer(*words: object) -> None:
    """One command of nnU-Net's environment."""
    done = subprocess.run(
        [str(PYTHON), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def ours(model: Path, cases: Path, output: Path, labels: str) -> None:
    """Adopt a trained folder, and segment with it."""
    models = output.parent / "models"
    adopt.main(adopt.Settings(source=str(model), models=str(models), name=output.name))
    found = segment.main(
        segment.Settings(
            cases=str(cases),
            model=(str(models / f"{output.name}.safetensors"),),
            labelmaps=str(output),
            labels=labels,
            ray="no",
            gpu="no",
        )
    )
    assert not found.failed


def assert_equal(output: Path, theirs: Path) -> None:
    """Every labelmap, and they are not all of one label."""
    values = set()
    for path in sorted(theirs.glob("*.nii.gz")):
        expected, found = (np.asanyarray(nib.load(one).dataobj) for one in (path, output / path.name))
        assert np.array_equal(found, expected), f"{path.name}: {(found != expected).sum()} voxels differ"
        values |= set(np.unique(expected).tolist())
    assert len(values) > 1, "background alone would be equal whatever was computed"


def test_random_weights_give_the_labels_of_nnunet(tmp_path, monkeypatch):
    """Noise, which leaves no two labels far apart: on other axes, at other spacings."""
    monkeypatch.chdir(tmp_path)
    for number, (case, (codes, zooms)) in enumerate(STORED.items()):
        matrix = builders.affine(codes, zooms)
        files = builders.case_files(case, seed=number, matrix=matrix, truth=False, shape=(36, 32, 24))
        builders.put_all(Store(tmp_path / "cases"), files)
    pairs = []
    for number, (name, how) in enumerate(MODELS.values()):
        folder = nnunet_folders.write(tmp_path / f"model{number}", name, **how)
        (tmp_path / f"theirs{number}").mkdir()
        pairs.append(f"{folder}={tmp_path / f'theirs{number}'}")
    peer(ROOT / "tests" / "peers" / "nnunet.py", "predict", tmp_path / "cases", *pairs)
    for number in range(len(MODELS)):
        output = tmp_path / f"ours{number}"
        ours(tmp_path / f"model{number}", tmp_path / "cases", output, AS_THEIRS)
        assert_equal(output, tmp_path / f"theirs{number}")


@pytest.mark.parametrize(
    ("name", "configuration", "planner"),
    [("labels", "3d_fullres", "ExperimentPlanner"), ("regions", "2d", "nnUNetPlannerResEncM")],
)
def test_what_nnunet_trained_gives_the_labels_of_nnunetv2_predict(
    tmp_path, monkeypatch, name, configuration, planner
):
    monkeypatch.chdir(tmp_path)
    for index in range(5):
        builders.put_all(Store(tmp_path / "cases"), write_case(7, index, (44, 48, 32)))
    script = ROOT / "tests" / "peers" / "nnunet.py"
    peer(script, "train", tmp_path / "cases", tmp_path, "--name", name, "--planner", planner,
         "--configurations", configuration)  # fmt: skip
    (model,) = (tmp_path / "results").glob(f"*/*__{configuration}")
    for case in sorted((tmp_path / "cases").iterdir())[2:]:
        shutil.rmtree(case)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for case in (tmp_path / "cases").iterdir():
        for path in (tmp_path / "raw").glob(f"*/imagesTs/{case.name}*"):
            shutil.copy(path, inputs)
    predict = PYTHON.parent / "nnUNetv2_predict_from_modelfolder"
    peer(predict, "-i", inputs, "-o", tmp_path / "theirs", "-m", model, "-f", 0, "-device", "cpu",
         "-npp", 1, "-nps", 1)  # fmt: skip
    ours(model, tmp_path / "cases", tmp_path / "ours", "brats2023")
    assert_equal(tmp_path / "ours", tmp_path / "theirs")
