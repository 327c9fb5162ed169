"""Tasks of Ray Data that are tried a few times: its own default is without end."""

import contextlib
import warnings
from collections.abc import Callable, Iterator

from bts.errors import RunError, first_line

RETRIES = 2  # of a task after its worker's death, among others


def tried(over: Callable, task: Callable | type, **how):
    """over(task, **how), for instance of `data.map`: a task whose worker dies is tried RETRIES times more."""
    from ray.util.annotations import RayDeprecationWarning

    bound = "max_task_retries" if isinstance(task, type) else "max_retries"
    with warnings.catch_warnings():  # Ray 2.60 has no other way to say it
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return over(task, **{bound: RETRIES}, **how)


@contextlib.contextmanager
def worker_deaths(what: str) -> Iterator[None]:
    """Raise RunError for the end of a task's last try. what: did not come to an end, for the message."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    try:
        yield
    except (NodeDiedError, OutOfMemoryError, WorkerCrashedError) as error:
        mend = "likely there is too little memory: use a larger machine; otherwise look at the files"
        raise RunError(f"{what} killed its worker each time ({first_line(error)}); {mend}") from error
