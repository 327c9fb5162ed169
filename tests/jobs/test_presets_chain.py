"""The five published systems, each trained, used and scored on real cases by the jobs' own commands.

Their layers, losses and sampling as they are; for a CPU the networks are thin, and the cases cut small around
the tumour. tests/unit/training/test_systems.py counts the parameters of the networks as published.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tyro

from bts.cases.figshare import patient_of, read_slice
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.storage import Store
from jobs import evaluate, preprocess, segment, train
from jobs.driver.outcome import guarded
from tests import builders

SMALL = ("--budget.epochs", 1, "--budget.minutes", 0.01)
WIDTHS = "--layers.widths"
SYSTEMS = {
    "unet2d": ("--size", 48, 48, "--frame", 48, 48, "--batch", 2, WIDTHS, 8, 16, 32, 64, 128),
    "resunet2d": ("--size", 32, 32, "--frame", 48, 48, WIDTHS, 8, 16, 32, 64),
    "unet3d": ("--size", 16, 48, 48, "--sampling.least-tumour", 0, WIDTHS, 4, 8, 16, 32, 64),
    "figshare2d": ("--batch", 4, WIDTHS, 8, 16, 32, 64, 64),
    "figshare3d": ("--size", 16, 64, 64, "--resize", 64, 64, WIDTHS, 4, 8, 16, 32, 64),
}
BOX = (16, 48, 48)  # slices, rows, columns kept of a real case
PATIENTS = 5  # one held out in each fold


@pytest.fixture(scope="module")
def brats(real_data, tmp_path_factory) -> Path:
    """Real cases in files of their own, cut to a box around the tumour."""
    source, folder = Store(str(real_data / "brats")), tmp_path_factory.mktemp("brats")
    listing = find_cases(source.list())
    for case in [c for c in listing.cases if c.id.startswith("BraTS2021")][:PATIENTS]:
        volume = load_case(case, source)
        starts = [
            int(np.clip(np.median(axis) - side // 2, 0, n - side))
            for axis, side, n in zip(np.nonzero(volume.mask), BOX, volume.mask.shape, strict=True)
        ]
        box = tuple(slice(start, start + side) for start, side in zip(starts, BOX, strict=True))
        truth = np.where(volume.mask == 3, 4, volume.mask).astype(np.uint8)
        for role, voxels in (*zip(volume.modalities, volume.images, strict=True), ("seg", truth)):
            data = builders.nifti(np.ascontiguousarray(voxels[box].T))
            path = folder / case.id / f"{case.id}_{role}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def figshare(real_data, tmp_path_factory) -> Path:
    """Three slices each of some patients, of every tumour type."""
    folder, patients = tmp_path_factory.mktemp("figshare"), {}
    for path in sorted((real_data / "figshare").glob("[0-9]*.mat")):
        pid = read_slice(path.read_bytes(), path.name).pid
        patients.setdefault(patient_of(pid), []).append(path)
    for paths in list(patients.values())[::3][:PATIENTS]:
        for path in paths[:3]:
            (folder / path.name).symlink_to(path)
    return folder


def command(module):
    """A job's command line → its exit code, in this process."""
    name = module.__name__.removeprefix("jobs.")
    return lambda flags: guarded(name, lambda: module.main(tyro.cli(module.Settings, args=flags)))


JOBS = {"train": train.cli, **{m.__name__[5:]: command(m) for m in (preprocess, segment, evaluate)}}


def run(job: str, flags: list, capsys) -> dict:
    """A job in this process → its last line."""
    capsys.readouterr()
    code = JOBS[job]([str(flag) for flag in flags])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """One folder for all systems: with one MLflow, and shards that several learn from."""
    return tmp_path_factory.mktemp("place")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_trains_segments_and_is_scored(name, request, place, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(place)
    kind = "figshare" if name.startswith("figshare") else "brats"
    cases, shards, labelmaps = request.getfixturevalue(kind), f"{kind}-shards", Path(f"{name}-labelmaps")
    run("preprocess", ["--cases", cases, "--shards", shards, "--ray", "no"], capsys)
    flags = [name, "--shards", shards, "--models", "models", "--ray", "no", *SMALL, *SYSTEMS[name]]
    trained = run("train", flags, capsys)
    assert trained["epochs"] == 1 and trained["dice"]

    pictures = {path.name for path in Path("models/_pictures", name).iterdir()}
    assert {"curves.png", "classes.png"} < pictures and len(pictures) > 2
    if name == "figshare2d":
        assert "thresholds.png" in pictures
    if name == "figshare3d":
        assert any(picture.endswith(".gif") for picture in pictures)

    where = ["--cases", cases, "--labelmaps", labelmaps, "--ray", "no"]
    done = run("segment", [*where, "--model", trained["model"]], capsys)
    assert done["written"] == done["cases"] >= PATIENTS
    for path in labelmaps.glob("*.nii.gz"):
        values = set(np.unique(np.asarray(nib.load(path).dataobj)))
        assert values <= ({0, 1, 2, 3} if kind == "figshare" else {0, 1, 2, 4})
    scored = run("evaluate", [*where, "--report", f"{name}-report"], capsys)
    assert scored["scored"] == scored["cases"] == done["cases"]
    assert set(scored["dice"]) >= ({"tumour"} if kind == "figshare" else {"WT", "TC", "ET"})
