"""preprocess and segment night after night: what would be done, what failed before, parts of the work."""

import gzip
import itertools
import json
import time
from datetime import datetime
from pathlib import Path

import pytest

from bts.errors import UsageError
from bts.model.header import digest
from bts.shards.catalogue import read_catalogue
from bts.storage import Store
from jobs import preprocess, segment
from jobs.driver.outcome import SOME_FAILED, Outcome
from tests import builders

pytestmark = pytest.mark.slow
CASES = [f"BraTS-SSA-0000{n}-000" for n in (1, 2, 3)]
BAD = "BraTS-SSA-00003-000/BraTS-SSA-00003-000-t2w.nii.gz"


def make_model(path, seed: int) -> str:
    path.write_bytes(builders.tiny_model(seed))
    return str(path)


class Digested:
    """A model file and its identity."""

    def __init__(self, path: str):
        self.path, self.digest = path, digest(Path(path).read_bytes())


@pytest.fixture
def place(tmp_path):
    """A folder with three cases, the third bad."""
    store = Store(str(tmp_path / "cases"))
    for n, name in enumerate(CASES):
        builders.put_all(store, builders.case_files(name, seed=n))
    store.put(BAD, b"\x1f\x8b rubbish")
    return tmp_path


def preprocess_all(place, **flags) -> Outcome:
    folders = [str(place / name) for name in ("cases", "shards")]
    return preprocess.main(preprocess.Settings(*folders, ray="no", **flags))


def segment_all(place, model: str, **flags) -> Outcome:
    folders = [str(place / name) for name in ("cases", "labelmaps")]
    return segment.main(segment.Settings(*folders, (model,), ray="no", **flags))


def reasons(capsys) -> dict[str, str]:
    """case → reason, as a dry run prints them."""
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split("\t") for line in lines if "\t" in line)


def everything(place) -> set[str]:
    return {str(path) for path in place.rglob("*") if path.is_file()}


def test_a_bad_case_is_tried_a_few_nights_then_left_aside_until_it_changes(place, capsys):
    model = make_model(place / "one.safetensors", 1)
    jobs = {
        ".parquet": (2, lambda **flags: preprocess_all(place, retry_failed=2, **flags)),
        ".nii.gz": (0, lambda **flags: segment_all(place, model, retry_failed=0, **flags)),
    }
    for result, (retries, job) in jobs.items():
        for night in range(retries + 1):
            outcome = job()
            assert (outcome.exit_code, outcome.counts["left_aside"]) == (3, 0)
            assert outcome.counts["written"] == (2 if night == 0 else 0)
            assert [f.file for f in outcome.failed] == [BAD]
        capsys.readouterr()
        aside = job()
        assert (aside.exit_code, aside.counts["left_aside"], aside.counts["written"]) == (3, 1, 0)
        (failure,) = aside.failed
        assert (failure.case_id, failure.stage, failure.file) == ("BraTS-SSA-00003-000", "read", BAD)
        assert failure.left_aside in {e.key for e in aside.output.list()}
        assert f"left aside (to try it again: --retry-failed {retries + 1})" in failure.message
        job(dry_run=True)
        assert reasons(capsys) == {"BraTS-SSA-00003-000": f"left aside: {failure.left_aside}"}
        assert sum(e.key.endswith(result) for e in aside.output.list()) == 2
    builders.put_all(Store(str(place / "cases")), builders.case_files("BraTS-SSA-00003-000", seed=9))
    for _, job in jobs.values():
        mended = job()
        assert (mended.exit_code, mended.counts["written"]) == (0, 1)
        assert not mended.output.list("_failed")


def test_a_dry_run_says_why_and_writes_nothing(place, capsys):
    one, two = (make_model(place / f"{n}.safetensors", n) for n in (1, 2))
    untouched = everything(place)
    for job in (lambda: preprocess_all(place, dry_run=True), lambda: segment_all(place, one, dry_run=True)):
        outcome = job()
        assert (outcome.exit_code, outcome.counts["todo"]) == (0, 3)
        assert set(reasons(capsys).values()) == {"new"}
    assert everything(place) == untouched
    preprocess_all(place), segment_all(place, one)
    builders.put_all(Store(str(place / "cases")), builders.case_files("BraTS-SSA-00001-000", seed=7))
    untouched = everything(place)
    capsys.readouterr()
    for job in (lambda: preprocess_all(place, dry_run=True), lambda: segment_all(place, one, dry_run=True)):
        job()
        said = reasons(capsys)
        assert said.keys() == {"BraTS-SSA-00001-000", "BraTS-SSA-00003-000"}
        assert said["BraTS-SSA-00001-000"].startswith("changed input: flair")
        assert said["BraTS-SSA-00003-000"] == "failed before (tries: 1)"
    segment_all(place, two, dry_run=True)
    assert reasons(capsys)["BraTS-SSA-00002-000"] == "new model"
    segment_all(place, one, flips=True, labels="msd", dry_run=True)
    assert reasons(capsys)["BraTS-SSA-00002-000"] == "changed option: flips; changed option: labels"
    assert everything(place) == untouched


