"""How the files of a case are named, as data: a key → the case and the role that its name tells.

A new layout is one record of LAYOUTS. Where the names of a set are like no other's, a user says them with
--roles, which makes layouts too (bts.cases.said).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bts.cases.datasets import DATE, OTHER, VISIT

# Role → how file names spell it, in any case of letters.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "t1": ("t1", "t1n", "t1w", "t1pre", "t1_pre", "t1-pre", "T1_to_SRI_brain"),
    "t1ce": (
        *("t1ce", "t1c", "t1gd", "t1post", "t1_ce", "t1-ce", "t1_gd", "t1-gd", "t1_post", "t1-post"),
        "T1CE_to_SRI_brain",
    ),
    "t2": ("t2", "t2w", "T2_to_SRI_brain"),
    "flair": (
        "flair",
        "fla",
        "t2f",
        "t2flair",
        "t2_flair",
        "t2-flair",
        "FL_to_SRI_brain",
        "FLAIR_to_SRI_brain",
    ),
    "seg": ("seg", "final_seg", "seg-label", "gtv", "tumor_segmentation", "tumorMask", "tumorMask_brain"),
}
# What else a channel of nnU-Net is called in its dataset.json; letters and digits alone.
CHANNELS: dict[str, tuple[str, ...]] = {
    "t1": ("t1native",),
    "t1ce": ("t1wce", "t1cet1", "cet1", "t1wgd", "t1contrast", "t1gadolinium"),
    "t2": (),
    "flair": ("t2wflair",),
}
FILE = r"\.(?:nii|nii\.gz|mha|nrrd|seg\.nrrd)$"
IMAGE = re.compile(FILE, re.IGNORECASE)
CHANNEL = re.compile(r"\d{4}")
ROLES = ("t1", "t1ce", "t2", "flair", "seg", "image")

ANYWHERE = "*"  # folder of a file that goes to the case of its name, wherever that is; a folder may follow


class Place(NamedTuple):
    """Of one file: the folder that tells cases of one name apart, the case, and its role there."""

    folder: str
    case_id: str
    role: str
    """Of ROLES, or the number of a channel of nnU-Net (0000), which its dataset.json names."""


class Naming(Protocol):
    """A way to name files: a Layout, or a table of keys (bts.cases.said)."""

    @property
    def sign(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def bare(self) -> bool: ...
    def place(self, key: str) -> Place | None: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to name files."""

    name: str
    keys: re.Pattern
    """Of keys, `/` between folders. Group `id` is the case, with `more` behind it, and `_` and `visit`, where
    there are those groups; the one of ROLES that matches tells the role, or the text of group `channel`. The
    groups `folder` and `below`, joined, tell cases of one name apart; without them the file's own folder
    does. With a group `anywhere` the file goes to the case of that name, wherever it is, but not to one whose
    `folder` and `below` are others."""
    sign: str = ""
    """In every such key, in small letters: a key without it need not be matched."""
    dataset: str = OTHER.name
    """Of its cases, where their names tell none."""
    bare: bool = False
    """A file lacks the case's name, which is its folder's: it gives way to files that have it."""

    def place(self, key: str) -> Place | None:
        """Where a key belongs; None where it is not named so."""
        found = self.keys.search(key)
        if not found:
            return None
        named = self.keys.groupindex
        if "folder" in named:
            below = found["below"] if "below" in named else None
            folder = "/".join(filter(None, (found["folder"], below)))
        else:
            folder = "" if "anywhere" in named else key.rpartition("/")[0]
        if "anywhere" in named:
            folder = ANYWHERE + folder
        role = found.lastgroup  # in most layouts the role is what a name ends with
        if role not in ROLES:
            role = next((role for role in ROLES if role in named and found[role] is not None), None)
        more = found["more"] if "more" in named else None
        visit = found["visit"] if "visit" in named else None
        case_id = found["id"] + (more or "") + (f"_{visit}" if visit else "")
        return Place(folder, case_id, role or found["channel"])


