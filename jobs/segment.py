"""Cases in a bucket → one labelmap a case on the source's own grid, by one model or an ensemble.

Three streaming stages: read and crop (CPU tasks), predict (GPU or CPU actors), restore, write and commit (CPU
tasks). Only what is new or changed is done; a case with bad data fails alone, with stage and reason.

    python -m jobs.segment --cases data/cases --model data/models/fast.safetensors --labelmaps data/labelmaps
    ray job submit --working-dir . -- python -m jobs.segment --cases s3://b/cases \\
        --model models:/fast@champion --labelmaps s3://b/labelmaps
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from bts.cases import worklist
from bts.cases.case import Case
from bts.cases.layouts import find_cases
from bts.cases.read import reader_of
from bts.errors import Failure, UsageError
from bts.inference.options import SegmentOptions, engine_version
from bts.labels import WRITTEN_AS, can_be_written, spelt
from bts.results import colour_tables
from bts.results.files import refuse_foreign
from bts.results.layout import convention_of, labelmap_key, left_to_do, marker_key, results_of, whole
from bts.storage import Entry, Store
from jobs.driver import drivers, incremental, predicting
from jobs.driver.figshare_index import index_figshare
from jobs.driver.listing import list_cases, set_unfit_aside
from jobs.driver.models import by_version, read_models
from jobs.driver.outcome import Outcome, run_job
from jobs.workers.write import FORMAT, Write


@dataclass(frozen=True)
class Settings(incremental.Flags, SegmentOptions):
    """Flags of jobs.segment."""

    cases: str
    """Folder or s3://bucket/prefix with the cases; ground truth is not read. A model for figshare segments
    figshare's slices there, any other model the other cases."""
    labelmaps: str
    """Folder or s3://bucket/prefix for the labelmaps."""
    model: tuple[str, ...] = ("box",)
    """Model file (path or URI) or models:/NAME@ALIAS of the registry; several are averaged as an ensemble.
    box is the model that comes with the project (bts/weights/README.md)."""
    roles: tuple[str, ...] = ()
    """Where file names do not tell what they hold: patterns or a CSV file, as jobs.preprocess
    takes them."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: GPUs if the cluster has them now; yes: ask for them, also of an autoscaler that has none yet."""
    predictors: int | None = None
    """Predicting actors to ask for, each with one GPU (or --gpu-share of one) or a few CPU cores; they start
    as room for them comes, also by an autoscaler. None: as many as there is room for now."""
    gpu_share: float = 1.0
    """Share of a GPU for each predicting actor: 0.5 puts two actors on one GPU that one does not fill."""
    drivers: int = 1
    """On a cluster: submit this command so many times, each with --part I/N and its share of the predictors,
    and join their reports. One driver hands out only some hundred cases a second."""
    overwrite: bool = False
    """Replace labelmaps that jobs.segment did not make, too, and those that were edited since. Without this
    flag a run that would replace one of others ends before it starts, and an edited one fails its case."""

    def check(self) -> None:
        """Raise UsageError for values that make no sense."""
        super().check()
        if spelt(self.labels) != "auto" and not can_be_written(spelt(self.labels)):
            raise UsageError(f"--labels {self.labels}: a labelmap needs a value for each of NCR, ED and ET")
        if self.predictors is not None and self.predictors < 1:
            raise UsageError(f"--predictors {self.predictors}: give at least 1")
        if self.engine != "torch":
            engine_version(self.engine)
            predicting.may_use(self)
        if not 0 < self.gpu_share <= 1:
            raise UsageError(f"--gpu-share {self.gpu_share:g}: give more than 0 and at most 1")
        self.check_drivers()

    def check_drivers(self) -> None:
        """Raise UsageError for what several drivers cannot do together."""
        if self.drivers < 1:
            raise UsageError(f"--drivers {self.drivers}: give at least 1")
        alone = {"--part": self.part != "1/1", "--limit": self.limit is not None, "--dry-run": self.dry_run}
        alone["--ray no"] = self.ray == "no"
        if found := [name for name, given in alone.items() if given and self.drivers > 1]:
            raise UsageError(f"--drivers {self.drivers}: does not go with {found[0]}; give one of the two")


