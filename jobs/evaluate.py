"""Labelmaps and ground truth → Dice and other scores of every case: a table, Parquet, CSV and an HTML page.

Scores any folder of labelmaps, another tool's too; a case whose labelmap cannot be scored fails alone, with
stage and reason. The ground truth of the cases suffices; where their images are there, the page shows them.

    python -m jobs.evaluate --labelmaps data/labelmaps --cases data/cases --report data/reports/first
    ray job submit --working-dir . -- python -m jobs.evaluate --labelmaps s3://b/labelmaps \\
        --cases s3://b/cases --report s3://b/reports/first
"""

import json
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from bts import tracking
from bts.colours import Colours
from bts.errors import Failure, RunError
from bts.report import case_page, page
from bts.results.match import Matched, Pair
from bts.scoring import comparison, tables
from bts.scoring.score_cache import ScoreCache
from bts.scoring.scores import Scored, means, metrics_of, regions_of, summarise, table, years_of
from bts.storage import Store
from jobs.driver import incremental
from jobs.driver.cluster import check_seen
from jobs.driver.figshare_index import index_figshare
from jobs.driver.here import UseRay
from jobs.driver.listing import list_cases
from jobs.driver.matching import match_all, say_matched, say_typeless
from jobs.driver.outcome import Outcome, check_max_failed, run_job
from jobs.driver.pictures import draw_cases, draw_comparison, montage, name_folders, write_files
from jobs.driver.pipeline import Stage, stream
from jobs.driver.progress import counted, say
from jobs.workers.draw import Draw, DrawSide
from jobs.workers.score import Score, scored_of

NAMED = 1000  # at most this many unmatched files by name in the run report


@dataclass
class Settings:
    """Flags of jobs.evaluate."""

    labelmaps: str
    """Folder or s3://bucket/prefix with the labelmaps: CASE.nii.gz, CASE-seg.nii.gz or another tool's name
    (docs/reference/data.md)."""
    cases: str
    """Folder or s3://bucket/prefix with the cases; those with ground truth are scored."""
    report: str
    """Folder or s3://bucket/prefix for index.html, cases/CASE.html, montage.png, scores.parquet, scores.csv,
    brats.csv."""
    labels: str = "auto"
    """Label convention of ground truth and labelmaps; auto: that of each case, as jobs.preprocess finds it. A
    labelmap of jobs.segment carries its own, nnU-Net's dataset.json names that of the labelmaps beside it. Or
    a name or pairs, as jobs.preprocess takes them."""
    roles: tuple[str, ...] = ()
    """Where file names do not tell what they hold: patterns or a CSV file, as jobs.preprocess takes them."""
    patients: str = ""
    """Where case names do not tell who was scanned: a pattern or a CSV file, as jobs.preprocess takes it.
    Intervals and tests count patients."""
    rules: Literal["auto", "2023", "2024", "2026"] = "auto"
    """Year of BraTS whose rules score: what counts as a lesion, the regions, the surface Dice. auto is the
    year that each case's data set or label convention tells: 2024 from 2024 on, else 2023."""
    against: tuple[str, ...] = ()
    """Other folders of labelmaps of the same cases (other networks, other tools). They are scored too, and
    compared case by case with these: comparison.csv, comparison.png, comparison-CASE.png. With two others or
    more, all are ranked."""
    colours: Colours = "field"
    """Of the labels in pictures. field: red, green and yellow; colour-blind those of Okabe and Ito 2008."""
    dry_run: bool = False
    """Say which cases would be scored and why, and write nothing."""
    max_failed: str = "0"
    """Exit with 0 in spite of this many failed cases, or this share of all (5%)."""
    ray: UseRay = "auto"
    """auto: without a cluster and with few cases (eight at most) this process scores them itself,
    without Ray. no: never start Ray. yes: always. The scores are the same."""


