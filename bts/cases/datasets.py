"""What is known of each set of cases, as data: how its cases are named, and what its images are like.

The *name* of a case tells its dataset, and the dataset tells the label convention. The labels that happen to
be present never do: a case without enhancing tumour has {0, 1, 2} under every convention.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from bts.labels import UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A published set, or a kind of sets."""

    name: str
    """As the column `dataset` has it; `{…}` stands for a group of `cases`, in small letters."""
    cases: str = ""
    """Regular expression of its case ids, in any case of letters. Empty: its layout tells the set."""
    patient: str = r"\g<0>"
    """Who was scanned, from the groups of `cases`: one patient may have several cases and several names."""
    convention: str = UNKNOWN
    """Label convention of its truths; UNKNOWN: the name does not tell, --labels must."""
    conventions: tuple[str, ...] = ()
    """Those that its releases have used under the same names, where several: what a message offers."""
    reader: str = "roles"
    """How its files hold a case, a key of bts.cases.read.READERS."""
    placed: bool = True
    """Left, right, front and back of its images are known."""
    spaced: bool = True
    """The size of its voxels in mm is known, so volumes and distances are."""
    stripped: bool = True
    """The skull is taken off: what is not 0 is brain."""


OTHER = Dataset(name="other")
FIGSHARE = Dataset(
    name="figshare",
    convention="figshare",
    reader="slices",
    placed=False,  # a slice is axial, coronal or sagittal, and tells not which
    spaced=False,
    stripped=False,
)
# The first whose `cases` match. BraTS 2023 kept the numbers of 2021: BraTS2021_00000 and BraTS-GLI-00000-000
# are one patient.
DATASETS = (
    Dataset(
        name="brats2015", cases=r"(?P<p>brats_(2013|tcia)_.+)_\d+", patient=r"\g<p>", convention="brats2015"
    ),
    Dataset(
        name="brats2021", cases=r"BraTS2021_(?P<n>\d+)", patient=r"BraTS-GLI-\g<n>", convention="brats2021"
    ),
    Dataset(name="brats2020", cases=r"BraTS20_(Training|Validation)_\d+", convention="brats2021"),
    Dataset(  # 2018 and 2019 kept the names of 2017, but for the number of the centre after TCIA
        name="brats20{y}",
        cases=r"BraTS(?P<y>1[789])_((?P<a>TCIA)\d*)?(?P<n>.+)_\d+",
        patient=r"Brats17_\g<a>\g<n>",
        convention="brats2021",
    ),
    Dataset(  # second and later visits after treatment are numbered from 100: the set of 2024
        name="brats2024-gli",
        cases=r"(?P<p>BraTS-GLI-\d+)-[1-9]\d\d",
        patient=r"\g<p>",
        convention="brats2024",
    ),
    # BraTS-PED changed its labels between 2023 and 2024 under the same names: --labels must say.
    Dataset(
        name="brats-ped",
        cases=r"(?P<p>BraTS-PED-\d+)-\d+",
        patient=r"\g<p>",
        conventions=("ped2023", "ped2024"),
    ),
    Dataset(  # before radiotherapy: T1ce alone, and the truth is one tumour volume
        name="brats2024-men-rt",
        cases=r"(?P<p>BraTS-MEN-RT-\d+)-\d+",
        patient=r"\g<p>",
        convention="menrt",
    ),
    Dataset(  # 2025 added the cavity under the same names
        name="brats2023-met",
        cases=r"(?P<p>BraTS-MET-\d+)-\d+",
        patient=r"\g<p>",
        convention="brats2023",
        conventions=("brats2023", "met2025"),
    ),
    Dataset(
        name="brats2024-goat", cases=r"(?P<p>BraTS-GoAT-\d+)(-\d+)?", patient=r"\g<p>", convention="goat"
    ),
    Dataset(
        name="ucsf-pdgm", cases=r"(?P<p>UCSF-PDGM-\d+)(_FU\d+d)?", patient=r"\g<p>", convention="brats2021"
    ),
    Dataset(name="upenn-gbm", cases=r"(?P<p>UPENN-GBM-\d+)_\d\d", patient=r"\g<p>", convention="brats2021"),
    Dataset(  # what each label is: the authors' own github.com/rachitsaluja/UCSF-ALPTDG-benchmarks
        name="ucsf-alptdg",
        cases=r"(?P<p>1\d{5})_time\d+",
        patient=r"ALPTDG-\g<p>",
        convention="brats2024",
    ),
    Dataset(  # those who use it do not agree on what each label is: --labels must say
        name="mu-glioma-post",
        cases=r"(?P<p>PatientID_\d+)_Timepoint_\d+(_brain)?",
        patient=r"MU-\g<p>",
    ),
    Dataset(name="fets2022", cases=r"FeTS20\d\d_\d+|FeTS21_(Training|Validation)_\d+", convention="fets2022"),
    Dataset(
        name="brats2023-{c}",
        cases=r"(?P<p>BraTS-(?P<c>GLI|SSA|MEN|PHANTOM)-\d+)-\d+",
        patient=r"\g<p>",
        convention="brats2023",
    ),
    # Taken in from a scanner by jobs.intake, which names cases so (bts.intake.identity).
    Dataset(name="scans", cases=r"(?P<p>Scan-[0-9a-z]+)-[0-9a-z]+(-[0-9a-z]+)?", patient=r"\g<p>"),
    Dataset(name="msd", convention="msd", reader="channels"),
    FIGSHARE,
    OTHER,
)


