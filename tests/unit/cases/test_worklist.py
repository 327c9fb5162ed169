"""bts.cases.worklist: what is left to do, cases listed minus results listed, and cases that failed before."""

from bts.cases.layouts import find_cases
from bts.cases.worklist import Todo, case_fingerprint, changes, largest_first, part_of, plan
from bts.fingerprint import fingerprint
from bts.storage import Entry
from jobs.driver.incremental import explain

CASE = find_cases([Entry("a/X.1_t1.nii.gz", 1, "v1"), Entry("a/X.1_t2.nii.gz", 1, "v1")]).cases[0]
SUFFIX = ".parquet"
ROLES = ("t1", "t2")


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
    assert (work.todo, work.done) == ([Todo(CASE, "aaaaaaaaaaaa")], 0)
    work = plan([(CASE, "aaaaaaaaaaaa")], ["X.1.aaaaaaaaaaaa.parquet", "_runs/x.json"], SUFFIX)
    assert (work.todo, work.done, work.stale) == ([], 1, [])


def test_an_older_result_is_replaced():
    work = plan([(CASE, "bbbbbbbbbbbb")], ["X.1.aaaaaaaaaaaa.parquet"], SUFFIX)
    assert work.todo == [Todo(CASE, "bbbbbbbbbbbb", ("X.1.aaaaaaaaaaaa.parquet",))]


def test_what_a_crash_left_behind_is_cleared():
    there = ["X.1.aaaaaaaaaaaa.parquet", "X.1.bbbbbbbbbbbb.parquet"]
    assert plan([(CASE, "bbbbbbbbbbbb")], there, SUFFIX).stale == ["X.1.aaaaaaaaaaaa.parquet"]


def test_two_marks_of_one_place_are_of_runs_that_overlapped_and_the_case_is_done_again():
    marks = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")
    keys = [f"X.1.{mark}{SUFFIX}" for mark in marks]
    work = plan([(CASE, marks[0])], keys, SUFFIX, one_place=True)
    assert sorted(work.todo[0].older) == keys
    assert list(explain(work, now=None, before=None)) == [("X.1", "two runs overlapped")]
    assert plan([(CASE, marks[0])], [keys[0]], SUFFIX, one_place=True).done == 1
    assert plan([(CASE, marks[0])], keys, SUFFIX).stale == [keys[1]]  # each under a name of its own


def test_a_failed_case_is_tried_again_a_few_times_and_then_left_aside():
    mark, listing, tries = "aaaaaaaaaaaa", [], 0
    while todo := plan([(CASE, mark)], listing, SUFFIX, retries=2).todo:
        (one,) = todo
        assert one.tries == tries and one.notes == tuple(listing)
        listing, tries = [one.note], tries + 1
    assert tries == 3  # the first time and two retries
    assert plan([(CASE, mark)], listing, SUFFIX, retries=2).aside == {"X.1": listing[0]}
    assert plan([(CASE, mark)], listing, SUFFIX).todo[0].tries == 3


def test_a_note_ends_with_its_inputs_and_with_success():
    note = plan([(CASE, "aaaaaaaaaaaa")], [], SUFFIX).todo[0].note
    (changed,) = plan([(CASE, "bbbbbbbbbbbb")], [note], SUFFIX, retries=0).todo
    assert (changed.tries, changed.notes) == (0, (note,))
    done = plan([(CASE, "aaaaaaaaaaaa")], ["X.1.aaaaaaaaaaaa.parquet", note], SUFFIX, retries=0)
    assert (done.done, done.stale) == (1, [note])


def test_parts_are_disjoint_whole_and_about_equal():
    names = [f"BraTS-SSA-{n:05d}-000" for n in range(3000)]
    parts = [part_of(name, 3) for name in names]
    assert set(parts) == {1, 2, 3} and all(900 < parts.count(part) < 1100 for part in (1, 2, 3))


def test_the_largest_case_comes_first():
    sizes = {"A": 3, "B": 50, "C": 7}
    named = ((f"{case}/{case}_{role}.nii.gz", size) for case, size in sizes.items() for role in ROLES)
    files = [Entry(key, size, "") for key, size in named]
    todo = [Todo(case, "aaaaaaaaaaaa") for case in find_cases(files).cases]
    assert [one.case.id for one in largest_first(todo)] == ["B", "C", "A"]


def test_what_changed_is_said():
    before = {"inputs": {"t1": "1", "t2": "1"}, "models": ["a"], "flips": False, "format": 1}
    assert changes({**before, "inputs": {"t1": "1", "t2": "2"}}, before) == "changed input: t2"
    assert changes({**before, "models": ["b"]}, before) == "new model"
    assert changes({**before, "flips": True}, before) == "changed option: flips"
    both = changes({**before, "format": 2, "inputs": {"t1": "1"}}, before)
    assert both == "changed input: t2; newer version of the program"