def main(settings: Settings) -> Outcome:
    check_max_failed(settings.max_failed)
    source, labelmaps, output = Store(settings.cases), Store(settings.labelmaps), Store(settings.report)
    ours, *names = folders = name_folders([labelmaps, *map(Store, settings.against)])
    others = {name: folders[name] for name in names}
    listing = list_cases(source, settings.labels, settings.roles, settings.patients)
    failed = index_figshare(listing, source, output, settings.ray, keep=not settings.dry_run)
    found = match_all(folders, listing.cases, source, settings.labels, settings.rules)
    matched = found[ours]
    say_matched(matched, source, labelmaps, unread=len(failed))
    failed += [Failure.of(problem) for problem in listing.problems + matched.problems]
    cache = ScoreCache(output)
    todo = todo_of(matched.pairs, cache, output, settings.colours)
    if settings.dry_run:
        return rehearse(matched, todo, failed)
    scorer = Score(source, labelmaps, output, settings.colours)
    scored, unscored = score(matched.pairs, todo, scorer, cache, settings.ray)
    say_typeless(scored)
    failed += unscored
    failed.sort(key=lambda failure: failure.case_id)
    scores = {ours: scored}
    for name, folder in others.items():
        scores[name] = score_other(name, found[name], Score(source, folder), cache, settings.ray)
    cache.close()
    files = tables.write(scored)
    if others:
        pairs = {name: of.pairs for name, of in found.items()}
        files |= draw_comparison(scores, pairs, DrawSide(source, folders, settings.colours), settings.ray)
    drawer = Draw(source, labelmaps, settings.colours)
    shown, worst = draw_cases(scored, matched.pairs, drawer, settings.ray)
    if worst:
        files["montage.png"] = montage(worst, settings.colours)
    about = {"labelmaps": labelmaps.uri, "cases": source.uri, "colours": settings.colours}
    contents = contents_of(scores, matched, failed=failed, pictures=shown, worst=worst, **about)
    if others:
        files["comparison.csv"] = comparison.write(ours, contents.comparisons, contents.ranking)
    files["index.html"] = page.render(contents).encode(errors="backslashreplace")
    write_files(output, files, pages={case_page.key(one.case_id) for one in scored})
    print_results(ours, contents, output)
    track(contents, output, files)
    return outcome(output, contents, listing.strays, settings.max_failed)


def contents_of(scores: dict[str, list[Scored]], matched: Matched, **known: Any) -> page.Contents:
    """What the page tells; `scores` by folder, these labelmaps' first."""
    (_, scored), *others = scores.items()
    return page.Contents(
        title="Segmentation scores",
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        scored=scored,
        without_labelmap=matched.without_labelmap,
        held=matched.held,
        without_truth=matched.without_truth,
        comparisons={name: comparison.compare(scored, of) for name, of in others},
        ranking=comparison.rank(scores) if len(others) > 1 else {},
        **known,
    )


def todo_of(pairs: Sequence[Pair], cache: ScoreCache, output: Store, colours: Colours) -> dict[str, str]:
    """{case: why} of those to score: not known, changed, or without a page in these colours."""
    pages, known, todo = {entry.key for entry in output.list("cases")}, cache.cases, {}
    for pair in pairs:
        if cache.get(pair.fingerprint) is None:
            todo[pair.case.id] = "changed" if pair.case.id in known else "new"
        elif case_page.key(pair.case.id) not in pages or cache.about(pair.fingerprint)["page"] != colours:
            todo[pair.case.id] = "no page"
    return todo


def score(
    pairs: Sequence[Pair], todo: Container[str], scorer: Score, cache: ScoreCache, ray: UseRay
) -> tuple[list[Scored], list[Failure]]:
    """(scores, failures) of the pairs; computed are those to do, the others the cache knows."""
    chosen = [pair for pair in pairs if pair.case.id in todo]
    if pairs and not chosen:
        say(f"nothing to compute: the scores of {counted(len(pairs), 'case')} are known")
    marks, failed = {pair.case.id: pair.fingerprint for pair in pairs}, []
    for row in run(chosen, scorer, ray, cache.output):
        if row["failure"]:
            failed.append(Failure.from_json(row["failure"]))
        else:
            scores, about = json.loads(row["scores"]), json.loads(row["about"])
            check_seen(scorer.pages, row["case_id"], case_page.key(row["case_id"]))
            cache.add(row["case_id"], marks[row["case_id"]], scores, about)
    lost = {failure.case_id for failure in failed}
    sound = [pair for pair in pairs if pair.case.id not in lost]
    return [scored_of(p, cache.scores(p.fingerprint), cache.about(p.fingerprint)) for p in sound], failed


