"""The command line of jobs whose settings hold a preset: `PRESET [flags]`. Not a command."""

import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import tyro

from bts.errors import UsageError
from bts.presets import PRESETS
from jobs.driver.flags import describe
from jobs.driver.outcome import DONE, WRONG_USAGE, Outcome, guarded


def run(job: str, kind: type, work: Callable[..., Outcome], about: str, argv: list[str]) -> int:
    """`PRESET [flags]` of a job whose settings hold a preset → exit code."""
    known = "\n".join(f"  {name:12} {preset.summary}" for name, preset in PRESETS.items())
    if argv[:1] in (["--help"], ["-h"]):
        print(f"python -m jobs.{job} PRESET [flags]; PRESET --help lists its flags:\n{known}\n\n{about}")
        return DONE
    if not argv or argv[0] not in PRESETS:
        named = argv and not argv[0].startswith("-")
        given = f"there is no preset {argv[0]}" if named else "give a preset first"
        print(f"jobs.{job}: {given}; PRESET --help lists its flags:\n{known}", file=sys.stderr)
        return WRONG_USAGE
    return guarded(job, lambda: work(parse(job, kind, about, argv), argv[0]))


def parse(job: str, kind: type, about: str, argv: list[str]) -> Any:
    """`PRESET [flags]` as a value of `kind`, whose `preset` defaults to that one. Raises UsageError."""
    prog, text = f"python -m jobs.{job} {argv[0]}", describe(about)
    needed = {f.name: tyro.MISSING for f in fields(kind) if f.default is MISSING and f.name != "preset"}
    default = kind(**needed, preset=PRESETS[argv[0]])
    try:
        return tyro.cli(kind, prog=prog, description=text, args=argv[1:], default=default)
    except ValueError as error:  # of a preset's own checks, which tyro lets through at the top level
        raise UsageError(str(error)) from None