def test_shards_of_a_folder_within_are_another_s(place):
    """Of the same cases with other flags: they were deleted as outdated."""
    cases = str(place / "cases")
    assert preprocess.main(preprocess.Settings(cases, str(place / "shards/msd"), "msd", ray="no"))
    within = everything(place / "shards/msd")
    for labels in ("auto", "msd"):
        assert preprocess_all(place, labels=labels).counts["written"] == 2
    assert everything(place / "shards/msd") == within
    with pytest.raises(UsageError, match=r"two shards.*give a folder that holds one of them"):
        read_catalogue(Store(str(place / "shards")))


def test_parts_and_limits_add_up_to_the_whole(place):
    both = [preprocess_all(place, part=f"{part}/2").counts for part in (1, 2)]
    assert sum(counts["cases"] for counts in both) == 3
    assert sum(counts["written"] for counts in both) == 2
    model = make_model(place / "one.safetensors", 1)
    assert segment_all(place, model, limit=1).counts["written"] == 1
    second = segment_all(place, model, limit=1).counts
    assert (second["cases"], second["unchanged"], second["written"]) == (3, 1, 1)


def test_a_case_that_failed_is_a_failure_of_a_run_that_is_too_short_to_try_it_again(place):
    preprocess_all(place)
    for path in (place / "shards").glob("*.parquet"):
        path.unlink()
    for _ in range(2):
        short = preprocess_all(place, limit=1)
        assert short.counts["written"] == 1 and short.exit_code == SOME_FAILED
        assert [(one.case_id, one.stage) for one in short.failed] == [(CASES[2], "read")]


def test_since_leaves_cases_without_a_new_file_to_other_runs(place, capsys):
    assert preprocess_all(place, since="2999-01-01").counts["written"] == 0
    only_first = max(p.stat().st_ctime for p in (place / "cases" / CASES[0]).iterdir()) + 0.005
    for path in (place / "cases" / CASES[1]).glob("*t1*"):
        time.sleep(0.01)
        path.touch()
    since = datetime.fromtimestamp(only_first).isoformat()
    assert preprocess_all(place, since=since, dry_run=True).counts["todo"] == 2
    assert set(reasons(capsys)) == {CASES[1], CASES[2]}
    assert preprocess_all(place, since="1h").counts["written"] == 2


def test_a_case_that_failed_is_tried_again_whatever_since_says(place, capsys):
    assert preprocess_all(place).counts["written"] == 2
    outcome = preprocess_all(place, since="2999-01-01")
    assert [failure.case_id for failure in outcome.failed] == [CASES[2]]


def test_since_on_a_bucket(bucket, capsys):
    place = f"{bucket.uri}/cases"
    builders.put_all(Store(place), builders.case_files(CASES[0]))
    flags = {"dry_run": True, "cases": place, "shards": f"{bucket.uri}/shards"}
    for since, count in (("1h", 1), ("2999-01-01", 0)):
        assert preprocess.main(preprocess.Settings(since=since, **flags)).counts["todo"] == count


def test_an_unreadable_note_is_said_and_never_hides_a_case(place):
    first = preprocess_all(place, retry_failed=0)
    (note,) = first.output.list("_failed")
    first.output.put(note.key, b"[]")
    (failure,) = preprocess_all(place, retry_failed=0).failed
    assert failure.case_id == "BraTS-SSA-00003-000" and note.key in failure.message


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("part", "3/2"),
        ("part", "0/2"),
        ("part", "half"),
        ("limit", 0),
        ("retry_failed", -1),
        ("since", "soon"),
    ],
)
def test_flags_that_make_no_sense_are_refused(place, flag, value):
    with pytest.raises(UsageError, match=flag.replace("_", "-")):
        preprocess_all(place, **{flag: value})


def test_the_last_line_of_a_dry_run(run_job, place):
    flags = ("--cases", place / "cases", "--shards", place / "shards", "--dry-run", "--shard", "1/1")
    run = run_job("preprocess", *flags)
    assert run.code == 0, run.stderr
    assert run.summary == {
        "job": "preprocess", "cases": 3, "unchanged": 0, "left_aside": 0, "without_truth": 0, "todo": 3,
        "failed": 0, "dry_run": True, "seconds": run.summary["seconds"],
    }  # fmt: skip
    assert json.dumps(run.summary) in run.stdout


