"""Annotations of bts/ and jobs/ tell the truth: mypy, as pyproject.toml sets it up, finds nothing."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Half a minute, seconds where .mypy_cache is there; minutes where other tests want the same cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_no_annotation_is_wrong():
    files = [path for folder in ("bts", "jobs") for path in (ROOT / folder).rglob("*.py")]
    said = mypy("bts", "jobs")
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"in {len(files)} source files" in said.stdout


def test_a_wrong_annotation_is_found(tmp_path):
    (tmp_path / "a.py").write_text("from bts.labels import spelt\n\nvalue: int = spelt('auto')\n")
    said = mypy(str(tmp_path / "a.py"))
    assert said.returncode == 1 and 'expression has type "str", variable has type "int"' in said.stdout
