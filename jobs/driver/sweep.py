"""The trials of jobs.tune by Ray Tune: run, judged, stopped early; what came of them. Not a command."""

import os
from dataclasses import replace
from typing import Protocol

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.util.queue import Queue

from bts.errors import CaseError, Failure, RunError
from bts.storage import Store
from jobs.driver import training
from jobs.driver.cluster import node_cpus
from jobs.workers.rank import Job
from jobs.workers.trial import Trial, run_trial

FIRST_RUNG, THIRD = 11, 3  # ASHA: at 11, 33 and 99 % of the budget the best third goes on


class Asked(Protocol):
    """Of a sweep's settings, those that say where it runs."""

    @property
    def models(self) -> str: ...

    @property
    def shards(self) -> str: ...

    @property
    def gpu(self) -> str: ...

    @property
    def cpus(self) -> int | None: ...


def fit(name: str, trials: list[Trial], settings: Asked, reports: Queue) -> list[tune.Result]:
    """Run what is left of the sweep → the outcome of every trial, in their order."""
    models, shards, asked = Store(settings.models), Store(settings.shards), resources(settings)
    jobs = [Job(plan=t.plan, provenance=t.plan.provenance(), shards=shards, parts=1) for t in trials]
    device = None if "GPU" in asked else "cpu"
    work = tune.with_parameters(run_trial, jobs=jobs, reports=reports, cpus=asked["CPU"], device=device)
    work = tune.with_resources(work, asked)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # MLflow has the figures
    # Ctrl-C ends the command. Tune would end the sweep, as if its trials were all that they could be.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
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
    """Of its trial."""
    assert result.config is not None, "run_trial has one"
    return result.config["number"]


def dice_of(result: tune.Result) -> float:
    """Of a trial that did not fail."""
    assert result.metrics is not None, "run_trial reports them"
    return result.metrics["dice"]


def resources(settings: Asked) -> dict[str, float]:
    """What a trial asks of the cluster. Raises UsageError for a GPU that this machine does not have."""
    gpu = training.wants_gpu(settings.gpu, workers=1)
    cpus = settings.cpus or (1 if gpu else max([1, *node_cpus()]))
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
