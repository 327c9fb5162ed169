"""The command line of a job: its settings as flags, in the groups in which people need them. Not a command.

Settings are flat dataclasses, some fields inherited, so their own order is another. For parsing and --help
alone they are put into groups; what comes out is the job's own dataclass again.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

GROUPS = {
    "files": (
        "Where things lie: a folder, or s3://bucket/prefix.",
        "source scans cases labelmaps shards models results report zip bucket model name on",
    ),
    "data": (
        "What the files hold, by name and by label.",
        "labels roles patients allow_missing channels strip atlas space",
    ),
    "result": ("What is made of them.", ""),
    "cases": ("Which cases are done.", "dry_run limit since part retry_failed max_failed"),
    "machine": ("What it runs on.", "ray gpu predictors gpu_share drivers port"),
}
"""Group → (its line, its fields in their order); fields that it does not name are of "result"."""
EXAMPLE = re.compile(r"^(?:    .*\\\n)*    .*$", re.MULTILINE)  # the first indented command


def parse(kind: type, prog: str, about: str, args: Sequence[str] | None = None) -> Any:
    """The command line as a value of `kind`, a dataclass; exits with 2 and the reason if it is none.

    about: the command's own text, whose first paragraph and first example --help shows.
    """
    groups = [_group(kind, name) for name in GROUPS if _fields(kind, name)]
    wanted: Any = dataclasses.make_dataclass("Flags", groups)
    config = (tyro.conf.OmitArgPrefixes,)
    found = tyro.cli(wanted, config=config, prog=prog, description=describe(about), args=args)
    values: dict[str, Any] = {}
    for group in dataclasses.fields(found):
        values |= vars(getattr(found, group.name))
    return kind(**values)


def describe(about: str) -> str:
    """The first paragraph of a command's text, and its first example."""
    example = EXAMPLE.search(about)
    return about.split("\n\n")[0] + (f"\n\nExample:\n{example[0]}" if example else "")


def _group(kind: type, name: str) -> tuple[str, Any]:
    """A field for `make_dataclass`: the group's own dataclass."""
    hints, texts = typing.get_type_hints(kind, include_extras=True), field_texts(kind)
    made = []
    for field in _fields(kind, name):
        said = tyro.conf.arg(help=texts.get(field.name))
        kept = {of: getattr(field, of) for of in ("default", "default_factory")}
        made.append((field.name, Annotated[hints[field.name], said], dataclasses.field(kw_only=True, **kept)))
    group = dataclasses.make_dataclass(f"{kind.__name__}_{name}", made)
    return name, Annotated[group, tyro.conf.arg(help=GROUPS[name][0])]


def _fields(kind: type, group: str) -> list[dataclasses.Field]:
    """The fields of a group, in the order of GROUPS; one that no group names is of files if it is needed."""
    place = {field: (name, n) for name, (_, some) in GROUPS.items() for n, field in enumerate(some.split())}
    found = []
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING is field.default_factory
        name, n = place.get(field.name, ("files" if needed else "result", 99))
        if name == group:
            found.append((not needed, n, field))
    return [field for *_, field in sorted(found, key=lambda one: one[:2])]


def field_texts(kind: type) -> dict[str, str]:
    """Field → the text that stands below it in the source, of a dataclass and those that it inherits."""
    found = {}
    for one in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(node, ast.ClassDef)
        for pair in zip(node.body, node.body[1:], strict=False):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[field] = " ".join(text.split())
    return found
