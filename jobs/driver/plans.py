"""What a training is made of, read from its shards and pinned until its model is there. Not a command."""

import contextlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from bts.errors import RunError, UsageError
from bts.settings import Preset
from bts.shards import holds
from bts.shards.catalogue import read_catalogue
from bts.storage import Store
from bts.training import pin
from bts.training.plan import Plan, make_plan, read_encoder, unnamed
from jobs.driver.progress import counted, examples, say


class Asked(Protocol):
    """The settings of jobs.train: what a training learns from, and what it runs on."""

    @property
    def shards(self) -> str: ...

    @property
    def models(self) -> str: ...

    @property
    def fold(self) -> int: ...

    @property
    def preset(self) -> Preset: ...

    @property
    def gpu(self) -> str: ...

    @property
    def workers(self) -> int | tuple[int, int]: ...

    @property
    def least_workers(self) -> int: ...

    @property
    def most_workers(self) -> int: ...


def read_plan(settings: Asked, system: str, pinned: pin.Pin | None = None) -> Plan:
    """What the shards hold, split; of a training that was cut off, those that it began with.

    Raises UsageError before anything starts.
    """
    from bts.model.nets import build  # with torch, which --help does without

    name, shards = settings.preset.name, Store(settings.shards)
    check_name(name)
    read_encoder(settings.preset.layers.weights)  # fails early where it cannot be read
    catalogue = read_catalogue(shards, pinned.keys if pinned else ())
    plan = make_plan(catalogue, replace(settings.preset, name=system), settings.fold)
    if pinned:
        since = {e.key for e in shards.list() if e.key.endswith(".parquet")} - {*pinned.keys}
        say(
            f"going on with the training of {pinned.started}, with the "
            f"{counted(len(catalogue), 'shard')} that it began with; {counted(len(since), 'other')} left out "
            "(--fresh starts anew with the shards of now)"
        )
    training, held_out = len(plan.training), len(plan.held_out)
    say(f"{shards.uri}: {counted(len(catalogue), 'shard')}, {training} for training, {held_out} held out")
    say_left_out(plan)
    say_unnamed(plan)
    build(plan.preset)  # fails early where the layers do not go together
    if not 1 <= settings.least_workers <= settings.most_workers <= training:
        raise UsageError(f"--workers {settings.workers}: give 1 to {training}, the number of training cases")
    return plan


def say_left_out(plan: Plan) -> None:
    """The shards that this training makes no use of, by number and example."""
    for why, keys in plan.left_out.items():
        say(f"{counted(len(keys), 'shard')} left out, {why}: {examples(keys)}")


def say_unnamed(plan: Plan) -> None:
    """Cases that count as patients of their own because nothing told who was scanned."""
    if cases := unnamed([*plan.training, *plan.held_out]):
        say(
            f"nothing tells the patients of {counted(len(cases), 'case')} ({examples(cases)}): each is taken "
            "for a patient of its own; if some are of one, run jobs.preprocess with --patients"
        )


def check_name(name: str) -> None:
    """Raise UsageError where it cannot name a model's file."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise UsageError(f"--name {name}: use letters, digits, '.', '-' and '_' only")


def keep_plan(settings: Asked, asked: str, plan: Plan) -> None:
    """Pin the plan beside its checkpoints, and hold its shards, until the model is there."""
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    began = pin.Pin(plan.run, plan.keys, now)
    models, shards = Store(settings.models), Store(settings.shards)
    if pin.read(models, settings.preset.name, asked) is None:
        pin.write(models, settings.preset.name, asked, began)
    try:
        holds.hold(shards, plan.run, plan.keys)
    except RunError as error:  # of shards that may only be read
        say(f"jobs.preprocess may delete shards of this training: {error}")


def checkpoints(settings: Asked, run: str) -> Store:
    """Where a training keeps what it has done: the same command finds it again, other settings do not."""
    return Store(f"{settings.models}/_checkpoints/{settings.preset.name}-{run}")


def let_go(settings: Asked, asked: str, run: str) -> None:
    """The training is over: its shards may go once they are superseded."""
    Store(settings.models).delete(pin.key(settings.preset.name, asked))
    with contextlib.suppress(RunError):  # of shards that may only be read
        holds.release(Store(settings.shards), run)


def forget(settings: Asked, asked: str, run: str) -> None:
    """Start anew: without the checkpoints and the pin of what the same command began before."""
    models, name, runs = Store(settings.models), settings.preset.name, {run}
    with contextlib.suppress(RunError):  # a pin that cannot be read
        if began := pin.read(models, name, asked):
            runs.add(began.run)
    for one in runs:
        place = checkpoints(settings, one)
        for entry in place.list():
            place.delete(entry.key)
        let_go(settings, asked, one)
