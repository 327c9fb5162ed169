"""jobs.demo and jobs.phantom: what they refuse before a case is drawn."""

import pytest

from bts.errors import UsageError
from jobs import demo, phantom


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"bucket": ""}, "--bucket: give a folder, or s3://bucket/prefix"),  # it was /cases and so on
        ({"bucket": "/"}, "--bucket: give a folder"),
        ({"minutes": 0}, "--minutes 0: give more than 0"),
        ({"minutes": float("nan")}, "--minutes nan: give more than 0"),
    ],
)
def test_mistakes(monkeypatch, capsys, flags, said):
    monkeypatch.setattr(demo, "steps", lambda *_: pytest.fail("nothing may be made"))
    assert demo.main(demo.Settings(**flags)) == 2
    assert said in capsys.readouterr().err


def test_a_format_of_raw_studies_without_raw_is_a_mistake(tmp_path):
    with pytest.raises(UsageError, match="--raw-format nifti: give --raw too"):
        phantom.main(phantom.Settings(str(tmp_path / "cases"), count=1, raw_format="nifti"))