def main(settings: Settings) -> Outcome:
    settings.check()
    source, output = Store(settings.cases), Store(settings.labelmaps)
    if settings.drivers > 1:
        return submit(settings, output)
    models = read_models(settings.model, settings.engine)
    targets = models.finish.predicts.targets
    listing = list_cases(source, settings.labels, settings.roles)
    who = f"--model {' '.join(settings.model)} (targets {targets})"
    unfit = set_unfit_aside(listing, targets in WRITTEN_AS, source, who)
    failed = index_figshare(listing, source, output, settings.ray, keep=not settings.dry_run)
    incremental.keep_part(listing, settings)
    failed += [Failure.of(problem) for problem in listing.problems]
    cases = len(listing.cases) + len(failed)
    check_apart(listing.cases, source, output)
    write = Write(source, output, models.described, models.finish, settings, overwrite=settings.overwrite)
    there = output.keys()
    present = results_of(there)
    work = plan(listing.cases, there, present, write, settings.retry_failed)
    failed += incremental.failed_before(work, settings, output)
    if not settings.overwrite:
        mend = "give --labelmaps another folder, or --overwrite to replace it"
        refuse_foreign((one.case.id for one in work.todo), there, output, mend)
    counts = {"cases": cases, "unchanged": work.done, "left_aside": len(work.aside), "unfit": len(unfit)}
    if settings.dry_run:
        failed += incremental.foresee(work, (*settings.allow_missing, *models.unused), truth=False)
        reasons = incremental.explain(work, write.made_of, write.read_made_of)
        return incremental.rehearse(reasons, {**counts, "todo": len(work.todo)}, failed)
    for key in work.stale:
        output.delete(key)
    explain_labels(listing.cases, write, there)
    todo = worklist.largest_first(work.todo)
    rows = [{**one.to_row(), "present": sorted(present.get(one.case.id, ()))} for one in todo]
    settled = incremental.settle(predicting.run(rows, source, write, models, settings), work, output)
    incremental.say_flagged(settled.flagged)
    counts |= {"written": settled.written, "flagged": len(settled.flagged)}
    details = {"models": models.described, "flagged_cases": settled.flagged, "unfit_cases": unfit[:1000]}
    details["strays"] = listing.strays[:1000]
    return Outcome(output, counts, failed + settled.failed, details, settings.max_failed)


def submit(settings: Settings, output: Store) -> Outcome:
    """This command by several drivers of a cluster."""
    client, count = drivers.connect(settings.drivers), settings.drivers
    here = replace(settings, cases=Store(settings.cases).uri, labelmaps=output.uri)
    model = by_version(drivers.by_full_path(here.model))
    here = replace(here, model=model, roles=drivers.by_full_path(here.roles))
    each = replace(here, drivers=1, max_failed="0", predictors=predicting.share(settings, count))
    return drivers.run(client, "segment", each, count, output, settings.max_failed)


def check_apart(cases: Iterable[Case], source: Store, output: Store) -> None:
    """Raise UsageError where a labelmap would be listed among the cases, as a truth of its own making: in
    MSD's labelsTs it would be scored against itself, in labelsTr it would replace the truth."""
    above, place = (f"{store.uri.rstrip('/')}/" for store in (source, output))
    if not place.startswith(above):
        return
    keys = (place.removeprefix(above) + labelmap_key(case.id) for case in cases)
    if taken := find_cases(Entry(key, 0, "") for key in keys).cases:
        key = next(iter(taken[0].files.values())).key
        raise UsageError(f"--labelmaps {output.uri}: {key} would count as ground truth; give another folder")


def explain_labels(cases: list[Case], write: Write, there: set[str]) -> None:
    """Leave names and colours for ITK-SNAP and 3D Slicer beside the labelmaps, once a convention."""
    conventions = (convention_of(case, write.labels, write.targets) for case in cases)
    for key, data in colour_tables.files(conventions).items():
        if key not in there:
            write.output.put(key, data)


def plan(
    cases: list[Case], there: set[str], present: dict[str, set[str]], write: Write, retries: int
) -> worklist.Work:
    """What is left: a case is done if its marker carries today's fingerprint and its files are present."""
    wanted, void = [], set()
    for case in cases:
        mark = fingerprint(case, write)
        if not whole(case, present.get(case.id, set()), write.sure_of):
            void.add(marker_key(case.id, mark))
        elif marker_key(case.id, mark) not in there:
            more = fingerprint(case, write, probabilities=True)
            if marker_key(case.id, more) in there:  # the same labelmap, and more beside it
                mark = more
        wanted.append((case, mark))
    return left_to_do(wanted, there, void, retries)


def fingerprint(case: Case, write: Write, **more: object) -> str:
    """Of a case's results, with `more` options than were asked for."""
    options = {**write.options_of(case), **more}
    return worklist.case_fingerprint(case, reader_of(case).inputs(case), options=options, version=FORMAT)


if __name__ == "__main__":
    run_job("segment", Settings, main)
