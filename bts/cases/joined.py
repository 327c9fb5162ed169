"""The files of a listing, grouped by folder and the case in their names → the groups of whole cases.

A case's files may lie in several folders, or lack its name; what is no case's is a stray.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from bts.cases.keys import with_slashes
from bts.cases.names import ANYWHERE, IMAGE, above_role
from bts.modalities import MODALITIES
from bts.storage import Entry

SEPARATORS = "_-."
# What the images' names have behind the case's, and the truth's may lack; desc is of BIDS.
PROCESSED = re.compile(r"_(brain|desc-[^_]+)$", re.IGNORECASE)


@dataclass(slots=True)
class Found:
    """What a listing holds of one case."""

    files: dict[str, list[Entry]] = field(default_factory=dict)
    """By role."""
    datasets: set[str] = field(default_factory=set)
    """Those that the layouts of its files are of."""

    def add(self, other: "Found") -> None:
        for role, entries in other.files.items():
            self.files.setdefault(role, []).extend(entries)
        self.datasets |= other.datasets

    @property
    def count(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def images(self) -> frozenset[str]:
        """Its modalities, as far as their files are named after them."""
        return frozenset(MODALITIES) & self.files.keys()


Groups = dict[tuple[str, str], Found]
"""By folder and case."""


def join(found: Groups, bare: Groups, strays: Iterable[str]) -> list[str]:
    """Make `found` the cases of a listing, each one group; the keys of what is no case's.

    bare: files that lack the name of a case. strays: keys of no layout.
    """
    _leave_role_folders(found)
    left = _add_bare(bare, found) + _join_said(found)
    _join_truths(found)
    return left + _take_derived(found, [*strays, *left])


def shorter(name: str) -> Iterable[str]:
    """What stands before each separator of a name, the longest first."""
    return (name[:n] for n in range(len(name) - 1, 0, -1) if name[n] in SEPARATORS)


def _leave_role_folders(found: Groups) -> None:
    """Files with the case's name, in a folder a modality (P1/T1/P1_T1.nii.gz), are of one case."""
    homes = {folder: above_role(folder) for folder in {folder for folder, _ in found}}
    for folder, case_id in [place for place in found if homes[place[0]] != place[0]]:
        found.setdefault((homes[folder], case_id), Found()).add(found.pop((folder, case_id)))


def _add_bare(bare: Groups, found: Groups) -> list[str]:
    """Two images in a folder make a case of its name, unless others have that name, or the folder lies in
    that of a case. A case whose images have its name lacks no more than its truth. The rest is left."""
    if not bare:
        return []
    whole = {place for place, one in (*found.items(), *bare.items()) if len(one.images) > 1}
    homes = {folder for folder, case_id in whole if (folder, case_id) in bare or _last(folder) == case_id}
    named = {case_id for (_, case_id), one in found.items() if one.images}
    left = []
    for place, one in bare.items():
        folder, case_id = place
        with_name = found.get(place, Found())
        inside = _last(folder) == case_id and not homes.isdisjoint(_above(folder))
        if with_name.images:
            wanted = {"seg"}
        else:
            wanted = set() if case_id in named or place not in whole or inside else set(one.files)
        for role in one.files.keys() - (wanted - with_name.files.keys()):
            left += [entry.key for entry in one.files.pop(role)]
        if one.files:
            found.setdefault(place, with_name).add(one)
    return left


def _last(folder: str) -> str:
    """A folder's own name."""
    return folder.rpartition("/")[2]


def _above(folder: str) -> Iterable[str]:
    """The folders that a folder lies in."""
    parts = folder.split("/")
    return ("/".join(parts[:n]) for n in range(1, len(parts)))


def _join_said(found: Groups) -> list[str]:
    """Files that go to the case of their name, wherever it is; where it is in several folders, it is said.

    Returns what gives way to them: another file of the same role.
    """
    homes: dict[str, list[str]] = {}
    away: dict[str, list[str]] = {}
    left: list[str] = []
    for folder, case_id in found:
        (away if folder.startswith(ANYWHERE) else homes).setdefault(case_id, []).append(folder)
    for case_id, folders in away.items():
        there = homes.get(case_id) or [ANYWHERE]
        # Cases are folders here, and those of one name in other folders are others.
        if len(there) > 1 or len([folder for folder in folders if folder != ANYWHERE]) > 1:
            continue
        said = Found()
        for folder in folders:
            said.add(found.pop((folder, case_id)))
        home = found.setdefault((there[0], case_id), Found())
        for role in home.files.keys() & said.files.keys():
            left += [entry.key for entry in home.files.pop(role)]
        home.add(said)
    return left


def _join_truths(found: Groups) -> None:
    """A truth whose name lacks what the images' names have behind the case's goes to them."""
    alone = {place for place, one in found.items() if set(one.files) == {"seg"}}
    homes: dict[tuple[str, str], list[Found]] = {}
    for (folder, case_id), one in found.items() if alone else ():
        place = folder, PROCESSED.sub("", case_id)
        if place in alone and "seg" not in one.files:
            homes.setdefault(place, []).append(one)
    for place, images in homes.items():
        if len(images) == 1:
            images[0].add(found.pop(place))


def _take_derived(found: Groups, strays: Iterable[str]) -> list[str]:
    """An image that was computed from a case's images, beside them, is no case of its own: its key.

    Its name is that of a case with more (100001_time1 and 100001_time1_t1ce-t1), or it is the truth of a
    stray image (100001_flair_subtraction and 100001_flair_subtraction_seg) in a folder with whole cases.
    """
    whole = {folder for (folder, _), one in found.items() if one.count > 1}
    stems = {IMAGE.sub("", with_slashes(key)) for key in strays if IMAGE.search(key)}
    derived = []
    for (folder, case_id), one in found.items():
        if one.count > 1 or folder not in whole:
            continue
        above = next((h for h in shorter(case_id) if (folder, h) in found), "")
        of_case = above and found[folder, above].count > 1 and not case_id[len(above) + 1 :].isdecimal()
        of_stray = set(one.files) == {"seg"} and "/".join(filter(None, (folder, case_id))) in stems
        if of_case or of_stray:
            derived.append((folder, case_id))
    return [
        entry.key for place in derived for entries in found.pop(place).files.values() for entry in entries
    ]
