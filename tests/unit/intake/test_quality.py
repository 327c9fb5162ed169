import dataclasses

import pytest

from bts.intake import quality


def measures(**changes):
    whole = quality.Measures(zooms=(1, 1, 1), covered=1.0, turn_deg=2.0, before=1.1, after=1.2)
    return dataclasses.replace(whole, **changes)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ({"zooms": (0.9, 8.0, 0.9)}, "slice every 8.0 mm"),
        ({"zooms": (3.0, 1.0, 2.0)}, "voxels of 2.0 mm"),
        ({"covered": 0.8}, "80% of the brain"),
        ({"turn_deg": 40.0}, "turned by 40°"),
        ({"after": 1.01, "before": 1.0}, "little like T1ce"),
        ({"after": 1.1, "before": 1.2}, "better before"),
    ],
)
def test_each_warning(one, words):
    assert quality.warnings({"t2": measures()}, 1300, 0.95) == []
    (line,) = quality.warnings({"t2": measures(**one)}, 1300, 0.95)
    assert words in line


def test_warnings_of_the_brain():
    assert "700 ml" in quality.warnings({}, 700, 0.95)[0]
    assert "0.60" in quality.warnings({}, 1300, 0.6)[0]
    assert quality.warnings({}, None, None) == []


def test_a_t1_that_was_taken_after_t1ce_is_flagged():
    """One after contrast agent that no tag or name tells may be taken for the T1 of before."""
    assert quality.of_order({"t1": 2, "t1ce": 7}) == quality.of_order({"t1": 9}) == quality.of_order({}) == []
    (line,) = quality.of_order({"t1": 9, "t1ce": 7})
    assert "t1 is series 9, taken after t1ce (series 7)" in line
