"""Shards that an unfinished training reads: `_held/RUN.json` beside them keeps them, superseded or not.

jobs.train writes it before it starts and deletes it when its model is there. A shard that jobs.preprocess has
replaced meanwhile stays, with a mark in `_superseded/` for all other readers, until a run after the training.
"""

import json
from collections.abc import Collection, Container, Iterable

from bts.errors import RunError
from bts.plain_json import parse
from bts.storage import Store

FOLDER, SUPERSEDED = "_held", "_superseded"


def hold(shards: Store, run: str, keys: Iterable[str]) -> None:
    """Keep these shards until `release`. Raises RunError."""
    shards.put(f"{FOLDER}/{run}.json", json.dumps(sorted(keys)).encode())


def release(shards: Store, run: str) -> None:
    """The training is through, or given up. Raises RunError."""
    shards.delete(f"{FOLDER}/{run}.json")


def held_keys(shards: Store) -> set[str]:
    """Keys of the shards that trainings hold. Raises RunError where the store does not tell."""
    found: set[str] = set()
    for entry in shards.list(FOLDER):
        try:
            found.update(map(str, parse(shards.read(entry.key))))
        except FileNotFoundError:
            continue  # released between listing and reading
        except (OSError, ValueError, TypeError) as error:
            problem = f"{shards.uri}/{entry.key}: which shards a training holds cannot be read ({error})"
            raise RunError(f"{problem}; delete the file if that training is over") from error
    return found


def retire(shards: Store, keys: Collection[str]) -> None:
    """Delete shards that have been replaced; mark those that a training holds. Raises RunError."""
    kept = held_keys(shards) if keys else set()
    for key in keys:
        if key in kept:
            shards.put(_mark(key), b"")
        else:
            shards.delete(key)
            shards.delete(_mark(key))


def reinstate(shards: Store, wanted: Iterable[str], there: Container[str]) -> None:
    """Take the marks off shards that are wanted again: a scan or an option was changed back. there: all that
    lies in the store. Raises RunError."""
    for key in wanted:
        if _mark(key) in there:
            shards.delete(_mark(key))


def in_force(keys: Collection[str], there: Collection[str]) -> list[str]:
    """The shards `keys` without the superseded ones of cases that have another; `there`: all that lies in the
    store."""
    marks = {key for key in there if key.startswith(SUPERSEDED)}
    of_now = [key for key in keys if _mark(key) not in marks]
    replaced = {_case(key) for key in of_now}
    return [key for key in keys if _mark(key) not in marks or _case(key) not in replaced]


def _mark(key: str) -> str:
    return f"{SUPERSEDED}/{key}.json"


def _case(key: str) -> str:
    return key.rsplit(".", 2)[0]
