"""figshare's numbered slices through segment and evaluate: patients, masks, markers, scores by type."""

import io
import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from bts.cases import figshare
from bts.cases.layouts import find_cases
from bts.errors import CaseError, UsageError
from bts.images.nifti import read_nifti
from bts.model.file import save_model
from bts.model.nets import build
from bts.results.files import encode
from bts.results.layout import held, result_keys, whole
from bts.results.match import Pair, read_pair
from bts.scoring.metrics import METRICS
from bts.settings import Budget, Layers, Loss, Normalisation, Preset
from bts.storage import Entry, Store
from jobs import evaluate, segment
from jobs.driver.listing import set_unfit_aside
from jobs.driver.outcome import Outcome
from tests.builders import case_files, nifti, put_all

MENINGIOMA, GLIOMA = "figshare-100101", "figshare-MR7"
SLICES = {3: ("100101", 1), 10: ("100101", 1), 2: ("MR7", 2), 5: ("MR7B", 2)}  # number: (patient's, type)
BRATS = "BraTS-SSA-00001-000"
SIZE = (40, 36)  # rows, columns
BRAIN = (slice(4, 38), slice(3, 30))
TUMOUR = (slice(10, 20), slice(8, 14))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def mat(pid: str, tumour: int) -> bytes:
    """A file like the set's, MATLAB v7.3, written column by column."""
    image, mask = np.zeros(SIZE, np.int16), np.zeros(SIZE, np.uint8)
    image[BRAIN] = np.random.default_rng(tumour).integers(1, 900, image[BRAIN].shape)
    mask[TUMOUR] = 1
    file = io.BytesIO()
    with h5py.File(file, "w") as out:
        out["cjdata/image"], out["cjdata/tumorMask"] = image.T, mask.T
        out["cjdata/label"] = np.array([[float(tumour)]])
        out["cjdata/PID"] = np.array([[ord(letter)] for letter in pid], np.uint16)
    return file.getvalue()


def write_slices(cases: Store) -> None:
    for number, (pid, tumour) in SLICES.items():
        cases.put(f"some/{number}.mat", mat(pid, tumour))


def write_model(path, targets: str, found: int) -> str:
    """A network that finds the target `found` everywhere in the crop."""
    preset = Preset(
        name=targets, targets=targets, modalities=("t1ce",), resize=(32, 32), size=(32, 32),
        layers=Layers(widths=(4, 8)), normalisation=Normalisation(kind="fixed"),
        loss=Loss(bce=1), budget=Budget(epochs=1),
    )  # fmt: skip
    network = build(preset)
    head = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.full_like(head.bias, -10))
        head.bias[found] = 10
    path.write_bytes(save_model(network, preset, {}))
    return str(path)


def folders(root) -> tuple[Store, Store, Store]:
    return Store(root / "cases"), Store(root / "labelmaps"), Store(root / "report")


def segment_all(cases: Store, model: str, out: Store, **options) -> Outcome:
    return segment.main(segment.Settings(cases.uri, out.uri, (model,), ray="no", **options))


def evaluate_all(out: Store, cases: Store, report: Store) -> Outcome:
    return evaluate.main(evaluate.Settings(labelmaps=out.uri, cases=cases.uri, report=report.uri, ray="no"))


def marker_of(out: Store, case: str) -> dict:
    (key,) = [e.key for e in out.list("_done") if e.key.startswith(f"_done/{case}.")]
    return json.loads(out.read(key))


def grey(out: Store, key: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(out.read(key))))


def rows_of(*keys: str, pid: str = "7") -> list[figshare.IndexRow]:
    return [figshare.IndexRow(key, 1, "v", 0.0, pid, 1, *SIZE) for key in keys]


