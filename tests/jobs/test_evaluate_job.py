"""jobs.evaluate as a user meets it: a folder of labelmaps in, scores, a page and a run report out."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bts.labels import CAVITY, REGIONS
from bts.scoring import tables
from bts.scoring.metrics import DISTANCES, LESIONS, METRICS, measure
from bts.storage import Store
from jobs import evaluate
from jobs.driver.outcome import guarded
from tests.builders import affine, case_files, nifti, put_all, voxels

pytestmark = pytest.mark.slow
SHAPE = (40, 48, 24)  # x, y, z
RAS = affine("RAS")
PERFECT, SHIFTED, ASKEW, MISSING, EMPTY = (f"BraTS-GLI-{n:05}-000" for n in range(5))
TRUTH = voxels(shape=SHAPE)[1]
MOVED = np.roll(TRUTH, 2, axis=1)


def run(capsys, *folders: Store, **flags) -> tuple[int, str, dict]:
    """(exit code, standard output and error, run report) of the job on labelmaps, cases and report."""
    uris = dict(zip(("labelmaps", "cases", "report"), (f.uri for f in folders), strict=True))
    settings = evaluate.Settings(**uris, ray="no", **flags)
    code = guarded("evaluate", lambda: evaluate.main(settings))
    said = capsys.readouterr()
    summary = json.loads(said.out.splitlines()[-1]) if code in (0, 3) else {}
    details = json.loads(folders[-1].read(summary["report"])) if "report" in summary else {}
    return code, said.out + said.err, details


def parquet(report: Store) -> list[dict]:
    return pq.read_table(pa.BufferReader(report.read("scores.parquet"))).to_pylist()


def folders(root: str) -> list[Store]:
    return [Store(f"{root}/{name}") for name in ("labelmaps", "cases", "report")]


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> list[Store]:
    """Five cases, one of them with its images, and labelmaps for four; one labelmap is nobody's."""
    labelmaps, cases, report = folders(str(tmp_path_factory.mktemp("five")))
    put_all(cases, case_files(PERFECT, matrix=RAS, shape=SHAPE))
    for case in (SHIFTED, ASKEW, MISSING, EMPTY):
        cases.put(f"{case}/{case}-seg.nii.gz", nifti(TRUTH * (case != EMPTY), RAS))
    labelmaps.put(f"{PERFECT}.nii.gz", nifti(TRUTH, RAS))
    labelmaps.put(f"{SHIFTED}-seg.nii.gz", nifti(MOVED.astype(np.float32), RAS))
    labelmaps.put(f"{ASKEW}.nii", nifti(TRUTH[:-1], RAS, compress=False))
    labelmaps.put(f"{EMPTY}.nii.gz", nifti(MOVED, RAS))
    labelmaps.put("Nobody.nii.gz", nifti(TRUTH, RAS))
    return [labelmaps, cases, report]


@pytest.fixture(scope="module")
def reported(five) -> Store:
    """The report of the five."""
    evaluate.main(evaluate.Settings(*(folder.uri for folder in five), ray="no"))
    return five[-1]


def test_scores_report_and_failures(five, capsys):
    code, said, details = run(capsys, *five)
    assert code == 3
    assert {k: details[k] for k in ("cases", "scored", "failed", "without_labelmap", "without_truth")} == {
        "cases": 4, "scored": 3, "failed": 1, "without_labelmap": 1, "without_truth": 1,
    }  # fmt: skip
    assert details["cases_without_labelmap"] == [MISSING] and MISSING in said
    assert details["labelmaps_without_truth"] == ["Nobody.nii.gz"] and "Nobody.nii.gz" in said
    (failure,) = details["failed_cases"]
    assert (failure["case_id"], failure["stage"], failure["file"]) == (ASKEW, "grid", f"{ASKEW}.nii")

    rows = parquet(five[-1])
    assert list(rows[0]) == ["case_id", "group", "dataset", "region", "metric", "value"]
    keys = [(r["case_id"], r["region"], r["metric"]) for r in rows]
    assert keys == sorted(keys) and len(keys) == 3 * 3 * len(METRICS + DISTANCES + LESIONS)
    values = {key: r["value"] for key, r in zip(keys, rows, strict=True)}
    for case, truth, prediction in (
        (PERFECT, TRUTH, TRUTH),
        (SHIFTED, TRUTH, MOVED),
        (EMPTY, TRUTH * 0, MOVED),
    ):
        scores = measure(truth, prediction, REGIONS, CAVITY, spacing=(1.0, 1.0, 1.0))
        expected = {(case, r, m): v for r, of in scores.items() for m, v in of.items()}
        assert {key: value for key, value in values.items() if key[0] == case} == pytest.approx(expected)
    assert 0 < values[SHIFTED, "WT", "dice"] < 1
    median = values[SHIFTED, "WT", "dice"]
    assert f"{'WT':8}{(1 + median) / 3:10.4f}{median:10.4f}{3:7}" in said and "index.html" in said


