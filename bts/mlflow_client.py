"""MLflow's client, opened so that a project folder without a server serves several trainings at once.

Without a server all is one SQLite file, which MLflow fills with tables on its first start. Two first starts
at once would trip over each other's tables, so the file's folder is locked meanwhile.
"""

import contextlib
import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

SQLITE = "sqlite:///"
LOCKED = "the database is locked by another program: run this again when that has ended; for several at once"
LOCKED += " start `mlflow server` and name it in MLFLOW_TRACKING_URI"


def open_client(uri: str, experiment: str):
    """An MlflowClient without telemetry, migration chatter and progress bars; it takes seconds to import.

    Raises what MLflow raises where the store cannot be used: `experiment` is asked for, to see.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # 30 s; its own 7 take minutes to give up
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Of errors that are raised as well, whole tracebacks.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with _alone(local_folder(uri)):
        _check_file(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.get_experiment_by_name(experiment)
    return client


def local_folder(uri: str) -> str:
    """The folder of a store that is an SQLite file; "" for any other."""
    return os.path.dirname(os.path.abspath(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else ""


def _check_file(uri: str) -> None:
    """Raise OSError for an SQLite file that cannot be opened: MLflow would try for hours."""
    if not uri.startswith(SQLITE):
        return
    try:
        with contextlib.closing(sqlite3.connect(uri.removeprefix(SQLITE), timeout=0)) as file:
            file.execute("PRAGMA schema_version")
    except sqlite3.OperationalError as error:
        if "unable to open" in str(error):
            instead = "start the command in a folder that can be written, or name a server in"
            raise OSError(f"{error}; {instead} MLFLOW_TRACKING_URI") from None
    except sqlite3.DatabaseError:
        pass  # MLflow says so itself


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Within it no other process that asks is; where the file system has no locks, it does not wait."""
    if not folder or not os.path.isdir(folder):
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def reason(error: Exception, uri: str) -> str:
    """What MLflow, or the store below it, says, in one line without the login of its URI."""
    first, *more = (str(error) or type(error).__name__).splitlines()
    if "database is locked" in first:
        return LOCKED
    if first.endswith(":") and more:  # a heading: what it announces comes next
        first += f" {more[0].strip('# ')}"
    return first.replace(uri, without_login(uri))


def lost_file(source: str) -> str:
    """The path of `source`, a file: URI or a path, if nothing is there; "" of what is, or is elsewhere."""
    local = not re.match(r"[a-z][a-z0-9+-]*:", source) or source.startswith("file:")
    path = unquote(urlsplit(source).path) if source.startswith("file:") else source
    return path if local and not os.path.exists(path) else ""


def without_login(uri: str) -> str:
    """The URI with neither user nor password, which must not reach a log or a tag."""
    return re.sub(r"(?<=://)[^/?#]*@", "", uri, count=1)  # not urlsplit: what it refuses is to be shown too
