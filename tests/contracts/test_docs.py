"""What the documents say: their example runs, the files that they name are there, the jobs' flags exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch
import tyro

from bts.scoring import comparison, tables
from bts.scoring.metrics import PARTS
from bts.settings import Layers
from jobs.driver import preset_flags

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILE = re.compile(r"`((?:bts|jobs|tests|benchmarks|docs|kubernetes)/[\w./-]+\.\w+)")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
SECTION = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
TEST = re.compile(r"([\w/]*test_\w+\.py)(?:::(\w+))?")
COMMAND = re.compile(r"python -m (jobs\.\w+) ((?:[^\n`|\\]|\\\n)*)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_it_names_are_there(document):
    text = document.read_text("utf-8")
    missing = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    missing += [name for name in LINK.findall(text) if not (document.parent / name).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_tests_that_it_names_are_there(document):
    files = list((ROOT / "tests").rglob("test_*.py"))
    for file, name in TEST.findall(document.read_text("utf-8")):
        meant = [path for path in files if f"/{path.relative_to(ROOT)}".endswith(f"/{file}")]
        assert meant, file
        assert not name or any(f"def {name}(" in path.read_text("utf-8") for path in meant), f"{file}::{name}"


def test_the_readme_counts_the_faults_of_the_list():
    listed = (ROOT / "docs" / "explanation" / "reliability.md").read_text("utf-8")
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", listed, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert f"{len(numbers)} faults" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sections_that_it_links_to_are_there(document):
    for file, section in SECTION.findall(document.read_text("utf-8")):
        other = (document.parent / file) if file else document
        names = {anchor(heading) for heading in HEADING.findall(other.read_text("utf-8"))}
        assert section in names, f"{file}#{section}"


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading's section."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_index_names_every_document():
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    listed = {(ROOT / "docs" / name).resolve() for name in LINK.findall(index)}
    assert {path for path in DOCUMENTS if path.is_relative_to(ROOT / "docs")} - listed == {
        ROOT / "docs" / "README.md"
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_its_jobs_take_the_flags_that_it_gives(document):
    for name, flags in COMMAND.findall(document.read_text("utf-8")):
        words = shlex.split(flags.replace("\\\n", " "), comments=True)
        job = importlib.import_module(name)
        if "…" in words or "--help" in words or "PRESET" in words:
            continue  # … stands for what was said before
        if name in ("jobs.train", "jobs.tune"):
            settings = preset_flags.parse(name, job.Settings, job.__doc__, words)
        else:
            settings = tyro.cli(job.Settings, args=[word for word in words if word not in ("&", ">")])
        assert isinstance(settings, job.Settings)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_its_benchmarks_are_there(document):
    named = re.findall(r"\bbenchmarks(?:\.\w+)+", document.read_text("utf-8"))
    assert [name for name in named if not importlib.util.find_spec(name)] == []


def test_every_column_and_metric_of_the_scores_is_explained():
    text = (ROOT / "docs" / "reference" / "formats.md").read_text("utf-8")
    metrics = [metric for part in PARTS for metric in part]
    names = [*tables.TEXTS, *comparison.COLUMNS[:2], *comparison.STATISTICS, *metrics]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_it_is_for_readers_who_have_this_repository_alone(document):
    """No folder beside it, and no commit but in the log."""
    text = document.read_text("utf-8")
    assert "../shared" not in text
    commits = re.findall(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7}\b", text)
    assert not commits or document.name == "log.md"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 700


def test_every_figure_of_the_readme_names_a_command_that_is_there():
    text = (ROOT / "README.md").read_text("utf-8")
    section = re.search(r"^## What it gets\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)[1]
    claims = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    assert len(claims) >= 3
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for claim in claims:
        commands = re.findall(r"`(make|python -m) ([\w.-]+)", claim)
        assert commands, claim
        for kind, name in commands:
            assert name in targets if kind == "make" else importlib.util.find_spec(name), name
    for table in re.findall(r"(?:^\|.*\n)+\n?(.*)", text, re.MULTILINE):
        if "Dice" in table:
            assert re.search(r"\[commands\]\(docs/[\w/.]+\)", table), table


def test_the_example_of_a_network_is_one():
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "extend.md").read_text("utf-8"), re.DOTALL
    )
    made = {}
    exec(code, made)
    for dims in (2, 3):
        network = made["Pointwise"](4, 3, dims, Layers())
        assert network(torch.zeros(2, 4, *[8] * dims)).shape == (2, 3, *[8] * dims)
