"""`import bts` in a notebook: one case read, segmented and scored, as the jobs do it."""

import gzip
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

import bts
from bts.errors import CaseError, UsageError
from bts.model.file import save_model
from bts.model.nets import build
from bts.presets import PRESETS
from bts.settings import Layers
from bts.storage import Store
from jobs import evaluate, segment
from tests import builders
from tests.conftest import ROOT

CASE = "BraTS2021_00007"


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("cases")))
    names = {"names": builders.NAMES_2021, "enhancing": 4}
    builders.put_all(store, builders.case_files(CASE, matrix=builders.affine("RAS"), **names))
    builders.put_all(store, builders.case_files("BraTS2021_00008", seed=8, **names))
    return store


def test_import_loads_nothing_heavy():
    code = "import sys, bts; sys.exit(len({'numpy', 'torch', 'ray', 'nibabel'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert {"segment", "read_case", "open_model", "score", "__version__"} <= set(dir(bts))
    with pytest.raises(AttributeError, match="nothing_such"):
        bts.nothing_such  # noqa: B018


@pytest.mark.slow
def test_using_it_starts_and_imports_no_ray():
    code = "import sys, bts; bts.segment, bts.open_model(); sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.fixture(scope="module")
def by_the_jobs(cases, model, tmp_path_factory):
    """Folders of labelmaps and report, by the jobs."""
    here = tmp_path_factory.mktemp("jobs")
    done = segment.main(segment.Settings(cases.uri, str(here / "labelmaps"), (model,), ray="no"))
    assert done.counts["written"] == 2
    evaluate.main(evaluate.Settings(str(here / "labelmaps"), cases.uri, str(here / "report"), ray="no"))
    return here


@pytest.mark.slow
def test_segment_gives_the_very_labelmap_of_the_job(cases, model, by_the_jobs):
    data = gzip.decompress((by_the_jobs / "labelmaps" / f"{CASE}.nii.gz").read_bytes())
    opened = bts.open_model(model)
    assert bts.segment(f"{cases.uri}/{CASE}", model).to_bytes() == data
    assert bts.segment(cases.uri, opened, case=CASE).to_bytes() == data
    volume = bts.read_case(cases.uri, case=CASE, truth=False)
    assert volume.mask is None
    assert bts.segment(volume, opened).to_bytes() == data
    files = {role: f"{cases.uri}/{CASE}/{CASE}_{role}.nii.gz" for role in ("t1", "t1ce", "t2", "flair")}
    assert bts.segment(files, [model], case=CASE).to_bytes() == data


def test_a_labelmap_of_nifti_2_is_of_nifti_2(model, tmp_path):
    """nibabel's class of NIfTI-1 takes no header of NIfTI-2."""
    (tmp_path / "A").mkdir()
    for role, voxels in builders.voxels()[0].items():
        nib.save(nib.Nifti2Image(voxels, builders.affine("RAS")), tmp_path / "A" / f"A_{role}.nii.gz")
    found = bts.segment(tmp_path, model)
    assert type(found) is nib.Nifti2Image and found.shape == (20, 24, 12)
    assert np.allclose(found.affine, builders.affine("RAS")) and found.get_data_dtype() == np.uint8


def test_what_segment_cannot_take_is_refused(cases, model):
    place = f"{cases.uri}/{CASE}"
    files = {role: f"{place}/{CASE}_{role}.nii.gz" for role in ("t1", "t1ce", "t2", "flair")}
    with pytest.raises(UsageError, match="the list is empty"):  # it was the bundled model without a word
        bts.segment(place, [])
    with pytest.raises(UsageError, match="a value for each of NCR, ED and ET"):
        bts.segment(place, model, labels="menrt")
    for wrong in ("t2", ["T2"]):
        with pytest.raises(UsageError, match=r"allow_missing=.*give a list of t1, t1ce, t2, flair"):
            bts.open_model(model, allow_missing=wrong)
    with pytest.raises(UsageError, match="device='gpu': torch cannot compute there; give 'cpu', or 'cuda'"):
        bts.open_model(model, device="gpu")
    with pytest.raises(UsageError, match="t2 is no path; save the image"):
        bts.segment({**files, "t2": nib.load(files["t2"])}, model)
    with pytest.raises(UsageError, match=r"a Nifti1Image is no case; .*by role"):
        bts.segment(nib.load(files["t2"]), model)
    with pytest.raises(UsageError, match=r"is a file; .*by role"):
        bts.segment(files["t2"], model)


