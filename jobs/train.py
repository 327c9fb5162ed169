"""Shards → one model file: a preset trained by DDP workers that Ray feeds, checkpointed every epoch.

The same command again goes on at the last epoch after a kill, with the shards that it began with, and does
nothing once the model is there. The model is registered in MLflow too, its curves beside it.

    python -m jobs.train fast --shards data/shards --models data/models --budget.minutes 10
    ray job submit --working-dir . -- python -m jobs.train fast --workers 8 --gpu yes \\
        --shards s3://b/shards --models s3://b/models
"""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from bts.errors import RunError, UsageError
from bts.mlflow_client import without_login
from bts.model.header import digest, read_header
from bts.report.curves import draw_classes, draw_curves
from bts.settings import Preset
from bts.settings_json import to_dict
from bts.storage import Store
from bts.tracking import Tracker, flatten
from bts.training import pin
from bts.training.log import best_epoch, final_table, progress_line, step_line
from bts.training.plan import Plan
from jobs.driver import plans, preset_flags
from jobs.driver.here import UseRay, fits_here
from jobs.driver.outcome import Outcome, leave
from jobs.driver.progress import TrainingMeter, say


@dataclass(kw_only=True)
class Settings:
    """Train one preset. Its fields are flags; the defaults shown are this preset's own."""

    shards: str
    """Folder or s3://bucket/prefix with the shards of jobs.preprocess."""
    models: str
    """Folder or s3://bucket/prefix for the model, NAME.safetensors, and the run's checkpoints."""
    workers: int | tuple[int, int] = 1
    """DDP workers, each with one GPU or an equal part of its machine's CPU cores. Two numbers: at least and
    at most; how many there are follows the room on the cluster while it runs. A step always has as many
    batches as the larger number."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: GPUs if the cluster has them now; yes: ask for them, also of an autoscaler that has none yet."""
    fold: Literal[0, 1, 2, 3, 4] = 0
    """Which fifth of the patients is held out for validation."""
    fresh: bool = False
    """Start anew with the shards of now. Otherwise the same command goes on with a training that was cut off,
    with the shards that it began with."""
    ray: UseRay = "auto"
    """no: one worker, in this process; auto: that where no cluster is named and shards are few. The model is
    the same, and each of both ways goes on where the other was cut off."""
    preset: Annotated[Preset, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


def main(settings: Settings, system: str) -> Outcome:
    """`settings.preset.name` is the model's name by now, `system` the preset's own."""
    name, models = settings.preset.name, Store(settings.models)
    asked = pin.asked_for(replace(settings.preset, name=system), settings.fold, Store(settings.shards))
    plan = plans.read_plan(settings, system, None if settings.fresh else pin.read(models, name, asked))
    if settings.fresh:
        plans.forget(settings, asked, plan.run)
    elif (trained := read_trained(models, name, "run", plan.run)) is not None:
        plans.let_go(settings, asked, plan.run)
        say(f"nothing to do: {name}.safetensors is the model of these shards and settings")
        return Outcome(models, summary(models, name, trained, epochs=0))
    return train(settings, plan, asked)


def train(settings: Settings, plan: Plan, asked: str) -> Outcome:
    """Make the model, with its curves and pictures, and register it. asked: fingerprint of the command."""
    from jobs.workers.rank import Job  # with torch, which --help does without

    name, models, alone = settings.preset.name, Store(settings.models), trains_here(settings, plan)
    tracker = Tracker()  # first: it fails early where it cannot be reached
    fit = fit_here() if alone else fit_by_ray()
    params = {**flatten(to_dict(plan.preset)), "fold": plan.fold, "workers": settings.workers}
    provenance = plan.provenance()
    tags = {"data": plan.data, "commit": provenance["commit"], "shards": without_login(settings.shards)}
    run_id = tracker.start(name, plan.run, params, tags, fresh=settings.fresh)
    meter = TrainingMeter()
    try:
        shards = Store(settings.shards)
        job = Job(plan=plan, provenance=provenance, shards=shards, parts=settings.most_workers)

        def on_report(epoch: int, minutes: float, figures: dict[str, float]) -> None:
            if "steps" in figures:
                meter.step(step_line(epoch, minutes, figures), minutes, figures["minutes_left"])
                return
            meter.epoch(progress_line(settings.preset.budget, epoch, minutes, figures))
            tracker.log(run_id, figures, epoch)

        plans.keep_plan(settings, asked, plan)
        result = fit(job, settings, plans.checkpoints(settings, plan.run), on_report)
        data = result["model"]
        for file, picture in pictures(plan, result).items():
            tracker.attach(run_id, file, picture)
            models.put(f"_pictures/{name}/{file}", picture)
        tracker.register(run_id, name, data, digest(data), tags, plan.preset.modalities)
        models.put(f"{name}.safetensors", data)  # last: cut off before this, the next run does the rest
        plans.let_go(settings, asked, plan.run)
    except BaseException:
        with contextlib.suppress(RunError):  # what ended the training counts more
            tracker.finish(run_id, "FAILED")
        raise
    finally:
        meter.close()
    tracker.finish(run_id)
    say(final_table(result["validations"]))
    details = {"losses": result["losses"], "validations": result["validations"]}
    return Outcome(models, summary(models, name, data, len(result["losses"])), details=details)


def fit_here() -> Callable[..., dict]:
    """What trains in this process; with torch, which --help does without."""
    from jobs.driver import training_here

    return training_here.fit


def fit_by_ray() -> Callable[..., dict]:
    """What trains by Ray, which is up by then."""
    from jobs.driver import training

    training.start_ray()
    return training.fit


def trains_here(settings: Settings, plan: Plan) -> bool:
    """Whether this process trains by itself. Raises UsageError where it is asked to be several workers."""
    if settings.ray == "no" and settings.most_workers > 1:
        raise UsageError(f"--ray no --workers {settings.workers}: one process is one worker")
    return settings.most_workers == 1 and fits_here(settings.ray, len(plan.training) + len(plan.held_out))


def pictures(plan: Plan, result: dict) -> dict[str, bytes]:
    """PNG and GIF by file name: the curves, what the data holds, and held-out cases."""
    curves = draw_curves(
        result["losses"], result["validations"], result["rates"], best_epoch(result["validations"])
    )
    return {"curves.png": curves, "classes.png": draw_classes(plan.classes()), **result["pictures"]}


def read_trained(models: Store, name: str, kind: str, made_by: str) -> bytes | None:
    """The model file, if it is the one that this training ("run") or "sweep" makes, by its fingerprint. One
    of another is said to be replaced."""
    try:
        data = models.read(f"{name}.safetensors")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{models.uri}/{name}.safetensors: cannot be read: {error}") from error
    header = read_header(data, f"{models.uri}/{name}.safetensors")
    if header.get("provenance", {}).get(kind) == made_by:
        return data
    say(f"{name}.safetensors is of another training, and replaced when this one ends; --name keeps both")
    return None


def summary(models: Store, name: str, data: bytes, epochs: int) -> dict:
    """The last line's counts; `epochs` are those of all resumes together, 0 where there was nothing to do."""
    key = f"{name}.safetensors"
    figures = read_header(data, key)["provenance"]["validation"]
    dice = {key.removeprefix("dice/"): round(v, 4) for key, v in figures.items() if key.startswith("dice/")}
    return {"model": f"{models.uri}/{key}", "digest": digest(data), "dice": dice, "epochs": epochs}


def cli(argv: list[str]) -> int:
    """`PRESET [flags]` → exit code."""
    return preset_flags.run("train", Settings, main, __doc__, argv)


if __name__ == "__main__":
    leave(cli(sys.argv[1:]))
