"""Who may import whom: the rooms of `bts/`, the workers, the driver and the commands, each in its place.

A reader who follows one case meets the rooms in this order. The ground, the files of `bts/` itself, is
everybody's.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = {
    "images": (),
    "model": (),
    "scoring": (),
    "phantom": (),
    "cases": ("images",),
    "shards": ("cases", "images"),
    "results": ("cases", "images", "scoring"),
    "inference": ("cases", "model"),
    "training": ("cases", "images", "shards", "model", "inference", "scoring"),
    "report": ("cases", "images", "results", "scoring"),
    "intake": ("cases", "images", "results"),
}
FACE = (Path("bts", "__init__.py"), Path("bts", "notebook.py"))  # it may show anything
JOBS = {"workers": ("bts",), "driver": ("bts", "workers")}
MODULES = sorted(p.relative_to(ROOT) for top in ("bts", "jobs") for p in (ROOT / top).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Modules of the project that a file imports, dotted, those within functions too."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: names its modules from the top"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    """Of a file; "" for the ground and for commands."""
    return path.parts[1] if len(path.parts) > 2 else ""


def allowed(path: Path, module: str) -> bool:
    top, room, (package, *rest) = path.parts[0], room_of(path), module.split(".")
    if package not in ("bts", "jobs"):
        return True
    folder = rest[0] if rest and (ROOT / package / rest[0]).is_dir() else ""
    if path in FACE:
        return package == "bts"
    if top == "bts":
        return package == "bts" and (not folder or folder == room or folder in ROOMS.get(room, ()))
    if package == "bts" or not room:
        return True
    return folder == room or folder in JOBS[room]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_file_imports_only_what_its_room_may(path):
    assert [module for module in imports(path) if not allowed(path, module)] == []


@pytest.mark.parametrize(
    ("folder", "known"), [("bts", ROOMS), ("jobs", JOBS), ("tests/unit", (*ROOMS, "ground"))]
)
def test_every_room_is_known_and_tests_mirror_them(folder, known):
    there = {path.relative_to(ROOT / folder).parts[0] for path in (ROOT / folder).rglob("*/*.py")}
    assert there <= set(known)
