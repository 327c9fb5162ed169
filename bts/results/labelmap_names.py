"""Which files of a folder are labelmaps, and of which cases, by their names: ours and those of other tools.

At the folder's top lie CASE.nii.gz and CASE-seg.nii.gz. Where a case has none there, what 3D Slicer and ITK
save counts (CASE.seg.nrrd, CASE.mha), and what MONAI saves in a folder of its own: CASE/CASE_seg.nii.gz.
"""

import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Set

from bts.cases.layouts import find_cases
from bts.cases.names import IMAGE, IMAGES
from bts.cases.read import reader_of
from bts.results.layout import LABELMAP
from bts.storage import Entry

OF_OTHERS = re.compile(
    r"((?P<folder>[^/]+)/)?(?P<case>[^/._][^/]*?)(?P<ending>[-_](seg|trans)|\.seg)?\.(nii|nii\.gz|mha|nrrd)",
    re.IGNORECASE,
)
END = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)  # of LABELMAP
OF_IMAGE = re.compile(rf"(?P<case>.+?)[-_]{IMAGES}", re.IGNORECASE)


def by_case(
    keys: Iterable[str], pattern: re.Pattern = LABELMAP, cases: Container[str] = ()
) -> dict[str, list[str]]:
    """The labelmaps (or markers, or notes of failures) among a folder's keys, by the case in their names.

    cases: known ones, whose whole name counts: that of scan_seg is scan_seg.nii.gz, and not one of scan.
    """
    found: dict[str, list[str]] = {}
    for key in keys:
        if named := pattern.fullmatch(key):
            whole = END.sub("", key) if cases else ""
            found.setdefault(whole if whole in cases else named["case"], []).append(key)
    return found


def labelmaps_of(keys: Collection[str], cases: Set[str] = frozenset()) -> dict[str, list[str]]:
    """Case → keys of its labelmaps. cases: ids, where they are known, as `by_case` takes them: MONAI names a
    labelmap after the first image that it was made of (CASE_t1/CASE_t1_seg.nii.gz)."""
    found, others = by_case(keys, cases=cases), dict[str, list[str]]()
    settled = {key for case, some in found.items() if case in cases or not cases for key in some}
    for key in keys:
        if key[:1] == "_" or key in settled or not (named := OF_OTHERS.fullmatch(key)):
            continue
        if (case := _case_of(named, cases)) and case not in found:
            others.setdefault(case, []).append(key)
    if not others:
        return found
    images = Counter(map(_folder, filter(IMAGE.search, keys)))
    for case in others.keys() - _with_images(keys):
        # Beside other images it would be the ground truth of a copy of the case.
        alone = [key for key in others[case] if not _folder(key) or images[_folder(key)] == 1]
        for named in filter(None, map(LABELMAP.fullmatch, alone)):
            found.pop(named["case"], None)  # CASE_t1 of CASE_t1_seg.nii.gz
        if alone:
            found[case] = alone
    return found


def _case_of(named: re.Match, cases: Set[str]) -> str:
    """Empty where a file lies in a folder that is not its case's."""
    case, folder = named["case"], named["folder"]
    of_image = OF_IMAGE.fullmatch(case) if named["ending"] and case not in cases else None
    if of_image and (of_image["case"] in cases) and folder in (None, case, of_image["case"]):
        return of_image["case"]
    return case if folder in (None, case) else ""


def _with_images(keys: Iterable[str]) -> set[str]:
    """Cases, as they are laid out to be read, that have images among the keys."""
    listing = find_cases(Entry(key, 1, "") for key in keys)
    whole = {case.id for case in listing.cases if reader_of(case).modalities(case)}
    return whole | {problem.case for problem in listing.problems}


def _folder(key: str) -> str:
    """The first one above a key; empty at the top."""
    return key.partition("/")[0] if "/" in key else ""