def test_labelmaps_of_nnunet_are_in_the_labels_of_its_dataset_json(tmp_path, capsys):
    labelmaps, cases, report = folders(str(tmp_path))
    cases.put(f"{PERFECT}/{PERFECT}-seg.nii.gz", nifti(TRUTH, RAS))
    labelmaps.put(f"{PERFECT}.nii.gz", nifti(np.array([0, 2, 1, 3], np.uint8)[TRUTH], RAS))
    names = {"background": 0, "edema": 1, "necrosis": 2, "enhancing tumor": 3}
    labelmaps.put("dataset.json", json.dumps({"labels": names}).encode())
    _, _, details = run(capsys, labelmaps, cases, report, patients="BraTS-*-0*")
    assert details["dice"] == {"WT": 1, "TC": 1, "ET": 1}
    assert tables.read(report.read("scores.parquet"), "scores")[0].patient == "BraTS-GLI"
    labelmaps.put("dataset.json", json.dumps({"labels": {"background": 0, "a": 1}}).encode())
    code, said, _ = run(capsys, labelmaps, cases, report)
    assert code == 2 and "dataset.json: names labels that are not known" in said


def test_a_ground_truth_is_not_scored_against_itself(tmp_path, capsys):
    together, _, report = folders(str(tmp_path))
    together.put(f"{PERFECT}-seg.nii.gz", nifti(TRUTH, RAS))
    code, said, _ = run(capsys, together, together, report)
    assert code == 2 and "nothing to score" in said
    together.put(f"{PERFECT}.nii.gz", nifti(MOVED, RAS))
    _, _, details = run(capsys, together, together, report)
    assert details["scored"] == 1 and 0 < details["dice"]["WT"] < 1


def test_nor_against_another_ground_truth_beside_it(tmp_path, capsys):
    """UCSF's metastases have two in each folder; the second is named as MONAI names labelmaps."""
    together, _, report = folders(str(tmp_path))
    for end in ("_BraTS-seg", "_seg"):
        together.put(f"{PERFECT}/{PERFECT}{end}.nii.gz", nifti(TRUTH, RAS))
    code, said, _ = run(capsys, together, together, report, roles=("seg=*_BraTS-seg.nii.gz",))
    assert code == 2 and "nothing to score" in said


def test_other_folders_are_scored_beside_and_drawn(five, tmp_path, capsys):
    other = Store(str(tmp_path / "vnet"))
    other.put(f"{PERFECT}.nii.gz", nifti(MOVED, RAS))
    other.put(f"{ASKEW}.nii.gz", nifti(TRUTH[:-1], RAS))
    code, said, _ = run(capsys, *five, against=(other.uri,))
    assert code == 3 and "vnet failed at grid: " in said
    assert "labelmaps against vnet" in said and "mean rank" not in said
    found = {e.key for e in five[-1].list() if e.key.startswith("comparison")}
    pictures = {"comparison.png", f"comparison-{PERFECT}.png"}
    assert found == {"comparison.csv", *pictures}
    assert all(five[-1].read(key).startswith(b"\x89PNG") for key in pictures)
    same = Store(str(tmp_path / "again" / "labelmaps"))
    code, said, _ = run(capsys, *five, against=(same.uri,))
    assert code == 2 and "two folders have the same name" in said


def test_a_report_keeps_nothing_of_the_one_before_it(tmp_path, capsys):
    labelmaps, cases, output = where = folders(str(tmp_path))
    for case in (PERFECT, SHIFTED):
        cases.put(f"{case}/{case}-seg.nii.gz", nifti(TRUTH, RAS))
        labelmaps.put(f"{case}.nii.gz", nifti(TRUTH, RAS))
    other = Store(str(tmp_path / "other"))
    other.put(f"{PERFECT}.nii.gz", nifti(MOVED, RAS))
    run(capsys, *where, against=(other.uri,))
    output.put("mine.png", b"of the reader")
    before = output.keys()
    labelmaps.put(f"{SHIFTED}.nii.gz", b"rubbish")
    run(capsys, *where)
    gone = {key for key in before - output.keys() if not key.startswith("_")}
    assert gone == {"comparison.csv", "comparison.png", f"cases/{SHIFTED}.html"}


