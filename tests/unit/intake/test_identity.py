import stat
from pathlib import Path

import pytest

from bts.errors import UsageError
from bts.intake.identity import KEPT, VARIABLE, Identity, case_id, read_identity


def test_names_depend_on_the_key_and_tell_nothing():
    here, there = Identity("a" * 20), Identity("b" * 20)
    name = case_id(here.patient("4711"), here.visit("4711", "20260115", "1.2.3"))
    assert "4711" not in name and "20260115" not in name
    assert here.patient("4711") == Identity("a" * 20).patient("4711") != there.patient("4711")
    assert here.visit("4711", "20260115", "1.2.3") != here.visit("4711", "20260116", "1.2.3")
    assert len({here.mark, there.mark, Identity("a" * 20, keep=True).mark}) == 3


def test_names_are_those_of_every_version_before():
    """Otherwise each patient would come a second time."""
    one = Identity("a" * 20)
    assert (one.patient("4711"), one.visit("4711", "20260115", "1.2.3")) == ("7d20ce0ee1", "df1144bc2b")


def test_the_key_of_the_environment_counts(monkeypatch):
    monkeypatch.setenv(VARIABLE, "c" * 20)
    assert read_identity(False) == (Identity("c" * 20), VARIABLE)
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(UsageError, match="at least 16"):
        read_identity(False)


def test_a_key_is_made_once_and_kept_for_its_owner_alone(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=f"{VARIABLE} is not set"):
        read_identity(False)
    assert not any(tmp_path.iterdir()), "who only looks makes no key"
    first, where = read_identity(False, make=True)
    assert read_identity(False, make=True)[0] == first
    assert read_identity(False)[0] == first and where == KEPT
    path = Path(KEPT).expanduser()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]
