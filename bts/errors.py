"""The three ways things go wrong: bad data, a user's mistake, a store or machine that cannot go on.

Everything else is a programming error and is left to raise.
"""

import json
from dataclasses import asdict, dataclass, fields

from bts.plain_json import parse


class CaseError(Exception):
    """A case's data are bad: this case fails, with its stage and reason, and the run goes on.

    The message names the case, the file, what is wrong and how to mend it. `kind` is as in Failure.
    """

    def __init__(
        self, problem: str, *, mend: str, file: str = "", case: str = "", stage: str = "", kind: str = ""
    ):
        super().__init__(problem, mend, file, case, stage, kind)
        self.problem, self.mend, self.file, self.case, self.stage = problem, mend, file, case, stage
        self.kind = kind

    def __reduce__(self):
        return _case_error, self.args

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.case and f"case {self.case}", self.file) if part)
        return f"{where}: {self.problem}; {self.mend}" if where else f"{self.problem}; {self.mend}"


def _case_error(problem, mend, file, case, stage, kind) -> CaseError:
    """Unpickle a CaseError, which crosses from Ray's workers to the driver."""
    return CaseError(problem, mend=mend, file=file, case=case, stage=stage, kind=kind)


LOST = "worker lost"  # the worker died of the case: killed for its memory, or crashed
STORE = "store"  # the store is in trouble, or refuses these credentials: no try of the case
UNREADABLE = "unreadable"  # the store refuses one object that it lists, or all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed case, as run reports, the notes in `_failed/` and the rows of a Ray dataset keep it."""

    case_id: str
    stage: str = ""
    file: str = ""
    error: str = ""
    mend: str = ""
    message: str = ""
    """All of it in one line, for a person."""
    kind: str = ""
    """Empty: the case's own data are bad. Otherwise what may not be its fault: LOST, STORE, UNREADABLE, or
    the class of an error that nobody foresaw."""
    left_aside: str = ""
    """Key of the note because of which the case is not tried."""

    @classmethod
    def of(cls, error: CaseError, case_id: str = "", stage: str = "") -> "Failure":
        """case_id, stage: where the error itself may not know them."""
        return cls(
            case_id=case_id or error.case,
            stage=stage or error.stage,
            file=error.file,
            error=error.problem,
            mend=error.mend,
            message=str(error),
            kind=error.kind,
        )

    def to_dict(self) -> dict[str, str]:
        """For the run report."""
        kept = asdict(self)
        return {name: kept[name] for name in kept if kept[name] or name not in ("kind", "left_aside")}

    def to_json(self) -> str:
        """For a row, or a note."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> "Failure":
        """Of any version of the program. Raises ValueError where it is none."""
        found = parse(text)
        if not isinstance(found, dict) or "case_id" not in found:
            raise ValueError("no record of a failed case")
        return cls(**{f.name: str(found[f.name]) for f in fields(cls) if f.name in found})


class UsageError(Exception):
    """The command asks for something impossible: the job exits with 2 and one clear line."""


class RunError(Exception):
    """The run cannot go on (no bucket, no disk space): the job exits with 1 and one clear line."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line: its class where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
