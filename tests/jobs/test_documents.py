"""README and "On a laptop", done as they are written: every command and the lines of Python, on phantoms.

The documents' own placeholders are folders here. Only the minutes of a training are cut short.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro

import bts
from bts.phantom.case import write_case
from bts.storage import Store
from jobs import evaluate, preprocess, segment, train
from jobs.driver.outcome import guarded
from tests import builders
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

DOCUMENTS = {name: ROOT / name for name in ("README.md", "docs/getting-started/laptop.md")}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ELSEWHERE = ("git clone ", "make ", "ray ")  # a fresh clone, make demo and clusters have tests of their own
SIZE = (40, 40, 24)


def command(module):
    name = module.__name__.removeprefix("jobs.")
    return lambda flags: guarded(name, lambda: module.main(tyro.cli(module.Settings, args=flags)))


JOBS = {"train": train.cli, **{m.__name__[5:]: command(m) for m in (preprocess, segment, evaluate)}}


def blocks(document: Path, language: str) -> list[str]:
    return [text for of, text in BLOCK.findall(document.read_text("utf-8")) if of == language]


def commands(document: Path) -> list[list[str]]:
    """Every command of its blocks, as words, those apart that are tried elsewhere; a diagram has none."""
    lines = [line for text in blocks(document, "") for line in text.replace("\\\n", " ").splitlines()]
    if document.name == "README.md":
        lines = [line for line in lines if not re.search("[─│►]|  ", line)]  # of the chain's drawing
    kept = [line for line in lines if line.strip() and not line.startswith(ELSEWHERE)]
    return [shlex.split(line, comments=True) for line in kept]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the placeholders stand for: CASES, TEST, NEW, and the cases of the notebook."""
    folder = tmp_path_factory.mktemp("documents")
    for name, cases in (("CASES", range(4)), ("TEST", range(4, 6)), ("NEW", range(6, 7))):
        for index in cases:
            builders.put_all(Store(folder / name), write_case(0, index, SIZE))
    files = builders.case_files("BraTS2021_00000", names=builders.NAMES_2021, enhancing=4, shape=SIZE)
    builders.put_all(Store(folder / "cases"), files)
    images = [data for key, data in files.items() if "_seg" not in key]
    builders.put_all(Store(folder), {f"{n}.nii.gz": data for n, data in zip("abcd", images, strict=True)})
    return folder


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_works_as_written(place, monkeypatch, capsys, name):
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = []
    for python, flag, module, *flags in commands(DOCUMENTS[name]):
        job = module.removeprefix("jobs.")
        assert (python, flag) == ("python", "-m") and job in JOBS, module
        if "--budget.minutes" in flags:
            flags[flags.index("--budget.minutes") + 1] = "0.02"
        assert JOBS[job](flags) == 0, (module, flags, capsys.readouterr().err)
        done.append(job)
    assert {"preprocess", "train", "segment", "evaluate"} <= {*done}
    assert (place / "OUT" / "labelmaps").is_dir() and list((place / "OUT").rglob("index.html"))


def test_the_lines_of_python_work_as_written(place, monkeypatch):
    monkeypatch.chdir(place)
    (code,) = blocks(DOCUMENTS["docs/getting-started/laptop.md"], "python")
    if not (place / "OUT/models/fast.safetensors").exists():  # this test alone: no training came before
        builders.put_all(Store(place / "OUT/models"), {"fast.safetensors": builders.tiny_model()})
    made = {}
    exec(code, made)
    assert made["bts"] is bts and made["labelmap"].shape == made["other"].shape == SIZE
    assert set(np.unique(made["volume"].mask)) == {0, 1, 2, 3}