VISIT = "week|wk|month|day|visit|session|ses|time|timepoint|tp|followup|fu"
DATE = r"\d{4}[.-]\d\d[.-]\d\d"
DAY = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"  # as DICOM writes it
# How sets that have no record above name visits: BIDS, LUMIERE (Patient-001_week-044), plain words, and dates
# (Yale's metastases, FeTS's tool). The patient has a digit, or `scan_visit1` and `other_visit1` of one
# hospital would be one.
VISITS = (
    r"(?P<p>sub-[^_]+)_ses-[^_]+(_.*)?",
    r"(?P<p>RHUH-\d+|UCSD-PTGBM-\d+|BraTSReg_\d+)_\d+(_.*)?",
    r"(?P<p>10\d{4})[A-Z]",  # UCSF's metastases
    rf"(?P<p>.*\d.*?)[_-](({VISIT})[_-]?\d+|v[_-]?\d{{1,2}})([_-].*)?",
    rf"(?P<p>.*\d.*?)[_-]({DATE}|{DAY})([_-].*)?",
    r"(?P<p>.*\d.*?)[_-](baseline|pre-?op|post-?op)([_-].*)?",
)


@cache
def _whole(expression: str) -> re.Pattern:
    """Of a whole name, in any case of letters."""
    return re.compile(rf"(?:{expression})\Z", re.IGNORECASE)


@cache
def _any_set() -> re.Pattern:
    """Of the case ids of all sets; which is told by the group that matches: d and its place in DATASETS.

    One match instead of one a set saves a second of 100,000 cases.
    """
    unnamed = [re.sub(r"\(\?P<\w+>", "(?:", one.cases) for one in DATASETS]
    return _whole("|".join(f"(?P<d{n}>{cases})" for n, cases in enumerate(unnamed) if cases))


def _patient_of_visit(case_id: str) -> str:
    """Who was scanned, where the name tells a visit; else empty."""
    found = (_whole(pattern).match(case_id) for pattern in VISITS)
    return next((match["p"] for match in found if match), "")


def identify(case_id: str, layouts: Iterable[str]) -> tuple[str, str, str]:
    """(dataset, label convention, patient) that a case's name tells, or else the layouts of its files.

    layouts: the datasets that these layouts are of (bts.cases.layouts).
    """
    told = set(layouts)
    if "msd" in told:
        return "msd", "msd", case_id
    if first := _any_set().match(case_id):
        one = DATASETS[int(str(first.lastgroup)[1:])]
        match = _whole(one.cases).match(case_id)
        assert match, "the two say the same"
        named = {group: (text or "").lower() for group, text in match.groupdict().items()}
        # `sub` keeps the templates that it has parsed, `expand` does not.
        return one.name.format(**named), one.convention, match.re.sub(one.patient, case_id)
    known = min(told - {OTHER.name}, default=OTHER.name)
    return known, dataset_of(known).convention, _patient_of_visit(case_id) or case_id


@cache
def dataset_of(name: str) -> Dataset:
    """The record of a `dataset` column's value; OTHER's of a name that is in none."""
    for one in DATASETS:
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^-]+", re.escape(one.name)), name):
            return one
    return OTHER
