"""jobs.status as an operator reads it: what is segmented, held, flagged, failed and left."""

import json
import os
import subprocess
import sys

import pytest

from bts.storage import Store
from jobs import export, segment, status
from jobs.driver.outcome import Outcome, guarded
from tests import builders
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
CASES = [f"BraTS-SSA-0000{n}-000" for n in range(1, 5)]
GOOD, SECOND, BAD, LATER = CASES


def run(capsys, labelmaps: Store, cases: Store | None = None) -> tuple[str, dict]:
    """(what it prints, its last line)."""
    settings = status.Settings(labelmaps.uri, cases.uri if cases else "")
    capsys.readouterr()
    assert guarded("status", lambda: status.main(settings)) == 0
    *said, last = capsys.readouterr().out.splitlines()
    return "\n".join(said), json.loads(last)


def test_a_night_in_a_bucket(bucket, model, capsys):
    cases, labelmaps = Store(f"{bucket.uri}/cases"), Store(f"{bucket.uri}/labelmaps")
    for n, name in enumerate((GOOD, SECOND, BAD)):
        builders.put_all(cases, builders.case_files(name, seed=n))
    cases.put(f"{BAD}/{BAD}-t2w.nii.gz", b"\x1f\x8b rubbish")
    said, last = run(capsys, labelmaps, cases)
    assert f"{labelmaps.uri}: nothing is here, or there is no such folder; check the path" in said
    assert f"{labelmaps.uri}: 0 cases segmented" in said and (last["segmented"], last["left"]) == (0, 3)

    segment.main(segment.Settings(cases.uri, labelmaps.uri, (model,), hold_flagged=True, ray="no"))
    builders.put_all(cases, builders.case_files(LATER, seed=9))
    builders.put_all(cases, {k: v for k, v in builders.case_files(SECOND, seed=8).items() if "t1n" in k})
    said, last = run(capsys, labelmaps, cases)
    markers = [json.loads(labelmaps.read(e.key)) for e in labelmaps.list("_done")]
    flagged = sum(bool(marker["flags"]) for marker in markers)
    assert {k: last[k] for k in ("segmented", "held", "flagged", "noted", "left", "changed")} == {
        "segmented": 2, "held": flagged, "flagged": flagged, "noted": 1, "left": 1, "changed": 1,
    }  # fmt: skip
    assert f"2 by {markers[0]['models'][0]['name']} {markers[0]['models'][0]['digest']}" in said
    assert f"1 failed\n  case {BAD}" in said and "(runs: 1)" in said
    assert f"1 left\n  {LATER}" in said and f"1 changed since\n  {SECOND}" in said
    assert "seconds a case: read" in said and "no such folder" not in said

    cases.put(f"{GOOD}/{GOOD}-t2w.nii.gz", b"\x1f\x8b rubbish")
    segment.main(segment.Settings(cases.uri, labelmaps.uri, (model,), hold_flagged=True, ray="no"))
    said, last = run(capsys, labelmaps, cases)
    assert last["noted"] == 2 and f"case {GOOD}" in said, "its labelmap of before does not hide the failure"

    labelmaps.put(f"_done/{GOOD}.0123456789ab.json", b"{")
    said, _ = run(capsys, labelmaps)
    assert "1 with a result record that cannot be read; delete it, then jobs.segment makes" in said
    assert f"  _done/{GOOD}.0123456789ab" in said


def test_what_was_deleted_by_hand(tmp_path, capsys):
    """A case, another one's labelmap and a third one's result record, spoilt: jobs.segment looks at none."""
    cases, labelmaps = Store(tmp_path / "cases"), Store(tmp_path / "labelmaps")
    (tmp_path / "model").write_bytes(builders.tiny_model())
    for n, name in enumerate(CASES):
        builders.put_all(cases, builders.case_files(name, seed=n))
    cases.put(f"{BAD}/{BAD}-t2w.nii.gz", b"\x1f\x8b rubbish")
    segment.main(segment.Settings(cases.uri, labelmaps.uri, (str(tmp_path / "model"),), ray="no"))
    assert run(capsys, labelmaps, cases)[1]["gone"] == 0
    for key in [e.key for e in cases.list() if BAD in e.key or GOOD in e.key]:
        cases.delete(key)
    labelmaps.delete(f"{SECOND}.nii.gz")
    (record,) = [e.key for e in labelmaps.list("_done") if LATER in e.key]
    labelmaps.put(record, b"{")
    said, last = run(capsys, labelmaps, cases)
    assert {k: last[k] for k in ("segmented", "noted", "left", "gone")} == {
        "segmented": 0, "noted": 0, "left": 1, "gone": 2,
    }  # fmt: skip
    assert f"1 left\n  {SECOND}" in said and "record that cannot be read" in said
    assert "2 of no case there (deleted, renamed, or of another folder)" in said
    assert f"stays\n  {GOOD}\n  {BAD}\n" in said and "failed" not in said


def test_cases_that_are_told_by_roles(tmp_path, capsys):
    cases, labelmaps = Store(tmp_path / "cases"), Store(tmp_path / "labelmaps")
    roles = ("t1=*_A.nii.gz", "t1ce=*_B.nii.gz", "t2=*_C.nii.gz", "flair=*_D.nii.gz")
    for name in ("P1_A", "P1_B", "P1_C", "P1_D"):
        cases.put(f"{name}.nii.gz", b"")
    outcome = status.main(status.Settings(labelmaps.uri, cases.uri, roles=roles))
    assert outcome.counts["left"] == 1
    labelmaps.put("P1.nii.gz", builders.nifti(builders.voxels()[1]))
    flags = {"cases": cases.uri, "roles": roles, "zip": str(tmp_path / "set.zip")}
    assert export.main(export.Settings(labelmaps.uri, **flags)).counts["written"] == 1


def test_labelmaps_of_another_tool_are_told_from_an_empty_folder(tmp_path, capsys):
    Store(str(tmp_path)).put(f"{GOOD}.seg.nrrd", b"NRRD")
    said, last = run(capsys, Store(str(tmp_path)))
    assert f"1 labelmap without a result record, of another tool or a run that was cut off\n  {GOOD}" in said
    assert last["segmented"] == 0 and "no such folder" not in said


def test_no_bucket_is_one_line(tmp_path, s3, capsys):
    settings = status.Settings("s3://no-such-bucket/labelmaps")
    assert guarded("status", lambda: status.main(settings)) == 1
    assert "no-such-bucket" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["status --labelmaps {}", "status --help", "train fast --help"])
def test_a_reader_that_leaves_is_one_line(tmp_path, flags):
    """As `bts status … | head -1` does."""
    job, *words = flags.format(tmp_path).split()
    unread, output = os.pipe()
    os.close(unread)
    command = [sys.executable, "-m", f"jobs.{job}", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True)
    os.close(output)
    assert done.returncode == 1
    assert done.stderr == f"jobs.{job}: stopped: nobody reads its output any more\n"


def test_a_reader_that_leaves_before_the_last_line_changes_no_exit_code(monkeypatch):
    def refuse(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", refuse)
    assert guarded("status", lambda: Outcome(None, {})) == 0
