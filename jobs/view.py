"""Cases, ground truth and labelmaps in the browser, on this machine alone: three planes and a rendering.

Prints the address and serves until Ctrl-C; writes nothing. No Ray: one case at a time is read, where you sit.
NiiVue must be installed: `make venv` does, or pip install --no-deps -r requirements-viewer.txt.

    python -m jobs.view --cases data/cases --labelmaps data/labelmaps --report data/reports/first
    python -m jobs.view --cases s3://b/cases --labelmaps s3://b/labelmaps --case BraTS2021_00000
"""

from dataclasses import dataclass
from urllib.parse import quote

from bts.errors import UsageError
from bts.report.viewer import Server, Shelf
from bts.scoring import tables
from bts.storage import Store
from jobs.driver.listing import list_cases
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.progress import examples, say


@dataclass
class Settings:
    """Flags of jobs.view."""

    cases: str
    """Folder or s3://bucket/prefix with the cases; figshare's slices are no volumes, and not shown."""
    labelmaps: str
    """Folder or s3://bucket/prefix with the labelmaps; those held for review are shown too."""
    report: str = ""
    """Folder or s3://bucket/prefix of jobs.evaluate, to sort the cases by their Dice."""
    labels: str = "auto"
    """Label convention of ground truth and labelmaps; auto: by the name of each case. A labelmap of
    jobs.segment carries its own."""
    roles: tuple[str, ...] = ()
    """Where file names do not tell what they hold: patterns or a CSV file, as jobs.preprocess
    takes them."""
    case: str = ""
    """Case to begin with; empty for the first."""
    port: int = 0
    """Of 127.0.0.1; 0 for any that is free."""


def main(settings: Settings) -> Outcome:
    source, labelmaps = Store(settings.cases), Store(settings.labelmaps)
    listing = list_cases(source, settings.labels, settings.roles)
    for problem in listing.problems:
        say(f"not shown: {problem}")
    if listing.slices:
        say(f"not shown: {len(listing.slices)} figshare slices; jobs.evaluate draws them")
    shelf = Shelf(listing.cases, source, labelmaps, read_dice(settings.report))
    check(settings, shelf, source)
    with Server(shelf, settings.port) as server:
        asked = f"?case={quote(settings.case)}" if settings.case else ""
        print(f"{server.url}{asked}", flush=True)
        say("open this address in a browser on this machine; Ctrl-C ends")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
    return Outcome(None, {"cases": len(shelf.shown)})


def read_dice(report: str) -> dict[str, dict[str, float]]:
    """{case: {region: Dice}} of a report's scores, nothing where none is asked for."""
    if not report:
        return {}
    return {
        one.case_id: {region: of["dice"] for region, of in one.scores.items()} for one in tables.load(report)
    }


def check(settings: Settings, shelf: Shelf, source: Store) -> None:
    """Raises UsageError where there is nothing to show."""
    if not shelf.shown:
        raise UsageError(f"{source.uri}: there is no case that can be shown")
    if settings.case and settings.case not in shelf.shown:
        raise UsageError(
            f"--case {settings.case}: not among the {len(shelf.shown)} cases of {source.uri}, such as "
            f"{examples(list(shelf.shown))}"
        )


if __name__ == "__main__":
    run_job("view", Settings, main)
