"""Which labelmaps are of which cases, said in numbers. Not a command."""

from collections.abc import Mapping, Sequence

from bts.cases.case import Case
from bts.cases.sidecars import told_beside
from bts.errors import UsageError
from bts.results.match import Matched, match
from bts.scoring.scores import Scored
from bts.storage import Store
from jobs.driver.progress import counted, examples, say


def matched_with(labelmaps: Store, cases: Sequence[Case], source: Store, labels: str, rules: str) -> Matched:
    """The cases with a folder's labelmaps. labels, rules: the flags of that name. Raises UsageError.

    The folder may be that of the cases (`source`): their own files are no labelmaps, nor is what lies in
    their folders, or a ground truth would be scored against itself.
    """
    own = {source.path(entry.key) for case in cases for entry in case.files.values()}
    there = labelmaps.list()
    entries = [entry for entry in there if labelmaps.path(entry.key) not in own]
    if len(entries) < len(there):
        entries = [entry for entry in entries if "/" not in entry.key or entry.key[0] == "_"]
    return match(cases, entries, rules=rules, labels=told_beside(labelmaps, entries, labels))


def match_all(
    folders: Mapping[str, Store], cases: Sequence[Case], source: Store, labels: str, rules: str
) -> dict[str, Matched]:
    """The same of several folders, the first one's and those of --against. Raises UsageError also where one
    of these has nothing to compare with: better now than once all is scored."""
    found = {name: matched_with(folder, cases, source, labels, rules) for name, folder in folders.items()}
    for name in list(found)[1:]:
        if not (found[name].pairs or found[name].problems):
            problem = f"--against {folders[name].uri}: no labelmap there is named after a case with ground "
            raise UsageError(f"{problem}truth in {source.uri}")
    return found


def say_matched(matched: Matched, source: Store, labelmaps: Store, unread: int) -> None:
    """What will not be scored, by number and example. Raises UsageError if nothing can be.

    `unread` slices are failures of the run, whatever there is besides.
    """
    cases, held, others = matched.without_labelmap, matched.held, matched.without_truth
    for names, what in (
        (cases, f"{counted(len(cases), 'case')} with ground truth, without a labelmap in {labelmaps.uri}"),
        (held, f"{len(held)} of these are held for review, and not scored"),
        (others, f"{counted(len(others), 'labelmap')} of no case with ground truth in {source.uri}"),
    ):
        if names:
            say(f"{what}: {examples(names)}")
    if not matched.pairs and not matched.problems and not unread:
        raise UsageError(
            f"nothing to score: no labelmap in {labelmaps.uri} is named after a case with ground truth "
            f"in {source.uri} (CASE.nii.gz is due)"
        )


def say_typeless(scored: Sequence[Scored]) -> None:
    """Where another tool's labelmaps of figshare call every tumour of another type meningioma, whose value is
    1: a tool that tells no types would be scored as one that mistakes them all."""
    others = [s for s in scored if s.dataset == "figshare" and not s.maker and s.group != "meningioma"]
    found = [s.case_id for s in others if {*s.scores} == {"tumour", "meningioma", s.group}]
    if found and len(found) == len(others) and not any(s.scores[s.group]["dice"] for s in others):
        say(
            f"{len(found)} labelmaps of figshare call tumours of other types meningioma, which is 1 there: "
            f"{examples(found)}; if the tool tells no types, its scores of `tumour` alone count"
        )
