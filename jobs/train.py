"""Shards → one model file: a preset trained by DDP workers that Ray feeds, checkpointed every epoch.

Run the same command again after a kill and it goes on at the last epoch; run it once more when the model is
there and it does nothing. The model is also registered in MLflow, its curves beside it.

    python -m jobs.train fast --shards data/shards --models data/models --budget.minutes 10
    ray job submit --working-dir . -- python -m jobs.train fast --shards s3://b/shards --models s3://b/models \\
        --workers 8 --gpu yes
"""

import importlib.metadata
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import ray
import torch
import tyro
from ray import train as ray_train
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from bts import feeding, metrics, model, training, worklist
from bts.catalogue import Shard, read_catalogue
from bts.errors import RunError, UsageError
from bts.inference import Segmenter
from bts.presets import PRESETS, Preset, to_dict
from bts.sampling import collate_slices, split_patients
from bts.shards import read_volume
from bts.storage import Store
from bts.tracking import Tracker, flatten, without_login
from jobs import common

FORMAT = 1  # raised when equal settings and shards train another model
SHUFFLE = 1024  # slices of the local shuffle: about 300 MB of four modalities
AHEAD = 4  # batches made beforehand


@dataclass(kw_only=True)
class Settings:
    """Train one preset. Every field of the preset is a flag; what it says here is this preset's own value."""

    shards: str
    """Folder or s3://bucket/prefix with the shards of jobs.preprocess."""
    models: str
    """Folder or s3://bucket/prefix for the model, NAME.safetensors, and the run's checkpoints."""
    workers: int = 1
    """DDP workers, each with one GPU or, on CPUs, an equal part of its machine's cores."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: GPUs where the cluster has them now; yes: ask for them, also of an autoscaler that starts at none."""
    fold: Literal[0, 1, 2, 3, 4] = 0
    """Which fifth of the patients is held out for validation."""
    preset: Annotated[Preset, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One training, as driver and workers know it."""

    name: str
    preset: Preset
    shards: Store
    models: Store
    training: list[Shard]
    held_out: list[Shard]
    fold: int
    data: str
    """Fingerprint of the shards."""
    run: str
    """Fingerprint of the shards, the preset and the fold: of all that makes the model."""

    def provenance(self) -> dict:
        """What the model's header says of its origin."""
        return {
            "run": self.run,
            "data": self.data,
            "fold": self.fold,
            "seed": self.preset.seed,
            "commit": commit(),
            "versions": {name: importlib.metadata.version(name) for name in ("ray", "torch")},
            "training_patients": sorted({s.patient for s in self.training}),
            "held_out_patients": sorted({s.patient for s in self.held_out}),
            "shards": [s.key for s in (*self.training, *self.held_out)],
        }


def main(settings: Settings) -> common.Outcome:
    plan = make_plan(settings)
    if (trained := read_trained(plan)) is not None:
        common.say(f"nothing to do: {plan.name}.safetensors is the model of these shards and settings")
        return common.Outcome(plan.models, summary(plan, trained, epochs=0))
    common.start_ray()
    tracker = Tracker()
    params = {**flatten(to_dict(plan.preset)), "fold": plan.fold, "workers": settings.workers}
    tags = {"data": plan.data, "commit": commit(), "shards": without_login(plan.shards.uri)}
    run_id = tracker.start(plan.name, plan.run, params, tags)
    try:
        result = fit(plan, settings, Watch(plan, tracker, run_id))
    except BaseException as error:
        tracker.finish(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    data = result["model"]
    tracker.register(run_id, plan.name, data, model.digest(data))
    tracker.finish(run_id)
    plan.models.put(f"{plan.name}.safetensors", data)  # last: a run cut off before it is finished by the next
    return common.Outcome(plan.models, summary(plan, data, epochs=result["epochs"]))


def make_plan(settings: Settings) -> Plan:
    """Read what the shards hold and split the patients. Raises UsageError before anything starts."""
    preset, shards = settings.preset, Store(settings.shards)
    if settings.workers < 1:
        raise UsageError(f"--workers {settings.workers}: give at least 1")
    every = read_catalogue(shards)
    usable = [s for s in every if s.labelled]
    if len(usable) < len(every):
        common.say(f"{shards.uri}: {len(every) - len(usable)} of {len(every)} shards have no truth and are left out")
    for shard in usable:
        if missing := [m for m in preset.modalities if m not in shard.modalities]:
            has = ", ".join(shard.modalities)
            raise UsageError(f"{shards.uri}/{shard.key}: has no {', '.join(missing)}; train with --modalities {has}")
    patients = {s.patient: s.group for s in usable}
    train_ids, held_out_ids = split_patients(patients, seed=preset.seed, fold=settings.fold)
    training_, held_out = ([s for s in usable if s.patient in set(ids)] for ids in (train_ids, held_out_ids))
    if not training_ or not held_out:
        raise UsageError(
            f"{shards.uri}: {len(patients)} patients leave {len(train_ids)} for training and {len(held_out_ids)} "
            f"for validation in fold {settings.fold}; preprocess more cases (5 patients fill every fold)"
        )
    if len(training_) < settings.workers:
        raise UsageError(f"--workers {settings.workers}: there are only {len(training_)} training cases; use fewer")
    keys = {s.key: "" for s in usable}
    name, preset = preset.name, replace(preset, name=_preset_name(settings))
    options = {"preset": to_dict(preset), "fold": settings.fold}
    return Plan(
        name=name, preset=preset, shards=shards, models=Store(settings.models), training=training_,
        held_out=held_out, fold=settings.fold, data=worklist.fingerprint(keys, options={}, version=FORMAT),
        run=worklist.fingerprint(keys, options=options, version=FORMAT),
    )  # fmt: skip
