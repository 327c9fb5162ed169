"""A sweep over a preset's fields: many trainings, the poor ones stopped early, the best one's model kept.

Trials are drawn at random from what `--over` names; the first is the preset as it is. Each is a training of
one worker, judged at each validation by its mean Dice on the held-out patients, and stopped where others did
better by then (ASHA: Li et al. 2020). The same command again goes on where it was cut off.

    python -m jobs.tune fast --shards data/shards --models data/models --trials 20 \\
        --over optimiser.lr=1e-3..1e-2 loss.dice=0.5,1,2 --budget.validate-every 2
"""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bts.errors import UsageError
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
from jobs.driver import plans, preset_flags
from jobs.driver.cluster import start_ray
from jobs.driver.outcome import Outcome, leave
from jobs.driver.progress import say

if TYPE_CHECKING:
    from jobs.workers.trial import Trial  # with torch and Ray

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
    """How many different trainings, the preset as it is among them; fewer where --over gives no more."""
    fold: Literal[0, 1, 2, 3, 4] = 0
    """Which fifth of the patients is held out for validation."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: a GPU a trial if the cluster has one now; yes: ask for them, also of an autoscaler."""
    cpus: int | None = None
    """CPU cores a trial; None: one beside a GPU, otherwise all of a machine's."""
    preset: Annotated[Preset, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]


def main(settings: Settings, system: str) -> Outcome:
    """`settings.preset.name` is the model's name, `system` the preset's own."""
    from jobs.driver import sweep as sweeps  # with torch and Ray, which --help does without
    from jobs.driver import training
    from jobs.workers.trial import model_of

    name, models = settings.preset.name, Store(settings.models)
    trials = read_trials(settings, system)
    sweep = fingerprint({str(t.number): t.plan.run for t in trials}, options={}, version=FORMAT)
    if (data := train.read_trained(models, name, "sweep", sweep)) is not None:
        say(f"nothing to do: {name}.safetensors is the best model of this sweep")
        return Outcome(models, train.summary(models, name, data, epochs=0))
    log = SweepLog(name, sweep, trials, without_login(settings.shards))
    start_ray()
    try:
        reports = training.open_queue()
        with training.Listener(reports, log.on_report):
            results = sweeps.fit(f"{name}-{sweep}", trials, settings, reports)
        best = sweeps.best_of(trials, results)
        checkpoint = results[best.number].checkpoint
        assert checkpoint is not None, "best_of takes no other"
        data = model_of(best, checkpoint, sweep)
        log.register(best, data)
        models.put(f"{name}.safetensors", data)  # last: cut off before this, the next run does the rest
    finally:
        log.close()
    say(sweeps.table(trials, results))
    counts = train.summary(models, name, data, epochs=read_header(data, name)["provenance"]["epochs"])
    counts |= {"trials": len(trials), "best": " ".join(best.flags)}
    return Outcome(models, counts, sweeps.failures(results))


def read_trials(settings: Settings, system: str) -> "list[Trial]":
    """The trials, each with its plan. Raises UsageError before anything starts."""
    from jobs.workers.trial import Trial

    plans.check_name(settings.preset.name)
    if settings.trials < 1:
        raise UsageError(f"--trials {settings.trials}: give at least 1")
    axes = [search_space.parse_axis(given) for given in settings.over]
    read_encoder(settings.preset.layers.weights)  # fails early where it cannot be read
    catalogue = read_catalogue(Store(settings.shards))
    trials: list[Trial] = []
    for number, drawn in enumerate(search_space.draw_trials(axes, settings.trials, settings.preset.seed)):
        flags = search_space.to_flags(drawn)
        try:
            preset = tyro.cli(Preset, prog="--over", args=flags, default=settings.preset)
        except SystemExit:  # tyro has said what is wrong
            raise UsageError(f"--over gives {' '.join(flags)}, which no training takes") from None
        plan = make_plan(catalogue, replace(preset, name=system), settings.fold)
        if number == 0:
            plans.say_left_out(plan)
        if all(plan.preset != trial.plan.preset for trial in trials):  # the preset as it is, drawn
            trials.append(Trial(number=len(trials), flags=flags, plan=plan))
    if len(trials) < settings.trials:
        say(f"{len(trials)} trials instead of {settings.trials}: --over gives no more that differ")
    return trials


class SweepLog:
    """The sweep in MLflow: a run, and one below it for each trial."""

    def __init__(self, name: str, sweep: str, trials: "list[Trial]", shards: str):
        self.name, self.tracker, self.status = name, Tracker(), "FAILED"
        self.tags = {"data": trials[0].plan.data, "shards": shards}
        self.parent = self.tracker.start(f"{name} sweep", sweep, {"trials": len(trials)}, self.tags)
        self.runs = [self._start(trial, sweep) for trial in trials]

    def _start(self, trial: "Trial", sweep: str) -> str:
        params = {**flatten(to_dict(trial.plan.preset)), "fold": trial.plan.fold}
        tags = {**self.tags, "mlflow.parentRunId": self.parent}
        return self.tracker.start(f"{self.name} {trial.number}", f"{sweep}-{trial.number}", params, tags)

    def on_report(self, number: int, epoch: int, figures: dict[str, float]) -> None:
        """What a trial says after a validation."""
        where = f"trial {number}, {figures['percent']} % of its budget"
        say(f"{where}: epoch {epoch}, loss {figures['loss']:.4f}, best Dice {figures['dice']:.3f}")
        self.tracker.log(self.runs[number], figures, epoch)

    def register(self, best: "Trial", data: bytes) -> None:
        """The best trial's model, as the next version of its name."""
        run, modalities = self.runs[best.number], best.plan.preset.modalities
        self.tracker.register(run, self.name, data, digest(data), self.tags, modalities)
        self.status = "FINISHED"

    def close(self) -> None:
        """Every run is over, well or not."""
        for run in (*self.runs, self.parent):
            self.tracker.finish(run, self.status)


if __name__ == "__main__":
    leave(preset_flags.run("tune", Settings, main, __doc__, sys.argv[1:]))
