"""bts.errors: the record of a failed case, there and back, of any version of the program."""

import pytest

from bts.errors import CaseError, Failure

ERROR = CaseError("is askew", mend="straighten it", file="a.nii.gz", case="A", stage="grid")


def test_a_failure_tells_all_that_its_error_does():
    found = Failure.of(ERROR)
    assert (found.case_id, found.stage, found.file) == ("A", "grid", "a.nii.gz")
    assert found.message == str(ERROR) == "case A, a.nii.gz: is askew; straighten it"
    assert Failure.of(CaseError("x", mend="y"), "B", "read").case_id == "B"


def test_it_is_read_as_it_was_written_and_of_other_versions_too():
    found = Failure.of(ERROR)
    assert Failure.from_json(found.to_json()) == found
    assert Failure.from_json('{"case_id": "A", "of_a_later_version": 1}') == Failure(case_id="A")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", b"\xff", "[" * 10**5], ids=len)
def test_what_is_no_record_is_refused(text):
    with pytest.raises(ValueError):
        Failure.from_json(text)
