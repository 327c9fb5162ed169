"""No known misspelling in what readers see: documents, code, messages, manifests."""

import subprocess
import sys

from tests.conftest import ROOT

FOLDERS = ("bts", "jobs", "tests", "docs", "benchmarks", "kubernetes")
READ = {".md", ".py", ".toml", ".yaml", ".txt", ".html", ".js", ".css", ""}


def test_nothing_is_misspelt():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + [*ROOT.glob("*")]
    listed = sorted(str(path) for path in files if path.is_file() and path.suffix in READ)
    assert str(ROOT / "README.md") in listed and str(ROOT / "bts" / "labels.py") in listed
    command = [sys.executable, "-m", "codespell_lib", *listed]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_a_misspelling_is_found(tmp_path):
    (tmp_path / "a.md").write_text(f"It is s{'e'}perate.\n")
    command = [sys.executable, "-m", "codespell_lib", str(tmp_path / "a.md")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode and "==> separate" in said.stdout
