"""bts.results.marker: one writer, one reader, and markers that people or other versions made."""

import json

import pytest

from bts.results.marker import Marker

WHOLE = Marker(
    case_id="A", labelmap={"key": "A.nii.gz", "bytes": 3, "blake2b": "ab"}, labels="brats2023",
    volumes_ml={"WT": 1.5}, inputs={"t1": {"key": "A/t1.nii.gz", "version": "1+2"}}, cases="s3://b/cases",
    fingerprint="0123456789ab", flags=("edge: x",), expected_dice={"WT": 0.75}, seconds={"read": 0.5},
    models=({"name": "m", "digest": "ba", "preset": "fast"},),
    options={"flips": True, "probabilities": False},
    versions={"format": 4}, written="2026-11-27T05:00:00+00:00",
)  # fmt: skip


def test_it_is_read_as_it_was_written():
    assert Marker.from_json(WHOLE.to_json()) == WHOLE
    assert "tumour_px" not in json.loads(WHOLE.to_json())
    assert WHOLE.maker == "ba flips" and WHOLE.named_maker == "m ba + flips"
    assert WHOLE.versions_read == {"t1": "1+2"}
    assert WHOLE.speaks_of("ab") and not WHOLE.speaks_of("cd") and Marker().speaks_of("cd")


NAMES = ("labels", "flags", "models", "options", "inputs", "expected_dice", "labelmap")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, 7, "x", ["x"], {"x": 1}, {"x": 7}, {"x": None}, [None]])
def test_a_field_that_is_spoilt_is_empty_and_stops_nobody(name, value):
    found = Marker.from_json(json.dumps({**json.loads(WHOLE.to_json()), name: value, "later": 1}).encode())
    assert found.case_id == "A" and isinstance(found.maker, str) and isinstance(found.versions_read, dict)
    assert all(0 <= dice <= 1 for dice in found.expected_dice.values())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"{", b"[" * 10**5], ids=len)
def test_what_is_no_marker_is_refused(data):
    with pytest.raises(ValueError):
        Marker.from_json(data)
