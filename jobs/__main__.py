"""`bts COMMAND …`: the jobs under one name. `bts segment --cases …` is `python -m jobs.segment --cases …`."""

import ast
import pkgutil
import runpy
import sys
from pathlib import Path

import bts
import jobs

WRONG_USAGE = 2


def main() -> None:
    """Run the command that the first argument names; without one, list them."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--version", "-V"):
        print(f"bts {bts.__version__}")
    elif name in ("--help", "-h"):
        print(overview())
    elif name in commands():
        sys.argv[:2] = [f"bts {name}"]
        runpy.run_module(f"jobs.{name}", run_name="__main__", alter_sys=True)
    else:
        print(f"bts: there is no command {name!r}\n\n{overview()}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


def commands() -> list[str]:
    """Every module of this folder is one, but for this."""
    found = pkgutil.iter_modules(jobs.__path__)
    return sorted(one.name for one in found if not one.ispkg and one.name != "__main__")


def overview() -> str:
    """The commands with a line each: the first of their own text. None is imported for it."""
    width = max(map(len, commands()))
    lines = [f"  {name:{width}}  {_first_line(name)}" for name in commands()]
    usage = "usage: bts COMMAND [flags]     bts COMMAND --help     bts --version"
    return "\n".join([f"{usage}\n", "commands:", *lines])


def _first_line(name: str) -> str:
    source = Path(jobs.__path__[0], f"{name}.py").read_text("utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


if __name__ == "__main__":
    main()
