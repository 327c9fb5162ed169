"""The cases below a prefix, said in numbers."""

import contextlib
import gc
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from bts.cases.case import Case
from bts.cases.layouts import OURS, Listing
from bts.cases.names import IMAGE
from bts.cases.read import reader_of
from bts.cases.said import list_folder, roles_for
from bts.errors import UsageError
from bts.labels import SAYABLE, UNKNOWN, meaning
from bts.storage import Store
from jobs.driver.progress import counted, examples, say

MANY = 100_000  # objects that a listing leaves, from which on the collector of cycles would be slow
AS_TRUTH = "(if so: --roles seg=PATTERN; it must be one .nii.gz, .nii, .mha or .nrrd file with all labels)"
KINDS = 8  # kinds of cases that `describe` names


def list_cases(source: Store, labels: str, roles: Sequence[str] = (), patients: str = "") -> Listing:
    """The cases below a prefix, said in numbers; what is not a case is said too, not ignored.

    labels, roles, patients: the flags of that name.

    Raises UsageError if there is none, RunError if the store cannot be listed.
    """
    with _uncollected():
        listing = list_folder(source, labels, roles, patients)
    found = len(listing.cases) + len(listing.problems)
    slices = f", {counted(len(listing.slices), 'figshare slice')}" if listing.slices else ""
    say(f"{source.uri}: {counted(found, 'case')}{slices}")
    if listing.strays:
        strays = counted(len(listing.strays), "file")
        say(f"{source.uri}: {strays} of no case: {examples(listing.strays)}")
    for case_id, key in list(listing.truth_like.items())[:3]:
        say(f"case {case_id} has no ground truth; this looks like it: {key} {AS_TRUTH}")
    if len(listing.truth_like) > 3:
        say(f"… and {len(listing.truth_like) - 3} more cases like it")
    if patients and listing.unnamed:
        few = examples(listing.unnamed)
        unnamed = counted(len(listing.unnamed), "case")
        say(f"--patients tells nothing of {unnamed}, each its own patient: {few}")
    for key in listing.unclear[:3]:
        say(f"{source.uri}/{key}: names labels that are not known; ground truth there needs --labels")
    if not found and not listing.slices:
        theirs = [key for key in listing.strays if not OURS & set(key.split("/"))]
        raise UsageError(f"{source.uri}: no case found{_why_none(theirs)}")
    return listing


def _why_none(strays: Sequence[str]) -> str:
    """What to do where no file (strays: all there are but what the jobs write) is of a case."""
    expected = "expected files such as BraTS2021_00000/BraTS2021_00000_flair.nii.gz, or figshare's 1.mat"
    if any(IMAGE.search(key) for key in strays):
        roles = " ".join(map(shlex.quote, roles_for(strays))) or "t1=*_PRE.nii.gz …"
        return f"; {expected}; other names are said by --roles {roles}"
    other = "check the path"
    if strays:
        other = "unpack archives, convert other formats to .nii.gz; DICOM files become cases by jobs.intake"
    return f": no image is there; {other}; {expected}"


def describe(listing: Listing) -> Iterator[str]:
    """Lines for a person who sees the set for the first time: what the cases hold, as it is understood."""
    patients = len({case.patient for case in listing.cases})
    yield f"understood as {counted(len(listing.cases), 'case')} of {counted(patients, 'patient')}:"
    kinds = Counter(map(_kind, listing.cases)).most_common()
    yield from (f"  {count} × {kind}" for kind, count in kinds[:KINDS])
    if len(kinds) > KINDS:
        yield f"  … and {len(kinds) - KINDS} kinds more"
    labelled = (case for case in listing.cases if reader_of(case).has_truth(case))
    unknown = [case for case in labelled if case.labels == UNKNOWN]
    if unknown:
        yield f"nothing tells what the ground truth of {counted(len(unknown), 'case')} means; --labels takes"
        same: dict[str, list[str]] = {}
        for name in dict.fromkeys(one for case in unknown for one in case.traits.conventions or SAYABLE):
            same.setdefault(meaning(name), []).append(name)
        yield from (f"  {', '.join(names)}: {values}" for values, names in same.items())
    if listing.unnamed:
        few = examples(listing.unnamed)
        unnamed = counted(len(listing.unnamed), "case")
        yield f"nothing tells who was scanned in {unnamed} ({few}): each is taken for a"
        yield "  patient of its own; if some are visits of one patient, give --patients"


def set_unfit_aside(listing: Listing, for_figshare: bool, source: Store, who: str) -> list[str]:
    """Take figshare's slices, or all but those, out of the listing of a model that does not segment them.

    Returns their keys, or the cases' ids. who: the model, for the message. Raises UsageError if none is left.
    """
    cases = [case.id for case in listing.cases] + [problem.case for problem in listing.problems]
    slices = [entry.key for entry in listing.slices]
    if for_figshare:
        wanted, fit, unwanted, unfit = "figshare slices", slices, "NIfTI cases", cases
        listing.cases, listing.problems = [], []
    else:
        wanted, fit, unwanted, unfit = "NIfTI cases", cases, "figshare slices", slices
        listing.slices = []
    if not fit:
        raise UsageError(f"{who} is for {wanted}; {source.uri} holds none, only {unwanted} ({len(unfit)})")
    if unfit:
        say(f"{who} is for {wanted}; {unwanted} not segmented: {len(unfit)} ({examples(unfit)})")
    return unfit


def _kind(case: Case) -> str:
    """Its images, its set and what is known of its truth."""
    reader = reader_of(case)
    images = ", ".join(reader.modalities(case)) or ", ".join(case.files)
    truth = "no ground truth"
    if reader.has_truth(case):
        truth = f"ground truth ({meaning(case.labels)})" if case.labels else "ground truth (labels not known)"
    return f"{images}, {truth}; set: {case.dataset}"


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles: a listing is a million small objects without any, and looking through
    them again and again is a third of its time. A large one stays out of the collector's sight: it lives as
    long as the job does."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            if gc.get_count()[0] > MANY:
                gc.freeze()
            gc.enable()