def test_flagged_labelmaps_are_named_and_held_if_asked_and_come_back_when_they_are_not(place):
    """The untrained model labels nearly everything: each case is flagged as large."""
    model = make_model(place / "one.safetensors", 1)
    store = Store(str(place / "labelmaps"))
    free = segment_all(place, model)
    flagged = free.details["flagged_cases"]
    assert free.counts["flagged"] == len(flagged) == 2
    assert all(any(flag.startswith("large:") for flag in of) for of in flagged.values())
    assert all(json.loads(store.read(e.key))["flags"] for e in store.list("_done"))
    kept = builders.results(store, ".nii.gz")
    for key in [e.key for e in store.list("_done")]:
        store.delete(key)
    assert segment_all(place, model, hold_flagged=True).counts["written"] == 2
    held = builders.results(store, ".nii.gz")
    assert held == {f"_held/{case_id}": data for case_id, data in kept.items()}
    one = next(iter(kept))
    store.put(f"{one}.nii.gz", store.read(f"_held/{one}.nii.gz"))  # reviewed, and let through
    store.delete(f"_held/{one}.nii.gz")
    assert segment_all(place, model, hold_flagged=True).counts["unchanged"] == 2
    assert segment_all(place, make_model(place / "two.safetensors", 2)).counts["written"] == 2
    assert set(builders.results(store, ".nii.gz")) == set(kept)


def test_a_marker_tells_enough_to_make_the_same_bytes_again(place):
    models = {p.digest: p for p in map(Digested, (make_model(place / f"{n}.safetensors", n) for n in (1, 2)))}
    settings = {"flips": True, "labels": "msd", "ray": "no"}
    segment.main(
        segment.Settings(
            str(place / "cases"), str(place / "first"), tuple(models[d].path for d in models), **settings
        )
    )
    first = Store(str(place / "first"))
    for entry in first.list("_done"):
        marker = json.loads(first.read(entry.key))
        again, cases = Store(str(place / "again" / marker["case_id"])), Store(str(place / "cases"))
        versions = {e.key: e.version for e in cases.list()}
        for one in marker["inputs"].values():
            assert versions[one["key"]] == one["version"]
            again.put(f"cases/{one['key']}", cases.read(one["key"]))
        named = tuple(models[one["digest"]].path for one in marker["models"])
        made = segment.Settings(
            f"{again.uri}/cases",
            f"{again.uri}/labelmaps",
            named,
            labels=marker["labels"],
            ray="no",
            **marker["options"],
        )
        assert segment.main(made).exit_code == 0
        assert again.read(f"labelmaps/{marker['labelmap']['key']}") == first.read(marker["labelmap"]["key"])
        assert {one["preset"] for one in marker["models"]} == {"tiny"}
        assert marker["versions"].keys() >= {"format", "torch", "python"} and marker["written"]


def test_a_dry_run_tells_a_cause_that_many_cases_share_once(tmp_path, run_here):
    for case, role in itertools.product(("a1", "b2", "c3", "d4"), ("t1", "t1ce", "t2", "flair", "seg")):
        (tmp_path / f"{case}_{role}.nii.gz").write_bytes(b"nobody opens it")
    run = run_here("preprocess", "--cases", tmp_path, "--shards", tmp_path / "shards", "--dry-run")
    said = [line for line in run.stderr.splitlines() if line.startswith("failed at")]
    assert len(said) == 1 and "4 cases (a1, b2, c3, …)" in said[0] and "--labels" in said[0]
    assert run.summary["failed"] == 4


def test_a_labelmap_that_was_edited_by_hand_is_not_replaced_by_another_model(place):
    """Hours of a radiologist's work; a folder of its own is the place for it."""
    one, two = (make_model(place / f"{n}.safetensors", n) for n in (1, 2))
    assert segment_all(place, one).counts["written"] == 2
    path = place / f"labelmaps/{CASES[0]}.nii.gz"
    edited = gzip.compress(gzip.decompress(path.read_bytes())[:-100] + bytes(100), mtime=1)
    path.write_bytes(edited)
    changed = segment_all(place, two)
    assert changed.counts["written"] == 1
    (failure,) = (one for one in changed.failed if one.case_id == CASES[0])
    assert "was edited since it was made" in failure.message and failure.stage == "write"
    assert path.read_bytes() == edited
    assert segment_all(place, two, overwrite=True).counts["written"] == 1
    assert path.read_bytes() != edited