def rehearse(matched: Matched, todo: dict[str, str], failed: list[Failure]) -> Outcome:
    """Print which cases would be scored, and why."""
    counts = {"cases": len(matched.pairs), "unchanged": len(matched.pairs) - len(todo), "todo": len(todo)}
    return incremental.rehearse(todo.items(), counts, failed)


def score_other(name: str, matched: Matched, scorer: Score, cache: ScoreCache, ray: UseRay) -> list[Scored]:
    """Scores of a folder to compare with; what cannot be scored there is said."""
    todo = {pair.case.id for pair in matched.pairs if cache.get(pair.fingerprint) is None}
    scored, failed = score(matched.pairs, todo, scorer, cache, ray)
    failed += [Failure.of(problem) for problem in matched.problems]
    for failure in failed:
        say(f"{name} failed at {failure.stage}: {failure.message}")
    return scored


def outcome(output: Store, contents: page.Contents, strays: list[str], max_failed: str) -> Outcome:
    """The counts of the last line, and what the run report names beside them."""
    scored, failed = contents.scored, contents.failed
    dice = {r: round(summarise(scored, r, "dice")["mean"], 4) for r in regions_of(scored)}
    counts = {
        "cases": len(scored) + len(failed),
        "scored": len(scored),
        "without_labelmap": len(contents.without_labelmap),
        "without_truth": len(contents.without_truth),
        "dice": dice,
        "rules": years_of(scored),
    }
    details = {
        "cases_without_labelmap": contents.without_labelmap[:NAMED],
        "labelmaps_without_truth": contents.without_truth[:NAMED],
        "strays": strays[:NAMED],
    }
    return Outcome(output, counts, list(failed), details, max_failed)


def run(pairs: Sequence[Pair], task: Callable[[dict], dict], ray: UseRay, output: Store) -> Iterator[dict]:
    """Stream the pairs, one task a case."""
    rows = [pair.to_row() for pair in pairs]
    if rows:
        yield from stream("evaluate", rows, [Stage("score", task)], ray, output)


def print_results(ours: str, contents: page.Contents, output: Store) -> None:
    """The tables for the person who watches, on standard output: they are the result."""
    print(table(contents.scored))
    for other, found in contents.comparisons.items():
        print(comparison.table(ours, other, found))
    if contents.ranking:
        places = ", ".join(f"{name} {place:.2f}" for name, place in contents.ranking.items())
        print(f"mean rank, 1 is the best: {places}")
    print(f"report: {output.uri}/index.html", flush=True)


def track(contents: page.Contents, output: Store, files: dict[str, bytes]) -> None:
    """Means, page and pictures go to the MLflow run of the model, where one model made all the labelmaps."""
    makers = {one.maker.split(" ")[0] for one in contents.scored}
    if len(makers) != 1 or makers == {""} or not tracking.is_there():
        return
    figures = means(contents.scored, metrics_of(contents.scored))
    shown = {name: data for name, data in files.items() if name.endswith((".html", ".png"))}
    for picture in contents.pictures:
        title = picture.title.lower().replace(" ", "-")
        # best-case-truth.png: of "Ground truth" the last word.
        shown |= {
            f"{title}-{caption.split()[-1].lower()}.png": png for caption, png in picture.panels.items()
        }
        shown |= {f"{title}.gif": picture.turning} if picture.turning else {}
    try:
        tracker = tracking.Tracker()
        if found := tracker.find(makers.pop()):
            tracker.log_evaluation(
                found[-1].run_id, output.uri.rstrip("/").rpartition("/")[2], figures, shown
            )
    except RunError as error:
        say(f"the scores are written, but not logged: {error}")


if __name__ == "__main__":
    run_job("evaluate", Settings, main)