def test_a_model_for_figshare_segments_no_other_case(cases, tmp_path):
    """jobs.segment refuses it, too: its labels would be those of another kind of tumour."""
    preset = replace(PRESETS["figshare2d"], size=(64, 64), layers=Layers(widths=(4, 8)))
    (tmp_path / "m").write_bytes(save_model(build(preset), preset, {}))
    with pytest.raises(UsageError, match=f"targets tumour. is for figshare slices; {CASE} is none of them"):
        bts.segment(cases.uri, tmp_path / "m", case=CASE)


@pytest.mark.slow
def test_score_gives_the_scores_of_the_job(cases, by_the_jobs):
    truth = f"{cases.uri}/{CASE}/{CASE}_seg.nii.gz"
    labelmap = by_the_jobs / "labelmaps" / f"{CASE}.nii.gz"
    table = pq.read_table(by_the_jobs / "report" / "scores.parquet").to_pylist()
    of_the_job: dict = {}
    for row in table:
        if row["case_id"] == CASE:
            of_the_job.setdefault(row["region"], {})[row["metric"]] = row["value"]
    assert bts.score(truth, labelmap) == of_the_job
    assert bts.score(nib.load(truth), nib.load(labelmap)) == of_the_job


def test_score_knows_a_perfect_labelmap_and_another_convention(cases):
    truth = f"{cases.uri}/{CASE}/{CASE}_seg.nii.gz"
    assert bts.score(truth, truth)["ET"]["dice"] == 1
    image = nib.load(truth)
    unnamed = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    with pytest.raises(CaseError, match="convention brats2023"):
        bts.score(unnamed, unnamed)
    assert bts.score(unnamed, unnamed, labels="brats2021")["ET"]["dice"] == 1


def test_score_guesses_no_labels_of_a_set_whose_releases_differ(cases, tmp_path):
    """Since 2024 an enhancing tumour of BraTS-PED is 1; as necrosis it would be scored without a word."""
    truth = tmp_path / "BraTS-PED-00001-000-seg.nii.gz"
    truth.write_bytes(Store(cases.uri).read(f"{CASE}/{CASE}_seg.nii.gz"))
    with pytest.raises(UsageError, match="labels='ped2023' or 'ped2024'"):
        bts.score(truth, truth)
    assert bts.score(truth, truth, labels="ped2024")["ET"]["dice"] == 1


def test_score_refuses_another_grid(cases):
    one, other = (f"{cases.uri}/{c}/{c}_seg.nii.gz" for c in (CASE, "BraTS2021_00008"))
    with pytest.raises(CaseError, match=r"BraTS2021_00008_seg.nii.gz: its grid .* resample"):
        bts.score(one, other)


def test_what_score_cannot_take_is_refused(cases):
    truth = f"{cases.uri}/{CASE}/{CASE}_seg.nii.gz"
    with pytest.raises(UsageError, match=r"prediction: a ndarray has no grid; give a path or a nibabel"):
        bts.score(truth, np.asarray(nib.load(truth).dataobj))
    with pytest.raises(UsageError, match=r"rules=2023: give 'auto', '2023', '2024', '2026'"):
        bts.score(truth, truth, rules=2023)


def test_read_case_reads_the_truth_of_files_anywhere(cases, tmp_path):
    files = {}
    for role in ("t1", "t1ce", "t2", "flair", "seg"):
        files[role] = tmp_path / role / f"{role}-of-somebody.nii.gz"
        files[role].parent.mkdir()
        files[role].write_bytes(Store(cases.uri).read(f"{CASE}/{CASE}_{role}.nii.gz"))
    found, same = bts.read_case(files, labels="brats2021"), bts.read_case(cases.uri, case=CASE)
    assert found.case_id == "case" and found.modalities == same.modalities
    assert np.array_equal(found.mask, same.mask) and np.array_equal(found.images, same.images)


def test_what_is_meant_must_be_one_case(cases, tmp_path):
    with pytest.raises(UsageError, match=r"2 cases .*case="):
        bts.read_case(cases.uri)
    with pytest.raises(UsageError, match=r"no case found.*folder above"):
        bts.read_case(tmp_path)
    with pytest.raises(UsageError, match="adc is no role"):
        bts.read_case({"adc": "somewhere.nii.gz"})
    with pytest.raises(CaseError, match=r"t1ce.*missing"):
        bts.read_case({"t1": f"{cases.uri}/{CASE}/{CASE}_t1.nii.gz"})


def test_a_patient_of_figshare(real_data):
    volume = bts.read_case(real_data / "figshare", case=_first_patient(real_data))
    assert volume.modalities == ("t1ce",) and volume.mask.any()


def _first_patient(real_data) -> str:
    with pytest.raises(UsageError) as found:
        bts.read_case(real_data / "figshare")
    return str(found.value).partition("(")[2].split(",")[0]
