"""A sweep over a preset's fields: many trainings, the poor ones stopped early, the best one's model kept.

Trials are drawn at random from what `--over` names; the first is the preset as it is. Each is a training of
one worker, judged at each validation by its mean Dice on the held-out patients, and stopped where others did
better by then (ASHA: Li et al. 2020). The same command again goes on where it was cut off.

    python -m jobs.tune fast --shards data/shards --models data/models --trials 20 \\
        --over optimiser.lr=1e-3..1e-2 loss.dice=0.5,1,2 --budget.validate-every 2
"""

import os
import sys
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import ray
import tyro
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.util.queue import Queue

from bts.errors import CaseError, Failure, RunError, UsageError
from bts.fingerprint import fingerprint
from bts.mlflow_client import without_login
from bts.model.header import digest, read_header
from bts.settings import Preset
from bts.settings_json import to_dict
from bts.shards.catalogue import read_catalogue
from bts.storage import Store
from bts.tracking import Tracker, flatten
from bts.training import search_space
from bts.training.plan import make_plan, read_encoder
from jobs import train
from jobs.driver import plans, preset_flags, training
from jobs.driver.cluster import start_ray
from jobs.driver.outcome import Outcome
from jobs.driver.progress import say
from jobs.workers.train import Job
from jobs.workers.trial import Trial, model_of, run_trial

FIRST_RUNG, THIRD = 11, 3  # ASHA: at 11, 33 and 99 % of the budget the best third goes on
FORMAT = 1  # raised when equal flags make another sweep


@dataclass(kw_only=True)
class Settings:
    """Sweep over one preset. Its fields are flags, for all trials; the defaults shown are its own."""

    shards: str
    """Folder or s3://bucket/prefix with the shards of jobs.preprocess."""
    models: str
    """Folder or s3://bucket/prefix for the best trial's model, NAME.safetensors, and all checkpoints."""
    over: tuple[str, ...]
    """What to vary: FIELD=LOW..HIGH (whole numbers where both ends are; each decade as likely where there are
    several) or FIELD=A,B,C. A FIELD is a flag of the preset without its dashes."""
    trials: int = 16
    """How many trainings, that of the preset as it is among them."""
    fold: Literal[0, 1, 2, 3, 4] = 0
    """Which fifth of the patients is held out for validation."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: a GPU a trial if the cluster has one now; yes: ask for them, also of an autoscaler."""
    cpus: int | None = None
    """CPU cores a trial; None: one beside a GPU, otherwise all of a machine's."""
    preset: Annotated[Preset, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]


def main(settings: Settings, system: str) -> Outcome:
    """`settings.preset.name` is the model's name, `system` the preset's own."""
    name, models = settings.preset.name, Store(settings.models)
    trials = read_trials(settings, system)
    sweep = fingerprint({str(t.number): t.plan.run for t in trials}, options={}, version=FORMAT)
    if (data := train.read_trained(models, name, "sweep", sweep)) is not None:
        say(f"nothing to do: {name}.safetensors is the best model of this sweep")
        return Outcome(models, train.summary(models, name, data, epochs=0))
    book = Book(name, sweep, trials, without_login(settings.shards))
    start_ray()
    try:
        news = training.open_queue()
        with training.Listener(news, book.told):
            results = fit(f"{name}-{sweep}", trials, settings, news)
        best = best_of(trials, results)
        checkpoint = results[best.number].checkpoint
        assert checkpoint is not None, "best_of takes no other"
        data = model_of(best, checkpoint, sweep)
        book.register(best, data)
        models.put(f"{name}.safetensors", data)  # last: cut off before this, the next run does the rest
    finally:
        book.close()
    say(table(trials, results))
    counts = train.summary(models, name, data, epochs=read_header(data, name)["provenance"]["epochs"])
    counts |= {"trials": len(trials), "best": " ".join(best.flags)}
    return Outcome(models, counts, failures(results))


def read_trials(settings: Settings, system: str) -> list[Trial]:
    """The trials, each with its plan. Raises UsageError before anything starts."""
    plans.check_name(settings.preset.name)
    if settings.trials < 1:
        raise UsageError(f"--trials {settings.trials}: give at least 1")
    axes = [search_space.parse_axis(given) for given in settings.over]
    read_encoder(settings.preset.layers.weights)  # fails early where it cannot be read
    catalogue, trials = read_catalogue(Store(settings.shards)), []
    for number, drawn in enumerate(search_space.draw_trials(axes, settings.trials, settings.preset.seed)):
        flags = search_space.to_flags(drawn)
        try:
            preset = tyro.cli(Preset, prog="--over", args=flags, default=settings.preset)
        except SystemExit:  # tyro has said what is wrong
            raise UsageError(f"--over gives {' '.join(flags)}, which no training takes") from None
        plan = make_plan(catalogue, replace(preset, name=system), settings.fold)
        if number == 0:
            plans.say_left_out(plan)
        trials.append(Trial(number=number, flags=flags, plan=plan))
    return trials


