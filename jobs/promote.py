"""A registered model becomes the champion if it is better than the present one on cases that both segmented.

jobs.segment and jobs.evaluate come first, for both models. A case does not count where either of them was
trained on its patient, or chose by it which epoch's weights to keep. It moves an alias of the registry, and
writes nothing else.

    python -m jobs.promote models:/fast/2 --if-better-than champion --on data/reports/v2 data/reports/champion
    ray job submit --working-dir . -- python -m jobs.promote models:/fast/2 --on s3://b/reports/v2 s3://b/reports/v1
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from bts.errors import UsageError
from bts.model.header import digest
from bts.scoring import comparison, metrics, tables
from bts.scoring.scores import Scored
from bts.scoring.statistics import FEWEST, Paired
from bts.storage import read_file
from bts.tracking import CHAMPION, Tracker, Version, open_registry
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.progress import counted, say


@dataclass
class Settings:
    """Flags of jobs.promote."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The candidate: models:/NAME/VERSION, models:/NAME@ALIAS, or the file of a registered model."""
    on: tuple[str, ...] = ()
    """Reports of jobs.evaluate on the same cases (folders, or their scores.parquet): of the candidate's
    labelmaps and of the other version's, in any order, for they tell what made the labelmaps."""
    if_better_than: str = CHAMPION
    """Alias of the version to beat, of the same registered model. Where no version has it, the candidate gets
    --alias without a comparison."""
    alias: str = CHAMPION
    """Alias that the candidate gets."""
    metric: Literal["dice", "iou", "nsd1", "hd95", "lesion_dice", "lesion_hd95"] = "dice"
    """What is compared: of each case the mean over WT, TC and ET, or of figshare's tumour."""
    p_value: float = 0.05
    """The mean must be better, and the two-sided p of Wilcoxon's signed-rank test below this."""


def main(settings: Settings) -> Outcome:
    if not 0 < settings.p_value <= 1:
        raise UsageError(f"--p-value {settings.p_value:g}: give a probability, such as 0.05")
    tracker = open_registry(settings.model)
    candidate = find(tracker, settings.model)
    said: dict[str, Any] = {"model": candidate.uri, "digest": candidate.digest, "alias": settings.alias}
    holder = tracker.holder(candidate.name, settings.if_better_than)
    if holder is None:
        why = f"no version of {candidate.name} was {settings.if_better_than}"
        return settle(tracker, candidate, said, why, promoted=True)
    said["against"] = holder.uri
    if holder.digest == candidate.digest:
        why = f"it is the {settings.if_better_than} ({holder.uri}) already"
        return settle(tracker, candidate, said, why, promoted=False)
    scored = [one for report in settings.on for one in tables.load(report)]
    paired = compare(tracker, candidate, holder, scored, settings.metric)
    lower = settings.metric in metrics.LOWER_IS_BETTER
    better = paired.difference < 0 if lower else paired.difference > 0
    promoted = better and paired.p < settings.p_value
    why = figures(paired, settings.metric, holder)
    if not promoted:
        why += f", not below {settings.p_value:g}" if better else "; the mean is not better"
    said |= {"metric": settings.metric, **asdict(paired), "difference": paired.difference}
    return settle(tracker, candidate, said, why, promoted=promoted)


def find(tracker: Tracker, name: str) -> Version:
    """The registered version that a name or a model file means. Raises UsageError if there is none."""
    if name.startswith("models:/"):
        found = tracker.version(name)
        if not found.digest:
            raise UsageError(
                f"{name}: has no tag `digest`; only models that jobs.train registered can be told"
            )
        return found
    wanted = digest(read_file(name))
    versions = tracker.find(wanted)
    if not versions:
        raise UsageError(
            f"{name}: no version registered in {tracker.place} has its digest {wanted}; jobs.train registers "
            "its models where MLFLOW_TRACKING_URI says"
        )
    if names := {one.name for one in versions} - {versions[-1].name}:
        raise UsageError(f"{name}: also registered as {', '.join(names)}; give models:/NAME/VERSION")
    return versions[-1]


