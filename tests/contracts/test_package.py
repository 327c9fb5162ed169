"""The project as a package: one command, what the wheel holds, versions that agree."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement

import bts
from bts.model.file import BOX
from jobs.__main__ import commands
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def run_bts(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jobs", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_command_lists_every_job_with_a_line_and_loads_none():
    done = run_bts("--help")
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", done.stdout, re.MULTILINE))
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__", "__main__"}
    assert done.returncode == 0 and listed.keys() == jobs == set(commands())
    assert run_bts("--version").stdout == f"bts {bts.__version__}\n"
    code = "import sys; sys.argv = ['bts']; from jobs.__main__ import main; main(); print({*sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout
    assert not {"numpy", "tyro", "ray", "torch"} & set(re.findall(r"'(\w+)'", loaded))


def test_an_unknown_command_is_wrong_usage():
    done = run_bts("segmnet")
    assert done.returncode == 2 and "no command 'segmnet'" in done.stderr and "segment" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["segment", "--help"], ["segment", "--cases"], ["status", "--help"]])
def test_a_command_is_the_job_itself(flags):
    done = run_bts(*flags)
    command = [sys.executable, "-m", f"jobs.{flags[0]}", *flags[1:]]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (job.returncode, job.stdout, job.stderr)
    assert "--cases" in done.stdout + done.stderr


@pytest.mark.slow
def test_help_of_the_jobs_of_every_day_loads_neither_ray_nor_torch():
    for job in ("preprocess", "segment"):
        code = f"import sys, jobs.{job}; sys.exit(len({{'ray', 'torch', 'mlflow'}} & {{*sys.modules}}))"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0, job


def test_ranges_hold_what_is_pinned():
    pinned = {}
    for path in ROOT.glob("requirements*.txt"):
        for line in path.read_text("utf-8").splitlines():
            if (text := line.split("#")[0].strip()) and not text.startswith("-r"):
                one = Requirement(text)
                pinned[one.name] = one
    main = [Requirement(text.split("#")[0]) for text in _lines("requirements.txt")]
    ranges = [Requirement(text) for text in PROJECT["dependencies"]]
    assert {(one.name, frozenset(one.extras)) for one in ranges} == {
        (one.name, frozenset(one.extras)) for one in main
    }
    extras = [Requirement(text) for of in PROJECT["optional-dependencies"].values() for text in of]
    for one in (*ranges, *extras):
        if one.name != "bts":
            (version,) = (str(spec.version) for spec in pinned[one.name].specifier)
            assert one.specifier.contains(version), one


def _lines(name: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text("utf-8").splitlines())
    return [line for line in lines if line]


def test_the_citation_is_of_this_version():
    assert f"version: {bts.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


@pytest.mark.slow
def test_the_wheel_holds_library_jobs_templates_weights_and_the_command(tmp_path):
    tracked = subprocess.run(["git", "ls-files", "bts", "jobs"], cwd=ROOT, capture_output=True, text=True)
    files = tracked.stdout.split()
    if not files:
        pytest.skip("no git checkout: which files the wheel should hold is not known")
    for name in (*files, "pyproject.toml", "README.md", "LICENSE"):  # a copy: building leaves files behind
        copy = tmp_path / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    done = subprocess.run([*build, tmp_path / "source"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("bts-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (scripts,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "bts = jobs.__main__:main" in archive.read(scripts).decode()
    assert held == set(files)
    weights = {f"bts/weights/{file.name}" for file in BOX}
    assert {"bts/py.typed", "bts/report/templates/report.html", *weights} <= held
    assert wheel.name.startswith(f"bts-{bts.__version__}-")
    (found,) = metadata.distributions(path=[str(wheel)])
    assert found.version == bts.__version__ and {"viewer", "encoders", "test"} <= set(
        found.metadata.get_all("Provides-Extra")
    )
