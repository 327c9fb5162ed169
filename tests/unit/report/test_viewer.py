"""The viewer's server, asked as its page asks; test_viewer_browser.py looks at the page itself."""

import functools
import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import psutil
import pytest

from bts.cases.layouts import find_cases
from bts.errors import UsageError
from bts.report import viewer
from bts.report.viewer import CaseIndex, Server
from bts.scoring import tables
from bts.scoring.scores import Scored
from bts.storage import Store
from jobs import view
from jobs.driver.outcome import guarded
from tests.builders import NAMES_2021, affine, case_files, nifti, put_all, voxels
from tests.conftest import ROOT

OLD, NEW, ALONE, TWICE, HELD, BAD = (
    *("BraTS2021_00001", "BraTS-SSA-00002-000", "BraTS-SSA-00003-000"),
    *("BraTS-SSA-00004-000", "BraTS-SSA-00005-000", "BraTS-SSA-00006-000"),
)
IMAGES, TRUTH = voxels()
MSD = np.array([0, 2, 1, 3], np.uint8)  # value in an MSD file of each label of the project


def write(root: str) -> tuple[Store, Store]:
    """Cases and labelmaps of three conventions and two orientations; a case without a labelmap, one with two,
    one held for review, one with a broken image."""
    cases, labelmaps = Store(f"{root}/cases"), Store(f"{root}/labelmaps")
    put_all(cases, case_files(OLD, names=NAMES_2021, enhancing=4))
    for case in (NEW, ALONE, TWICE, HELD, BAD):
        put_all(cases, case_files(case, matrix=affine("RAS"), truth=case != ALONE))
    cases.put(f"{BAD}/{BAD}-t2w.nii.gz", b"\x1f\x8b rubbish")
    ras = affine("RAS")
    labelmaps.put(f"{OLD}.nii.gz", nifti(np.where(TRUTH == 3, 4, TRUTH).astype(np.uint8)))
    labelmaps.put(f"{NEW}.nii.gz", nifti(MSD[TRUTH], ras))
    marker = {"labels": "msd", "volumes_ml": {"WT": 1.5}, "flags": ["edge: …"]}
    labelmaps.put(f"_done/{NEW}.0123456789ab.json", json.dumps(marker).encode())
    labelmaps.put(f"{TWICE}.nii.gz", nifti(TRUTH, ras))
    labelmaps.put(f"{TWICE}-seg.nii.gz", nifti(TRUTH, ras))
    labelmaps.put(f"_held/{HELD}.nii.gz", nifti(MSD[TRUTH], ras))
    labelmaps.put(f"_done/{HELD}.0123456789ab.json", json.dumps(marker).encode())
    labelmaps.put(f"{BAD}.nii.gz", nifti(TRUTH + 5, ras))
    return cases, labelmaps


