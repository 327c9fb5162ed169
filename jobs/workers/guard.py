"""What every stage of a command has around it, in the task or actor that runs it. No torch.

A row carries a case from stage to stage; one with a `failure` or a `stop` passes through. Ray loses the class
of what a task raises and drops what it was given, so all that a stage raises travels to the driver as a row.
"""

import threading
import traceback
from collections.abc import Callable

from bts.errors import CaseError, Failure, RunError

MAKING = threading.Lock()  # an actor may do several rows at once: the first of them makes its task


class Guard:
    """A stage: its error fails the case, a RunError (a full disk, a bucket that refuses) stops the run."""

    def __init__(self, stage: str, task: Callable | type, args: tuple = ()):
        """task: a function of a row; or a class, made of `args` for the first row, so that what it needs
        (a model, memory) fails a case and not the start of its process, which Ray repeats without end."""
        self.stage, self.task, self.args = stage, task, args

    def __call__(self, row: dict) -> dict:
        if row.get("failure") or row.get("stop"):
            return row
        case_id = row["case_id"]
        try:
            if isinstance(self.task, type):
                self._make()
            return {"failure": "", "stop": "", **self.task(row), "case_id": case_id}
        except RunError as error:
            return {"case_id": case_id, "failure": "", "stop": str(error)}
        except CaseError as error:
            error.case = error.case or case_id  # its line in a log tells which case it is
            failure = Failure.of(error, case_id, error.stage or self.stage)
        except Exception as error:
            failure = unforeseen(case_id, self.stage, error)
        return {"case_id": case_id, "failure": failure.to_json(), "stop": ""}

    def _make(self) -> None:
        with MAKING:
            if isinstance(self.task, type):
                self.task = self.task(*self.args)


def call(guard: Guard, row: dict) -> dict:
    """One row through one stage, as a task of its own."""
    return guard(row)


def unforeseen(case_id: str, stage: str, error: Exception) -> Failure:
    """Of an error that no check of the data explains: memory, a device, a fault of a program."""
    kind, said = type(error).__name__, (str(error).splitlines() or [""])[0]
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
    problem = f"{kind}{': ' if said else ''}{said} ({place})"
    short = isinstance(error, MemoryError) or kind == "OutOfMemoryError"
    mend = "use a machine with more memory" if short else "run again; if it stays, report it with this line"
    return Failure.of(CaseError(problem, mend=mend, case=case_id, stage=stage, kind=kind))