def layout(name: str, keys: str, *, sign: str = "", dataset: str = OTHER.name, bare: bool = False) -> Layout:
    """A record, in any case of letters."""
    return Layout(name, re.compile(keys, re.IGNORECASE | re.DOTALL), sign, dataset, bare)


def any_role(spellings: Mapping[str, Iterable[str]]) -> str:
    """A regular expression of one group a role, named after it."""
    groups = (f"(?P<{role}>{'|'.join(map(re.escape, names))})" for role, names in spellings.items())
    return f"(?:{'|'.join(groups)})"


TOP = r"^(?:(?P<folder>.*)/)?"
ROLE = any_role(SPELLINGS)
SEGM = any_role({**SPELLINGS, "seg": ("segm",)})
ENTITIES = r"(?:_(?:acq|run|rec|space|desc|label|res)-[^_/]+)*"
SUBJECT = rf"sub-[^_/]+(?:_ses-[^_/]+)?{ENTITIES}"
VISIT_FOLDER = rf"(?:(?:{VISIT})[_-]?\d|{DATE})[^/]*"
KIND_FOLDER = "(?:anat|mri?|nii|nifti|images?)"
IMAGES = any_role({role: SPELLINGS[role] for role in ("flair", "t1ce", "t1", "t2")})  # T2-FLAIR is no T2
ROLE_FOLDER = r"(?:\d+_)?" + re.sub(r"\?P<\w+>", "?:", ROLE)
NO_CASE = rf"(?:{VISIT_FOLDER}|{KIND_FOLDER}|{ROLE_FOLDER})"
CASE = rf"(?P<id>(?!{NO_CASE}/)[^/]+)(?:/(?P<visit>{VISIT_FOLDER}))?"
CASE_FOLDER = rf"^(?!(?:.*/)?derivatives/)(?P<folder>(?:.*/)?{CASE})"
# The first that knows a key has it.
LAYOUTS = (
    layout(
        "Task01 of the Medical Segmentation Decathlon",
        rf"{TOP}(?:(?P<image>images)|(?P<seg>labels))(?:Tr|Ts)/(?P<id>BRATS_\d+)\.nii(?:\.gz)?$",
        sign="brats_",
        dataset="msd",
    ),
    # A file's name tells its role and its number in the archive; the folder above is the case, with or
    # without a folder VSD.… for each file between the two.
    layout(
        "BraTS 2013–2015",
        r"^(?P<folder>(?:.*/)?(?P<id>(?!VSD\.)[^/]+))(?:/VSD\.[^/]*)?/VSD\.[^/]*"
        r"\.(?:MR_(?:(?P<t1>T1)|(?P<t1ce>T1c)|(?P<t2>T2)|(?P<flair>Flair))|(?P<seg>OT))(?:\.\d+)?\.mha$",
        sign="/vsd.",
        dataset="brats2015",
    ),
    *(
        layout(  # a folder named like a file, with one file of any name inside
            "BraTS as Kaggle unpacks it",
            rf"{TOP}(?P<id>[^/]+?)[_-]{ROLE}{re.escape(end)}[^/]+{FILE}",
            sign=end,
        )
        for end in (".nii/", ".nii.gz/")
    ),
    layout(  # truths in a folder of their own
        "UPENN-GBM",
        rf"{TOP}images_(?:structural/[^/]+|segm)/(?P<id>[^/]+?)_{SEGM}{FILE}",
        sign="images_",
    ),
    layout(
        "BIDS",
        rf"^(?!(?:.*/)?derivatives/)(?:.*/)?(?P<id>{SUBJECT})_"
        rf"(?:(?P<t1ce>ce-[^_/]+(?P<more>{ENTITIES})_T1w)|(?P<t1>T1w)){FILE}",
        sign="sub-",
    ),
    layout(  # of the derived images only truths; the folder is that of the case's own images
        "BIDS derivatives",
        rf"{TOP}derivatives/(?:(?!sub-)[^/]+/)*(?P<below>sub-.*)/(?P<id>{SUBJECT})_(?P<seg>dseg|seg){FILE}",
        sign="derivatives/",
    ),
    layout(  # what its tools made lies in folders below
        "LUMIERE",
        r"^(?P<folder>(?:.*/)?(?P<id>Patient-\d+)/(?P<visit>week-\d+(?:-\d+)?))/"
        rf"(?:(?P<t1>T1)|(?P<t1ce>CT1)|(?P<t2>T2)|(?P<flair>FLAIR)){FILE}",
        sign="/week-",
        bare=True,
    ),
    layout(
        "UTSW",
        r"^(?P<folder>(?:.*/)?(?P<id>[^/]+))/brain_(?:(?P<t1>t1)|(?P<t1ce>t1ce)|(?P<t2>t2)|(?P<flair>fl))"
        rf"{FILE}",
        sign="/brain_",
        bare=True,
    ),
    layout(  # T2_FLAIR or final_seg alone names no case
        "BraTS since 2017",
        rf"^(?:.*/)?(?P<id>(?!(?:t2[_-]flair|final_seg)\.)[^/]+?)[_-]{ROLE}{FILE}",
    ),
    layout(
        "a folder a case or a visit, its files named after what they hold",
        rf"{CASE_FOLDER}(?:/{KIND_FOLDER})?/{ROLE}{FILE}",
        bare=True,
    ),
    layout(  # one of any name in each; EGD's are numbered
        "a folder a modality",
        rf"{CASE_FOLDER}/(?:\d+_)?{IMAGES}(?:/{KIND_FOLDER})?/[^/]+{FILE}",
        bare=True,
    ),
    layout(
        "the one truth of BraTS 2020 that is named otherwise",
        rf"^(?P<folder>(?:.*/)?(?P<id>BraTS20_Training_355))/(?P<seg>W39_1998\.09\.19_Segm){FILE}",
        sign="w39_1998",
    ),
    layout(
        "BIDS, the truth beside the images", rf"^(?:.*/)?(?P<id>{SUBJECT})_(?P<seg>dseg){FILE}", sign="sub-"
    ),
    layout(  # the name that it proposes itself tells no case
        "3D Slicer's segmentation beside the images",
        r"^(?:.*/)?(?P<id>(?!segmentation(?:_\d+)?\.)[^/]+?)(?P<seg>)\.seg\.nrrd$",
        sign=".seg.nrrd",
    ),
    layout(
        "raw data of nnU-Net: images",
        rf"{TOP}images(?:Tr|Ts)/(?P<id>[^/]+)_(?P<channel>\d{{4}}){FILE}",
        sign="images",
    ),
    layout(
        "raw data of nnU-Net: truths", rf"{TOP}(?P<seg>labels)(?:Tr|Ts)/(?P<id>[^/]+?){FILE}", sign="labels"
    ),
)


def above_role(folder: str) -> str:
    """The folder, or the one above it where its own name is that of one modality (P1/T1, P1/2_T1GD)."""
    above, _, name = folder.rpartition("/")
    return above if re.fullmatch(ROLE_FOLDER, name, re.IGNORECASE) else folder


def place_of(key: str, layouts: Iterable[Naming] = LAYOUTS) -> tuple[Naming, Place] | tuple[None, None]:
    """The first layout that knows a key, and where it puts it."""
    small = key.lower()
    for one in layouts:
        if one.sign in small and (place := one.place(key)):
            return one, place
    return None, None


def role_of_channel(name: str) -> str:
    """The modality that a dataset.json calls so; empty where it is none."""
    plain = re.sub(r"[^a-z0-9*]", "", name.lower())  # T2* is another sequence than T2
    known = {role: {*SPELLINGS[role], *more} for role, more in CHANNELS.items()}
    return next((role for role, names in known.items() if plain in names), "")