@contextmanager
def served(root: str) -> Iterator[SimpleNamespace]:
    """The server over `write(root)`: get(path, headers) → its answer; `listing`: its cases by id."""
    cases, labelmaps = write(root)
    listing = find_cases(cases.list())
    with Server(CaseIndex(listing.cases, cases, labelmaps, {OLD: {"WT": 0.5}})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def get(path: str, method: str = "GET", **headers: str) -> SimpleNamespace:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return SimpleNamespace(code=answer.status, headers=answer.headers, body=answer.read())

        shown = {one["id"]: one for one in json.loads(get("/cases.json").body)["cases"]}
        yield SimpleNamespace(get=get, listing=shown, url=server.url, port=server.server_port)
        server.shutdown()


@pytest.fixture(scope="module")
def site(niivue, tmp_path_factory) -> Iterator[SimpleNamespace]:
    with served(str(tmp_path_factory.mktemp("site"))) as found:
        yield found


def canonical(xyz: np.ndarray, codes: str) -> np.ndarray:
    """Voxels of a file with these axis codes, turned to LPS+ by NumPy alone."""
    return xyz[tuple(slice(None, None, 1 if a == b else -1) for a, b in zip(codes, "LPS", strict=True))]


def test_volumes_are_canonical_and_labels_the_projects_own_in_every_convention(site):
    for case, codes in ((OLD, "LPS"), (NEW, "RAS"), (HELD, "RAS")):
        for role, expected in (("flair", IMAGES["flair"]), ("truth", TRUTH), ("prediction", TRUTH)):
            answer = site.get(f"/volumes/{case}/{role}.nii")
            image = nib.Nifti1Image.from_bytes(answer.body)
            assert answer.code == 200 and nib.aff2axcodes(image.affine) == ("L", "P", "S")
            assert np.array_equal(np.asarray(image.dataobj), canonical(expected, codes)), (case, role)
    # The same voxel lies at the same place in mm.
    source = nib.Nifti1Image(TRUTH, affine("RAS"))
    shown = nib.Nifti1Image.from_bytes(site.get(f"/volumes/{NEW}/truth.nii").body)
    assert np.allclose(source.affine @ (5, 6, 7, 1), shown.affine @ (20 - 1 - 5, 24 - 1 - 6, 7, 1))


def test_a_labelmap_of_older_files_is_not_shown_over_those_of_now(tmp_path):
    """HELD failed when it was last segmented, NEW has another FLAIR since."""
    cases, labelmaps = write(str(tmp_path))
    listing = find_cases(cases.list()).cases
    (new,) = (case for case in listing if case.id == NEW)
    inputs = {role: {"version": version} for role, version in new.versions.items()}
    about = {"labels": "msd", "cases": cases.uri, "inputs": inputs}
    labelmaps.put(f"_done/{NEW}.0123456789ab.json", json.dumps(about).encode())
    shown = CaseIndex(listing, cases, labelmaps, {}).shown
    assert all("prediction" in shown[case].roles for case in (HELD, NEW))
    labelmaps.put(f"_failed/{HELD}.0123456789ab.1.json", b"{}")
    cases.put(f"{NEW}/{NEW}-t2f.nii.gz", cases.read(f"{OLD}/{OLD}_t1.nii.gz"))
    listing = find_cases(cases.list()).cases
    shown = CaseIndex(listing, cases, labelmaps, {}).shown
    assert not any("prediction" in shown[case].roles for case in (HELD, NEW))
    assert "failed when it was last" in shown[HELD].note and "flair changed since" in shown[NEW].note


def test_the_listing_says_what_there_is(site):
    assert site.listing[OLD]["roles"] == ["t1", "t1ce", "t2", "flair", "truth", "prediction"]
    assert site.listing[OLD]["dice"] == {"WT": 0.5} and site.listing[OLD]["note"] == ""
    assert site.listing[NEW]["volumes"] == {"WT": 1.5} and site.listing[NEW]["flags"] == ["edge: …"]
    assert site.listing[ALONE]["roles"] == ["t1", "t1ce", "t2", "flair"]
    assert site.listing[ALONE]["note"] == "no labelmap: images only"
    assert "prediction" not in site.listing[TWICE]["roles"] and "2 labelmaps" in site.listing[TWICE]["note"]
    assert site.listing[HELD]["note"] == "held for review" and "prediction" in site.listing[HELD]["roles"]


def test_nothing_but_what_the_listing_knows(site):
    unknown = (
        *(
            "/volumes/nobody/t1.nii",
            f"/volumes/{OLD}/seg.nii",
            f"/volumes/{OLD}/t1",
            f"/volumes/{ALONE}/truth.nii",
        ),
        *(
            "/volumes/../cases/x.nii",
            f"/volumes/{OLD}%2F..%2F{NEW}/t1.nii",
            "/..%2f..%2fetc/passwd",
            "//etc/passwd",
        ),
        *(f"/{OLD}/{OLD}_t1.nii.gz", "/viewer.html", "/volumes/", "/niivue.js/", "/%00"),
    )
    for path in unknown:
        assert site.get(path).code == 404, path
    assert site.get("/", method="POST").code == 501


def test_bad_data_is_said_and_named(site):
    for role, words in (
        ("t2", ("gzip stream", "-t2w.nii.gz")),
        ("prediction", ("not of the convention", ".nii.gz")),
    ):
        answer = site.get(f"/volumes/{BAD}/{role}.nii")
        assert answer.code == 422 and all(word in answer.body.decode() for word in (BAD, *words))
    assert site.get(f"/volumes/{BAD}/t1.nii").code == 200


def test_headers_keep_everything_on_this_machine(site):
    for path in ("/", "/niivue.js", "/cases.json", f"/volumes/{OLD}/t1.nii", "/nothing"):
        headers = site.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "http" not in policy and "unsafe" not in policy
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    one, two = (site.get("/") for _ in range(2))
    assert b"NONCE" not in one.body and one.body != two.body
    # Another site that lets its name point at 127.0.0.1 gets nothing.
    for host in ("evil.example", f"evil.example:{site.port}", "127.0.0.1"):
        assert site.get("/cases.json", Host=host).code == 421
    assert site.get("/cases.json", Host=f"localhost:{site.port}").code == 200


def test_listens_on_loopback_and_a_taken_port_is_a_mistake(site):
    assert site.url.startswith("http://127.0.0.1:")
    empty = CaseIndex([], Store("nowhere"), Store("nowhere"), {})
    for port in (site.port, 70000):
        with pytest.raises(UsageError, match=f"--port {port}"):
            Server(empty, port)


def test_from_a_bucket(niivue, bucket):
    with served(bucket.uri) as found:
        shown = nib.Nifti1Image.from_bytes(found.get(f"/volumes/{NEW}/prediction.nii").body)
        assert np.array_equal(np.asarray(shown.dataobj), canonical(TRUTH, "RAS"))


def test_a_report_without_scores_is_a_mistake(tmp_path):
    for content, said in (
        (None, "cannot be read .*; give the folder of a report"),
        (b"rubbish", "no scores.parquet of jobs.evaluate"),
    ):
        if content:
            Store(str(tmp_path)).put("scores.parquet", content)
        with pytest.raises(UsageError, match=said):
            view.read_dice(str(tmp_path))
    assert view.read_dice("") == {}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"space": "flair"}, "--space flair: is a series of the scanner's; give --scans too"),
        ({"scans": "nowhere"}, "no case that can be shown; --scans is for cases that jobs.intake made"),
        ({}, "nowhere: no labelmap of these cases is there that can be shown"),
    ],
)
def test_what_shows_nothing_is_said(tmp_path, monkeypatch, capsys, flags, said):
    def serve(*_):
        raise UsageError("served")

    monkeypatch.setattr(view, "Server", serve)
    monkeypatch.setenv("BTS_INTAKE_KEY", "k" * 40)
    put_all(Store(str(tmp_path)), case_files(OLD, names=NAMES_2021, truth=False))
    assert guarded("view", lambda: view.main(view.Settings(str(tmp_path), "nowhere", **flags))) == 2
    assert said in capsys.readouterr().err