@pytest.mark.parametrize(
    ("convention", "found", "values"), [("figshare", [0, 1, 2, 3], [0, 80, 160, 240]),
                                        ("figshare_tumour", [0, 1], [0, 255])]
)  # fmt: skip
def test_masks_can_be_seen_and_read_back(convention, found, values):
    (case,) = figshare.cases_of(rows_of("b/12.mat", "a/3.mat"))
    labels = np.zeros((2, *SIZE), np.uint8)
    labels[1, 0, : len(found)] = found
    _, truth = figshare.stack([figshare.Slice(np.zeros(SIZE, np.int16), labels[0], 1, "7")] * 2)
    files = encode(case, labels, truth.grid, convention, "test")
    assert list(files) == [f"{case.id}.nii.gz", f"masks/{case.id}/3.png", f"masks/{case.id}/12.png"]
    first, second = (np.asarray(Image.open(io.BytesIO(data))) for data in list(files.values())[1:])
    assert first.shape == SIZE and first.dtype == np.uint8 and not first.any()
    assert second[0, : len(found)].tolist() == values
    assert convention == "figshare_tumour" or np.array_equal(second // 80, labels[1])
    assert np.array_equal(read_nifti(files[f"{case.id}.nii.gz"], "x").voxels, labels)


def test_what_is_moved_out_of_review_piece_by_piece_stays_done():
    (case,) = figshare.cases_of(rows_of("12.mat", "3.mat"))
    keys = result_keys(case)
    for moved in range(len(keys) + 1):
        there = {*keys[:moved], *map(held, keys[moved:])}
        assert whole(case, there)
        assert not whole(case, there - {keys[0], held(keys[0])})


def test_a_slice_that_is_there_twice_is_refused_by_name():
    cases = figshare.cases_of(rows_of("a/1.mat", "b/1.mat", "2.mat") + rows_of("c/1.mat", pid="8"))
    sound, (problem,) = figshare.refuse_twins(cases)
    assert [case.id for case in sound] == ["figshare-8"]
    assert problem.case == "figshare-7" and "a/1.mat, b/1.mat" in str(problem) and "2.mat" not in str(problem)


def test_a_tool_that_seems_to_tell_no_types_is_said(tmp_path, capsys):
    """Its 1 means tumour; here 1 is meningioma, and gliomas would be scored as mistaken without a word."""
    cases, out, report = folders(tmp_path)
    write_slices(cases)
    mask = np.zeros(SIZE, np.uint8)
    mask[TUMOUR] = 1
    out.put(f"{GLIOMA}.nii.gz", nifti(np.stack([mask.T] * 2, axis=-1), LPS))
    evaluate_all(out, cases, report)
    assert f"other types meningioma, which is 1 there: {GLIOMA}; if the" in capsys.readouterr().err


@pytest.mark.parametrize("for_figshare", [True, False])
def test_a_model_takes_what_it_is_for(tmp_path, capsys, for_figshare):
    keys = ["1.mat", "2.mat", f"{BRATS}/{BRATS}-t1c.nii.gz", "x..y_t1.nii.gz"]
    listing = find_cases(Entry(key, 1, "v") for key in keys)
    unfit = set_unfit_aside(listing, for_figshare, Store(tmp_path), "--model M")
    assert unfit == ([BRATS, "'x..y'"] if for_figshare else ["1.mat", "2.mat"])
    assert len(listing.slices) == 2 * for_figshare
    assert len(listing.cases) == len(listing.problems) == (not for_figshare)
    other = "NIfTI cases" if for_figshare else "figshare slices"
    assert f"{other} not segmented: 2 ({unfit[0]}, {unfit[1]})" in capsys.readouterr().err


def test_models_that_fit_nothing_and_models_that_differ(tmp_path):
    cases, out, _ = folders(tmp_path)
    tumour, types = (write_model(tmp_path / t, t, 0) for t in ("tumour", "tumour_types"))
    put_all(cases, case_files(BRATS))
    with pytest.raises(UsageError, match=r"tumour \(targets tumour\) is for figshare.* only NIfTI cases"):
        segment_all(cases, tumour, out)
    both = segment.Settings(cases.uri, out.uri, (tumour, types))
    with pytest.raises(UsageError, match=r"different targets: tumour \(sigmoid\), tumour_types \(sigmoid\)"):
        segment.main(both)
    assert out.list() == []


def test_a_broken_slice_is_not_hidden_by_nothing_to_score(tmp_path):
    cases, out, report = folders(tmp_path)
    cases.put("9.mat", b"rubbish")
    out.put(f"{GLIOMA}.nii.gz", b"")
    done = evaluate_all(out, cases, report)
    assert done.exit_code == 3 and [(f.case_id, f.stage) for f in done.failed] == [("9.mat", "index")]


@pytest.mark.slow
def test_scores_of_another_tool_s_labelmaps(tmp_path, capsys):
    """Without a marker they are in the set's own convention, types and all."""
    cases, out, report = folders(tmp_path)
    write_slices(cases)
    cases.put("9.mat", b"rubbish")
    truth = np.zeros((2, *SIZE), np.uint8)
    truth[(slice(None), *TUMOUR)] = 1
    out.put(f"{GLIOMA}.nii.gz", nifti(truth.T * np.uint8(3), LPS))  # the right place, the wrong type
    out.put(f"{MENINGIOMA}.nii.gz", nifti(truth.T, LPS))
    done = evaluate_all(out, cases, report)
    assert done.counts["dice"] == {"tumour": 1, "meningioma": 1, "glioma": 0, "pituitary": 0}
    assert [(f.case_id, f.stage) for f in done.failed] == [("9.mat", "index")]
    rows = report.read("scores.csv").decode().splitlines()[1:]
    assert len(rows) == (2 + 3) * len(METRICS) and f"{GLIOMA},glioma,figshare,tumour,dice,1.0" in rows
    assert "\ntumour         1.0000    1.0000      2   0.0000 " in capsys.readouterr().out
    html = report.read("index.html").decode()
    assert "By tumour grade or type" in html and "T1ce" in html and "slice 3," in html
    assert "whole tumour" not in html and "R is the patient" not in html
    page = report.read(f"cases/{MENINGIOMA}.html").decode()
    assert "Slice 3, with the most tumour" in page, "by its number in the set, as on the report"
    assert "36×40×2 pixels and slices, of no known size" in page and " mm" not in page and "LPS" not in page


@pytest.mark.parametrize(
    ("labels", "matrix", "stage", "says"),
    [(1, np.eye(4), "grid", "RAS.*affine diag"), (4, LPS, "labels", "labels 4 are not of")],
)
def test_a_labelmap_that_cannot_be_scored_says_why(tmp_path, labels, matrix, stage, says):
    cases, out, _ = folders(tmp_path)
    cases.put("1.mat", mat("7", 1))
    row = figshare.read_index_row(cases.read("1.mat"), cases.list()[0])
    (case,) = figshare.cases_of([row])
    out.put(f"{case.id}.nii.gz", nifti(np.full((1, *SIZE), labels, np.uint8).T, matrix))
    with pytest.raises(CaseError, match=says) as caught:
        read_pair(Pair(case, f"{case.id}.nii.gz"), cases, out)
    assert (caught.value.case, caught.value.stage) == (case.id, stage)


@pytest.mark.slow
def test_segment_and_evaluate_any_tumour(tmp_path, capsys):
    cases, out, report = folders(tmp_path)
    model = write_model(tmp_path / "model", "tumour", 0)
    write_slices(cases)
    put_all(cases, case_files(BRATS))
    cases.put("some/9.mat", b"rubbish")
    done = segment_all(cases, model, out)
    assert (done.exit_code, done.counts["cases"], done.counts["written"]) == (3, 3, 2)
    assert (done.counts["unchanged"], done.counts["unfit"], done.counts["flagged"]) == (0, 1, 0)
    assert [(f.case_id, f.stage) for f in done.failed] == [("some/9.mat", "index")]
    assert done.details["unfit_cases"] == [BRATS] and BRATS in capsys.readouterr().err

    mask = np.zeros(SIZE, np.uint8)
    mask[BRAIN] = 1
    for case, numbers in ((MENINGIOMA, (3, 10)), (GLIOMA, (2, 5))):
        found = read_nifti(out.read(f"{case}.nii.gz"), case).voxels
        assert np.array_equal(found, np.stack([mask] * 2))
        assert all(np.array_equal(grey(out, f"masks/{case}/{n}.png"), mask * 255) for n in numbers)
    marker = marker_of(out, GLIOMA)
    assert (marker["labels"], marker["tumour_px"]) == ("figshare_tumour", {"total": 2 * int(mask.sum())})
    assert list(marker["inputs"]) == ["some/2.mat", "some/5.mat"] and "volumes_ml" not in marker

    cases.delete("some/9.mat")
    again = segment_all(cases, model, out)
    assert (again.exit_code, again.counts["written"], again.counts["unchanged"]) == (0, 0, 2)
    assert len(out.list("_index")) == 1
    out.delete(f"masks/{GLIOMA}/5.png")
    cases.delete("some/10.mat")
    assert segment_all(cases, model, out, labels="msd").counts["written"] == 2
    masks = [e.key for e in out.list("masks")]
    assert masks == [f"masks/{MENINGIOMA}/3.png", f"masks/{GLIOMA}/2.png", f"masks/{GLIOMA}/5.png"]

    scored = evaluate_all(out, cases, report)
    dice = 2 * 60 / (60 + mask.sum())
    assert scored.exit_code == 0 and scored.counts["without_labelmap"] == 1, "the BraTS case"
    assert scored.counts["dice"] == {"tumour": pytest.approx(dice, abs=1e-4)}
    assert f"{GLIOMA},glioma,figshare,tumour,sensitivity,1.0" in report.read("scores.csv").decode()


@pytest.mark.slow
def test_tumour_types_of_real_patients(real_data, tmp_path):
    cases, out, report = folders(tmp_path)
    (tmp_path / "cases").mkdir()
    for number in (20, 1987, 1990, 1993):  # a meningioma; three slices of a glioma
        shutil.copy(real_data / "figshare" / f"{number}.mat", tmp_path / "cases")
    done = segment_all(cases, write_model(tmp_path / "model", "tumour_types", 1), out)
    assert (done.exit_code, done.counts["written"]) == (0, 2)
    marker = marker_of(out, "figshare-MR026175")
    pixels = marker["tumour_px"]
    assert marker["labels"] == "figshare" and pixels["glioma"] == pixels["total"] > 0
    mask = grey(out, "masks/figshare-MR026175/1987.png")
    assert mask.shape == (512, 512) and set(np.unique(mask)) <= {0, 160} and mask.any()
    scored = evaluate_all(out, cases, report)
    assert scored.exit_code == 0 and list(scored.counts["dice"]) == ["tumour", "meningioma", "glioma"]
    assert scored.counts["dice"]["meningioma"] == 0 and 0 < scored.counts["dice"]["glioma"] < 1
    assert "slice 1990, the one of this patient with most tumour" in report.read("index.html").decode()
