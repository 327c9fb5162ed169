"""The three ways things go wrong: bad data, a user's mistake, a store or machine that cannot go on.

Everything else is a programming error and is left to raise.
"""


class CaseError(Exception):
    """A case's data are bad: this case fails, with its stage and reason, and the run goes on.

    The message names the case, the file, what is wrong and how to mend it.
    """

    def __init__(self, problem: str, *, mend: str, file: str = "", case: str = "", stage: str = ""):
        super().__init__(problem, mend, file, case, stage)
        self.problem, self.mend, self.file, self.case, self.stage = problem, mend, file, case, stage

    def __reduce__(self):
        return _case_error, self.args

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.case and f"case {self.case}", self.file) if part)
        return f"{where}: {self.problem}; {self.mend}" if where else f"{self.problem}; {self.mend}"


def _case_error(problem, mend, file, case, stage) -> CaseError:
    """Unpickle a CaseError, which crosses from Ray's workers to the driver."""
    return CaseError(problem, mend=mend, file=file, case=case, stage=stage)


class UsageError(Exception):
    """The command asks for something impossible: the job exits with 2 and one clear line."""


class RunError(Exception):
    """The run cannot go on (no bucket, no disk space): the job exits with 1 and one clear line."""
