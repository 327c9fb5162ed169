"""Cases, ground truth and labelmaps in the browser, on this machine alone: three planes and a rendering.

Prints the address and serves until Ctrl-C; writes nothing. No Ray: one case at a time is read, where you sit.
NiiVue must be installed: `make venv` does, or pip install --no-deps -r requirements-viewer.txt.

    python -m jobs.view --cases data/cases --labelmaps data/labelmaps --report data/reports/first
    python -m jobs.view --cases s3://b/cases --labelmaps s3://b/labelmaps --case BraTS2021_00000
    python -m jobs.view --cases data/cases --labelmaps data/labelmaps --scans data/scans --space flair
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from bts.cases.case import Case
from bts.errors import UsageError
from bts.images.grid import Volume
from bts.intake.identity import keeps_ids, read_identity
from bts.intake.native_view import NativeView
from bts.report.viewer import CaseIndex, Server, Shown
from bts.scoring import tables
from bts.storage import Store
from jobs.driver.listing import list_cases
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.progress import counted, examples, say


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
    """Label convention of ground truth and labelmaps; auto: that of each case, as jobs.preprocess finds it. A
    labelmap of jobs.segment carries its own, nnU-Net's dataset.json names that of the labelmaps beside it."""
    roles: tuple[str, ...] = ()
    """Where file names do not tell what they hold: patterns or a CSV file, as jobs.preprocess
    takes them."""
    scans: str = ""
    """Folder or s3://bucket/prefix that jobs.intake read: show its cases as the scanner saw them."""
    space: Literal["t1ce", "t1", "t2", "flair"] = "t1ce"
    """With --scans: the series whose grid all is shown on."""
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
        say(f"not shown: {counted(len(listing.slices), 'figshare slice')}; jobs.evaluate draws them")
    what = (listing.cases, source, labelmaps, read_dice(settings.report))
    index = NativeIndex(*what, settings) if settings.scans else CaseIndex(*what, settings.labels)
    check(settings, index, source)
    with Server(index, settings.port) as server:
        asked = f"?case={quote(settings.case)}" if settings.case else ""
        print(f"{server.url}{asked}", flush=True)
        say("open this address in a browser on this machine; Ctrl-C ends")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
    return Outcome(None, {"cases": len(index.shown)})


class NativeIndex(CaseIndex):
    """The same cases, each on the grid of one series of its scanner."""

    def __init__(self, cases: Sequence[Case], source: Store, labelmaps: Store, dice, settings: Settings):
        super().__init__(cases, source, labelmaps, dice, settings.labels)
        identity, _ = read_identity(keeps_ids(case.id for case in cases))
        self.space = settings.space
        self.native = NativeView(Store(settings.scans), source, identity, settings.space)
        self.shown = {case: one for case, one in self.shown.items() if case in self.native.records}

    def read(self, shown: Shown, role: str) -> Volume:
        if role in ("truth", "prediction"):
            return self.native.labels(shown.case.id, super().read(shown, role))
        return self.native.image(shown.case.id, role)


def read_dice(report: str) -> dict[str, dict[str, float]]:
    """{case: {region: Dice}} of a report's scores, nothing where none is asked for."""
    if not report:
        return {}
    return {
        one.case_id: {region: of["dice"] for region, of in one.scores.items()} for one in tables.load(report)
    }


def check(settings: Settings, index: CaseIndex, source: Store) -> None:
    """Raises UsageError where there is nothing to show."""
    if settings.space != "t1ce" and not settings.scans:
        raise UsageError(f"--space {settings.space}: is a series of the scanner's; give --scans too")
    if not index.shown:
        why = "; --scans is for cases that jobs.intake made" if settings.scans else ""
        raise UsageError(f"{source.uri}: there is no case that can be shown{why}")
    if not any(one.pair for one in index.shown.values()):
        say(f"{index.labelmaps.uri}: no labelmap of these cases is there that can be shown")
    if settings.case and settings.case not in index.shown:
        raise UsageError(
            f"--case {settings.case}: not among the {counted(len(index.shown), 'case')} of {source.uri}, "
            f"such as {examples(list(index.shown))}"
        )


if __name__ == "__main__":
    run_job("view", Settings, main)