def fit(name: str, trials: list[Trial], settings: Settings, news: Queue) -> list[tune.Result]:
    """Run what is left of the sweep → the outcome of every trial, in their order."""
    models, shards, asked = Store(settings.models), Store(settings.shards), resources(settings)
    jobs = [
        Job(plan=t.plan, provenance=t.plan.provenance(), shards=shards, parts=1, news=news) for t in trials
    ]
    device = None if "GPU" in asked else "cpu"
    work = tune.with_parameters(run_trial, jobs=jobs, cpus=asked["CPU"], device=device)
    work = tune.with_resources(work, asked)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # MLflow has the figures
    folder, filesystem = models.path("_sweeps"), models.arrow_fs()
    place = f"{folder}/{name}"
    if tune.Tuner.can_restore(place, storage_filesystem=filesystem):
        tuner = tune.Tuner.restore(place, work, restart_errored=True, storage_filesystem=filesystem)
    else:
        scheduler = ASHAScheduler("percent", max_t=101, grace_period=FIRST_RUNG, reduction_factor=THIRD)
        tuner = tune.Tuner(
            work,
            param_space={"number": tune.grid_search([trial.number for trial in trials])},
            tune_config=tune.TuneConfig(metric="dice", mode="max", scheduler=scheduler),
            run_config=tune.RunConfig(
                name=name,
                storage_path=folder,
                storage_filesystem=filesystem,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                failure_config=tune.FailureConfig(max_failures=training.MAX_FAILURES),
                verbose=0,
            ),
        )
    grid = tuner.fit()
    return sorted((grid[n] for n in range(len(grid))), key=number_of)


def number_of(result: tune.Result) -> int:
    assert result.config is not None, "run_trial has one"
    return result.config["number"]


def dice_of(result: tune.Result) -> float:
    """Of a trial that did not fail."""
    assert result.metrics is not None, "run_trial reports them"
    return result.metrics["dice"]


def resources(settings: Settings) -> dict[str, float]:
    """What a trial asks of the cluster. Raises UsageError for a GPU that this machine does not have."""
    gpu = training.wants_gpu(settings.gpu, workers=1)
    most = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    cpus = settings.cpus or (1 if gpu else max(1, most))
    return {"CPU": cpus, "GPU": 1} if gpu else {"CPU": cpus}


def best_of(trials: list[Trial], results: list[tune.Result]) -> Trial:
    """The trial of the highest Dice. Raises RunError where every trial failed."""
    failed = reasons(results)
    scored = [n for n, result in enumerate(results) if n not in failed and result.checkpoint]
    if not scored:
        raise RunError(f"every trial failed, the first with: {next(iter(failed.values()), 'no validation')}")
    return trials[max(scored, key=lambda n: dice_of(results[n]))]


def reasons(results: list[tune.Result]) -> dict[int, str]:
    """Why trials failed, by their number."""
    said = {n: result.error or (result.metrics or {}).get("failure") for n, result in enumerate(results)}
    return {n: str(reason) for n, reason in said.items() if reason}


def failures(results: list[tune.Result]) -> list[Failure]:
    """The failed trials, as the run report lists failed cases."""
    found = []
    for n, reason in reasons(results).items():
        failure = Failure.of(CaseError(reason, mend=""), f"trial {n}", "train")
        found.append(replace(failure, message=f"trial {n}: {reason}"))
    return found


def table(trials: list[Trial], results: list[tune.Result]) -> str:
    """Every trial, the best first, with how much of its budget it was given."""
    lines = ["trial    Dice  budget  flags"]
    failed = reasons(results)
    dice = [-1.0 if n in failed else dice_of(result) for n, result in enumerate(results)]
    for n in sorted(range(len(trials)), key=lambda n: -dice[n]):
        score = "failed" if n in failed else f"{dice[n]:.3f}"
        percent = (results[n].metrics or {}).get("percent", 0)
        lines.append(f"{n:5}  {score:>6}  {percent:4} %  {trials[n]}")
    return "\n".join(lines)


class Book:
    """The sweep in MLflow: a run, and one below it for each trial."""

    def __init__(self, name: str, sweep: str, trials: list[Trial], shards: str):
        self.name, self.tracker, self.status = name, Tracker(), "FAILED"
        self.tags = {"data": trials[0].plan.data, "shards": shards}
        self.parent = self.tracker.start(f"{name} sweep", sweep, {"trials": len(trials)}, self.tags)
        self.runs = [self._start(trial, sweep) for trial in trials]

    def _start(self, trial: Trial, sweep: str) -> str:
        params = {**flatten(to_dict(trial.plan.preset)), "fold": trial.plan.fold}
        tags = {**self.tags, "mlflow.parentRunId": self.parent}
        return self.tracker.start(f"{self.name} {trial.number}", f"{sweep}-{trial.number}", params, tags)

    def told(self, number: int, epoch: int, figures: dict[str, float]) -> None:
        """What a trial says after a validation."""
        where = f"trial {number}, {figures['percent']} % of its budget"
        say(f"{where}: epoch {epoch}, loss {figures['loss']:.4f}, best Dice {figures['dice']:.3f}")
        self.tracker.log(self.runs[number], figures, epoch)

    def register(self, best: Trial, data: bytes) -> None:
        """The best trial's model, as the next version of its name."""
        run, modalities = self.runs[best.number], best.plan.preset.modalities
        self.tracker.register(run, self.name, data, digest(data), self.tags, modalities)
        self.status = "FINISHED"

    def close(self) -> None:
        """Every run is over, well or not."""
        for run in (*self.runs, self.parent):
            self.tracker.finish(run, self.status)


if __name__ == "__main__":
    sys.exit(preset_flags.run("tune", Settings, main, __doc__, sys.argv[1:]))