def test_cases_that_wait_for_review_are_told_from_those_without_a_labelmap(tmp_path, capsys):
    labelmaps, cases, output = where = folders(str(tmp_path))
    for case in (PERFECT, SHIFTED, MISSING):
        cases.put(f"{case}/{case}-seg.nii.gz", nifti(TRUTH, RAS))
    labelmaps.put(f"{PERFECT}.nii.gz", nifti(TRUTH, RAS))
    labelmaps.put(f"_held/{SHIFTED}.nii.gz", nifti(MOVED, RAS))
    _, said, details = run(capsys, *where)
    assert details["without_labelmap"] == 2 and details["cases_without_labelmap"] == [SHIFTED, MISSING]
    assert f"1 of these are held for review, and not scored: {SHIFTED}\n" in said
    html = output.read("index.html").decode()
    assert f"1 of these are held for review; not scored</summary>\n<p><code>{SHIFTED}</code>" in html


def test_folders_are_compared_case_by_case_and_ranked(tmp_path, capsys):
    """Eight cases, perfect here; b moved all, c two of them."""
    labelmaps, cases, output = where = folders(str(tmp_path))
    names = [f"BraTS-GLI-{n:05}-000" for n in range(8)]
    b, c = Store(str(tmp_path / "b")), Store(str(tmp_path / "c"))
    for n, case in enumerate(names):
        cases.put(f"{case}/{case}-seg.nii.gz", nifti(TRUTH, RAS))
        labelmaps.put(f"{case}.nii.gz", nifti(TRUTH, RAS))
        b.put(f"{case}.nii.gz", nifti(MOVED, RAS))
        c.put(f"{case}.nii.gz", nifti(MOVED if n < 2 else TRUTH, RAS))
    code, said, _ = run(capsys, *where, against=(b.uri, c.uri))
    assert code == 0
    table = list(csv.DictReader(io.StringIO(output.read("comparison.csv").decode())))
    of = {(r["against"], r["region"], r["metric"], r["statistic"]): r["value"] for r in table}
    lost = 1 - measure(TRUTH, MOVED, REGIONS, CAVITY, spacing=(1.0, 1.0, 1.0))["WT"]["dice"]
    assert float(of["b", "WT", "dice", "difference"]) == pytest.approx(lost)
    assert float(of["c", "WT", "dice", "difference"]) == pytest.approx(lost / 4)
    assert float(of["b", "WT", "dice", "p"]) == pytest.approx(2 / 2**8)
    assert (of["c", "WT", "hd95", "better"], of["c", "WT", "hd95", "worse"]) == ("2", "0")
    ranks = {r["folder"]: float(r["value"]) for r in table if r["statistic"] == "mean_rank"}
    # Of four cases in four: these and c share the first two ranks in six, b and c the last two in two.
    assert ranks == {"labelmaps": (6 * 1.5 + 2) / 8, "c": (6 * 1.5 + 2 * 2.5) / 8, "b": (6 * 3 + 2 * 2.5) / 8}
    assert "mean rank, 1 is the best: labelmaps 1.38, c 1.75, b 2.88" in said
    html = output.read("index.html").decode()
    assert "Against b" in html and "Against c" in html and "0.0078" in html and "<h2>Ranking" in html


def test_brats_csv_lies_beside(reported):
    rows = {row["Label"]: row for row in csv.DictReader(io.StringIO(reported.read("brats.csv").decode()))}
    assert list(rows)[:3] == sorted((PERFECT, SHIFTED, EMPTY)) and list(rows)[3:5] == ["Mean", "StdDev"]
    assert float(rows[PERFECT]["Dice_ET"]) == 1 and float(rows[EMPTY]["Hausdorff95_WT"]) == 374
    assert float(rows["Mean"]["Dice_WT"]) == pytest.approx(
        np.mean([r["value"] for r in parquet(reported) if (r["region"], r["metric"]) == ("WT", "dice")])
    )