def test_without_niivue_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(viewer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install --no-deps -r requirements-viewer\.txt"):
        viewer.read_niivue()


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c_without_ray(niivue, run_here, tmp_path):
    cases, labelmaps = write(str(tmp_path))
    report = Store(str(tmp_path / "report"))
    put_all(report, tables.write([Scored(OLD, "", "brats2021", {"WT": {"dice": 0.25}})]))
    command = [sys.executable, "-m", "jobs.view", "--cases", cases.uri, "--labelmaps", labelmaps.uri]
    command += ["--report", report.uri, "--case", OLD]
    # In the background of a shell Ctrl-C is ignored, by what is started there too.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    job = subprocess.Popen(command, cwd=ROOT, preexec_fn=heard, **pipes)
    try:
        url = job.stdout.readline().strip()
        assert url.endswith(f"/?case={OLD}") and url.startswith("http://127.0.0.1:")
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
        connection.request("GET", "/cases.json")
        shown = {one["id"]: one for one in json.loads(connection.getresponse().read())["cases"]}
        assert shown[OLD]["dice"] == {"WT": 0.25} and shown[NEW]["dice"] == {}
        assert psutil.Process(job.pid).children(recursive=True) == [], "no Ray"
    finally:
        job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=20)
    assert job.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["cases"] == 6 and labelmaps.list("_runs") == []
    wrong = run_here("view", *command[3:-1], "nobody")
    assert wrong.code == 2 and "--case nobody" in wrong.stderr and NEW in wrong.stderr
