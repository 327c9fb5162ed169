from bts.cases import find_cases
from bts.storage import Entry
from bts.worklist import case_fingerprint, fingerprint, plan

CASE = find_cases([Entry("a/X.1_t1.nii.gz", 1, "v1"), Entry("a/X.1_t2.nii.gz", 1, "v1")]).cases[0]
SUFFIX = ".parquet"


def listed(*keys):
    return [Entry(key, 1, "") for key in keys]


def test_all_that_makes_a_result_makes_its_name():
    base = fingerprint({"t1": "v1"}, options={"flips": False}, version=1)
    assert len(base) == 12 and int(base, 16) >= 0
    assert base == fingerprint({"t1": "v1"}, options={"flips": False}, version=1)
    others = [
        fingerprint({"t1": "v2"}, options={"flips": False}, version=1),
        fingerprint({"t2": "v1"}, options={"flips": False}, version=1),
        fingerprint({"t1": "v1"}, options={"flips": True}, version=1),
        fingerprint({"t1": "v1"}, options={"flips": False}, version=2),
    ]
    assert len({base, *others}) == 5


def test_only_the_named_roles_count():
    assert case_fingerprint(CASE, ["t1"], options={}, version=1) != case_fingerprint(
        CASE, ["t1", "t2"], options={}, version=1
    )


def test_wanted_minus_there():
    work = plan([(CASE, "aaaaaaaaaaaa")], [], SUFFIX)
    assert (work.todo, work.done) == ([(CASE, "aaaaaaaaaaaa", [])], 0)
    work = plan([(CASE, "aaaaaaaaaaaa")], listed("X.1.aaaaaaaaaaaa.parquet", "_runs/x.json"), SUFFIX)
    assert (work.todo, work.done, work.stale) == ([], 1, [])


def test_an_older_result_is_replaced():
    work = plan([(CASE, "bbbbbbbbbbbb")], listed("X.1.aaaaaaaaaaaa.parquet"), SUFFIX)
    assert work.todo == [(CASE, "bbbbbbbbbbbb", ["X.1.aaaaaaaaaaaa.parquet"])]


def test_what_a_crash_left_behind_is_cleared():
    there = listed("X.1.aaaaaaaaaaaa.parquet", "X.1.bbbbbbbbbbbb.parquet")
    assert plan([(CASE, "bbbbbbbbbbbb")], there, SUFFIX).stale == ["X.1.aaaaaaaaaaaa.parquet"]