def test_scores_name_the_model_and_a_refusing_tracker_changes_nothing(tmp_path, capsys, monkeypatch):
    labelmaps, cases, output = where = folders(str(tmp_path))
    cases.put(f"{PERFECT}/{PERFECT}-seg.nii.gz", nifti(TRUTH, RAS))
    labelmaps.put(f"{PERFECT}.nii.gz", nifti(TRUTH, RAS))
    marker = {"labels": "brats2023", "models": [{"digest": "0123456789ab"}], "options": {"flips": True}}
    marker["flags"] = ["doubt: 0.6 ml that may enhance are called necrosis"]
    marker["expected_dice"] = {"WT": 0.615, "TC": "rubbish"}
    labelmaps.put(f"_done/{PERFECT}.0123456789ab.json", json.dumps(marker).encode())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, said, _ = run(capsys, *where)
    assert code == 0 and "not logged" not in said and not (tmp_path / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, said, _ = run(capsys, *where)  # the second run reads the scores, and their maker, that it has
    (line,) = [line for line in said.splitlines() if "not logged" in line]
    assert code == 0 and line.startswith(
        "the scores are written, but not logged: MLflow at http://127.0.0.1:9"
    )
    (one,) = tables.read(output.read("scores.parquet"), "scores")
    assert (one.maker, one.patient) == ("0123456789ab flips", "BraTS-GLI-00000")
    assert one.expected == {"WT": 0.615}
    assert "0.615" in output.read(f"cases/{PERFECT}.html").decode()
    assert one.flags == marker["flags"] and marker["flags"][0] in output.read("index.html").decode()
    assert one.truth_ml["WT"] == pytest.approx((TRUTH > 0).sum() / 1000)


def test_csv_says_what_parquet_says(reported):
    table = list(csv.DictReader(io.StringIO(reported.read("scores.csv").decode())))
    assert [{**row, "value": float(row["value"])} for row in table] == parquet(reported)


def test_page_shows_best_median_and_worst(reported):
    html = reported.read("index.html").decode()
    for title, case in (("Best", PERFECT), ("Median", SHIFTED), ("Worst", EMPTY)):
        assert f'{title} case: <a href="cases/{case}.html">{case}</a>' in html
    assert "HD95, mm" in html and "Lesions found" in html
    assert html.count("data:image/png;base64,") == 4 + 2 + 2, "images and labels; labels alone; labels alone"
    assert html.count("data:image/gif;base64,") == 1, "a head turns where the images are there"
    assert html.count("data:image/jpeg;base64,") == 3, "the worst cases, small"
    assert reported.read("montage.png").startswith(b"\x89PNG")


def test_each_case_has_a_page(five, tmp_path, capsys):
    labelmaps, cases, _ = five
    output = Store(str(tmp_path / "report"))
    run(capsys, labelmaps, cases, output)
    pages = {e.key: output.read(e.key).decode() for e in output.list("cases")}
    assert set(pages) == {f"cases/{case}.html" for case in (PERFECT, SHIFTED, EMPTY)}
    html = output.read("index.html").decode()
    assert all(f'href="{key}"' in html for key in pages)
    sound, bare = pages[f"cases/{PERFECT}.html"], pages[f"cases/{SHIFTED}.html"]
    assert (sound.count("data:image/jpeg"), bare.count("data:image/jpeg")) == (3 * 4, 3 * 2)
    assert f"{labelmaps.uri}/{PERFECT}.nii.gz" in sound and "40×48×24 voxels of 1×1×1 mm, RAS" in sound
    assert "<script" not in sound and "Volume of the ground truth, ml" in sound
    assert "WT whole tumour, TC tumour core" in sound and "HD95: 95th percentile" in sound
    assert '<th scope="row" class="name">Lesions found</th><td>1</td>' in sound, "lesions are counted"
    assert "(counted from 0), with the most tumour; R is the patient" in sound

    output.delete(f"cases/{PERFECT}.html")
    _, said, _ = run(capsys, labelmaps, cases, output, dry_run=True)
    assert f"{PERFECT}\tno page" in said
    run(capsys, labelmaps, cases, output)
    assert output.read(f"cases/{PERFECT}.html").decode() == sound
    run(capsys, labelmaps, cases, output, colours="colour-blind")
    assert output.read(f"cases/{PERFECT}.html").decode() != sound
    assert "colour-blind colours" in output.read("index.html").decode()
    assert ASKEW in html and "shape and affine" in html and MISSING in html


def test_max_failed(five, capsys):
    assert run(capsys, *five, max_failed="1")[0] == 0
    assert run(capsys, *five, max_failed="5%")[0] == 3


def test_again_computes_only_what_changed_and_a_dry_run_says_so(tmp_path, capsys):
    labelmaps, cases, report = where = folders(str(tmp_path))
    for case in (PERFECT, SHIFTED, EMPTY):
        cases.put(f"{case}/{case}-seg.nii.gz", nifti(TRUTH, RAS))
        labelmaps.put(f"{case}.nii.gz", nifti(TRUTH, RAS))
    _, said, details = run(capsys, *where, dry_run=True)
    assert said.count("\tnew\n") == 3 and not details and report.list() == []
    run(capsys, *where)
    before = parquet(report)
    _, said, _ = run(capsys, *where)
    assert "nothing to compute" in said and parquet(report) == before
    labelmaps.put(f"{SHIFTED}.nii.gz", nifti(MOVED, RAS))
    _, said, _ = run(capsys, *where, dry_run=True)
    assert [line for line in said.splitlines() if "\t" in line] == [f"{SHIFTED}\tchanged"]
    _, said, details = run(capsys, *where)
    assert "1/1 cases" in said and 0 < details["dice"]["WT"] < 1
    assert len(report.list("_scores")) == 1


def test_scores_name_the_rules_and_are_not_kept_for_others(tmp_path, capsys):
    """Two of eight voxels apart: false in 2023, and of no account to the mean in 2026."""
    labelmaps, cases, report = where = folders(str(tmp_path))
    crumb = TRUTH.copy()
    crumb[30:32, 40:42, 18:20] = 3
    later = "BraTS-GLI-00007-101"  # after treatment: the set of 2024
    for case in (PERFECT, later):
        cases.put(f"{case}/{case}-seg.nii.gz", nifti(TRUTH, RAS))
        labelmaps.put(f"{case}.nii.gz", nifti(crumb, RAS))
    found = {}
    for rules in ("auto", "2023", "2026"):
        _, said, details = run(capsys, *where, rules=rules)
        values = {(r["case_id"], r["metric"]): r["value"] for r in parquet(report) if r["region"] == "ET"}
        found[rules] = [values.get((case, "lesion_dice")) for case in (PERFECT, later)]
        years = details["rules"]
        assert f"rules of BraTS {' and '.join(years)}" in said
        assert f"rules of BraTS {' and '.join(years)}" in report.read("index.html").decode()
        assert [one.rules for one in tables.load(report.uri)] == [years[0], years[-1]]
        assert f"BraTS {years[-1]}" in report.read(f"cases/{later}.html").decode()
    assert found == {"auto": [0.5, 1], "2023": [0.5, 0.5], "2026": [1, 1]}
    _, said, _ = run(capsys, *where, rules="2026")
    assert "nothing to compute" in said


def test_a_bucket_a_marker_and_a_formula(bucket, capsys):
    labelmaps, cases, report = folders(bucket.uri)
    case = "=1+1"
    cases.put(f"{case}/{case}_seg.nii.gz", nifti(TRUTH))
    labelmaps.put(f"{case}.nii.gz", nifti(np.array([0, 2, 1, 3], np.uint8)[TRUTH]))
    labelmaps.put(f"_done/{case}.0123456789ab.json", b'{"labels": "msd"}')
    code, said, details = run(capsys, labelmaps, cases, report, labels="brats2023")
    assert code == 0 and details["dice"] == {"WT": 1, "TC": 1, "ET": 1}, said
    assert parquet(report)[0]["case_id"] == case
    assert report.read("scores.csv").decode().splitlines()[1].startswith("'=1+1,")
    assert 'Only case: <a href="cases/%3D1%2B1.html">=1+1</a>' in report.read("index.html").decode()


def test_all_failed_is_still_a_report(tmp_path, capsys):
    labelmaps, cases, report = folders(str(tmp_path))
    cases.put(f"{PERFECT}/{PERFECT}-seg.nii.gz", nifti(TRUTH))
    labelmaps.put(f"{PERFECT}.nii.gz", b"")
    code, _, details = run(capsys, labelmaps, cases, report)
    assert code == 3 and details["failed_cases"][0]["stage"] == "read" and parquet(report) == []
    assert PERFECT in report.read("index.html").decode()


def test_nothing_to_score_is_a_mistake(tmp_path, capsys):
    labelmaps, cases, report = folders(str(tmp_path))
    cases.put(f"{PERFECT}/{PERFECT}-seg.nii.gz", nifti(TRUTH))
    labelmaps.put("other.nii.gz", nifti(TRUTH))
    code, said, _ = run(capsys, labelmaps, cases, report)
    assert code == 2 and "nothing to score" in said and report.list() == []
    labelmaps.put(f"{PERFECT}.nii.gz", nifti(TRUTH))
    code, said, _ = run(capsys, labelmaps, cases, report, against=(f"{tmp_path}/nowhere",))
    assert code == 2 and "nowhere: no labelmap there is named after a case" in said and report.list() == []


def test_the_command(run_job, five, tmp_path):
    labelmaps, cases, _ = five
    done = run_job("evaluate", "--labelmaps", labelmaps.uri, "--cases", cases.uri, "--report", tmp_path / "r")
    assert done.code == 3 and done.summary["scored"] == 3, done.stderr
    assert (tmp_path / "r/index.html").exists() and (tmp_path / "r" / done.summary["report"]).exists()