def compare(
    tracker: Tracker, candidate: Version, holder: Version, scored: Sequence[Scored], metric: str
) -> Paired:
    """Candidate and holder on the cases that both have. Raises UsageError where that says nothing."""
    first, second = (scores_of(version, scored) for version in (candidate, holder))
    options = {one.maker.partition(" ")[2] for one in (*first.values(), *second.values())}
    if len(options) > 1:
        said = " and ".join(sorted(f"--{one}" if one else "none" for one in options))
        raise UsageError(f"--on: labelmaps were made with different options ({said}); segment all alike")
    both = first.keys() & second.keys()
    known = [patients_of(tracker, version) for version in (candidate, holder)]
    trained, chose = (set().union(*of) for of in zip(*known, strict=True))
    patients = {case_id: first[case_id].same_patient for case_id in both}
    usable = sorted(case_id for case_id in both if patients[case_id] not in trained | chose)
    for seen, why in ((trained, "were used in training"), (chose - trained, "chose the epoch that was kept")):
        if count := sum(patient in seen for patient in patients.values()):
            say(f"{count} of {len(both)} common cases {why}: left out")
    unseen = {patients[case_id] for case_id in usable}
    if len(unseen) < FEWEST:
        raise UsageError(
            f"--on: too few cases: {len(both)} are scored for both {candidate.uri} and {holder.uri}, "
            f"{len(usable)} of them of {len(unseen)} patients that neither was trained on or chose by; "
            f"{FEWEST} patients are needed: segment and evaluate labelled cases of others with both models"
        )
    for one, other, alone in (
        (candidate, holder, first.keys() - both),
        (holder, candidate, second.keys() - both),
    ):
        if alone:
            say(f"{counted(len(alone), 'case')} left out, scored for {one.uri} alone, not for {other.uri}")
    pairs = [(first[case_id], second[case_id]) for case_id in usable]
    refuse_other_truths(pairs)
    refuse_other_rules(pairs)
    try:
        ours, theirs = ([metrics.mean_score(of[i].scores, metric) for i in usable] for of in (first, second))
    except KeyError:
        raise UsageError(f"--metric {metric}: not every case has been scored by it") from None
    return comparison.compare_metric(metric, ours, theirs, [patients[case_id] for case_id in usable])


def refuse_other_truths(pairs: Sequence[tuple[Scored, Scored]]) -> None:
    """Raise UsageError where two scores of a case are against different truths, told by their volumes."""
    for one, other in pairs:
        for region in one.truth_ml.keys() & other.truth_ml.keys():
            if not math.isclose(one.truth_ml[region], other.truth_ml[region], rel_tol=1e-6):
                said = " and ".join(f"{of.truth_ml[region]:.3f}" for of in (one, other))
                raise UsageError(
                    f"--on: the ground truth of case {one.case_id} differs ({region} {said} ml): it was "
                    "changed in between, or is another case of this name; evaluate both models' labelmaps now"
                )


def refuse_other_rules(pairs: Sequence[tuple[Scored, Scored]]) -> None:
    """Raise UsageError where two scores of a case are by the rules of different years."""
    for one, other in pairs:
        if one.rules != other.rules and one.rules and other.rules:
            raise UsageError(
                f"--on: case {one.case_id} was scored by the rules of BraTS {one.rules} and {other.rules}; "
                "run jobs.evaluate again with the same --rules for both models"
            )


def scores_of(version: Version, scored: Sequence[Scored]) -> dict[str, Scored]:
    """Those of labelmaps that this model alone made, by case. Raises UsageError if there is none, or two that
    differ.
    """
    found: dict[str, Scored] = {}
    for one in scored:
        if one.maker.partition(" ")[0] != version.digest:
            continue
        other = found.setdefault(one.case_id, one)
        if metrics.mean_dice(other.scores) != metrics.mean_dice(one.scores):
            raise UsageError(f"--on: case {one.case_id} has two different scores of {version.uri}")
    if not found:
        makers = ", ".join(sorted({one.maker or "another tool" for one in scored})) or "nothing"
        raise UsageError(
            f"--on: no scores of {version.uri} (digest {version.digest}), but of {makers}; run jobs.segment "
            f"--model {version.uri}, then jobs.evaluate on its labelmaps"
        )
    return found


def patients_of(tracker: Tracker, version: Version) -> tuple[set[str], set[str]]:
    """(patients that it was trained on, patients that chose what was kept of it), in lower case.

    As the model's own header names them: a set may write them either way. Scores on both are too good.
    """
    from bts.model.load import read_card  # with torch, which --help does without

    card = read_card(tracker.read(version.uri), version.uri)
    if card.training_patients is None:
        say(f"{version.uri}: does not tell what it was trained on; give reports of cases that it never saw")
    trained = {patient.lower() for patient in card.training_patients or ()}
    return trained, {patient.lower() for patient in card.validation_patients}


def figures(paired: Paired, metric: str, holder: Version) -> str:
    """The comparison in one line, for a person and for the version's tag."""
    return (
        f"mean {metric} {paired.first:.4f}, of {holder.uri} {paired.second:.4f} (difference "
        f"{paired.difference:+.4f}, 95 % {paired.low:+.4f} to {paired.high:+.4f}), better in {paired.better} "
        f"and worse in {paired.worse} of {paired.n} cases, p {paired.test}"
    )


def settle(
    tracker: Tracker, candidate: Version, said: dict[str, Any], why: str, *, promoted: bool
) -> Outcome:
    """Move the alias or leave it, and say so."""
    if promoted:
        tracker.promote(candidate, said["alias"], why)
    verb = "is now" if promoted else "does not become"
    print(f"{candidate.uri} {verb} {said['alias']}: {why}", flush=True)
    return Outcome(None, {"promoted": promoted, **said, "why": why})


if __name__ == "__main__":
    run_job("promote", Settings, main)
