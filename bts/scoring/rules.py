"""The BraTS challenges' rules of scoring, by year and data set, as data: regions, lesions, distances.

2023 is the challenge's own code rachitsaluja/BraTS-2023-Metrics, 2024 its successor BraTS-2024-Metrics (also
that of 2025), 2026 the package brats-evaluation 0.0.10. Labels are the project's own: 1 necrosis or
non-enhancing core, 2 oedema, 3 enhancing, 4 resection cavity.
"""

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

from bts.labels import CAVITY, PAEDIATRIC, REGIONS, TARGET, TISSUES, Regions
from bts.scoring.surfaces import FARTHEST

NSD = {0.5: "nsd05", 1.0: "nsd1"}  # mm → the metric
Year = Literal["2023", "2024", "2026"]
YEARS: tuple[Year, ...] = ("2023", "2024", "2026")
Weighting = Literal["area", "voxels"]
"""Of a surface: by area (DeepMind's surface-distance), or each voxel at the border alike."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a challenge scores, and what it counts as one lesion."""

    reach: int = 0
    """Parts of the reference within twice so many dilations of each other are one lesion, and a lesion claims
    the predicted parts within so many; one dilation is by the 18 neighbours."""
    smallest: float = 0.0
    """mm³; lesions of the reference up to that size are left out, found or missed."""
    _: KW_ONLY
    year: Year = "2023"
    regions: Regions = field(default_factory=lambda: REGIONS)
    """Scored always."""
    where_present: Regions = field(default_factory=lambda: CAVITY)
    """Scored where the reference or the prediction has them."""
    matching: Literal["claim", "pair"] = "claim"
    """claim: a lesion is compared with all predicted parts within its reach. pair: components (26 neighbours)
    are matched one to one, so that the sum of their Dice is the largest."""
    reach_of: Mapping[str, int] = field(default_factory=dict)
    """Regions with another reach."""
    smallest_of: Mapping[str, float] = field(default_factory=dict)
    """Regions with another smallest lesion."""
    grouped: Literal["", "voxels", "mm3"] = ""
    """Predicted parts within reach of each other are one too, and those up to `smallest` of this unit are
    dropped; empty: neither."""
    joined_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Lesions of a region that touch the same lesion of these others are one."""
    unmatched: Literal["all", "missed", "none"] = "all"
    """Which lesions without a counterpart count in the means over lesions, with Dice 0 and the farthest
    distance: those missed and those falsely predicted, those missed alone, or none."""
    split: float = 0.0
    """mm³ from which on a lesion is large (pair). The means are over large lesions; of small ones only the
    detection counts. 0: no such difference."""
    detected: float = 0.0
    """Dice from which on a matched lesion of a `split` counts as found."""
    hausdorff: Weighting = "area"
    surface_dice: Weighting = "area"
    tolerances: tuple[float, ...] = (1.0,)
    """mm of the surface Dice of a whole region."""
    lesion_tolerances: tuple[float, ...] = ()
    """mm of the surface Dice by lesion."""
    farthest: float | None = FARTHEST
    """mm in place of a distance to nothing; None: the diagonal of the grid, in voxels."""
    note: str = ""
    """What these rules leave out here, and why."""

    def of(self, region: str) -> "Rules":
        """The same, with the reach and the smallest lesion of one region."""
        reach = self.reach_of.get(region, self.reach)
        return replace(self, reach=reach, smallest=self.smallest_of.get(region, self.smallest))

    @property
    def far_mm(self) -> float:
        """`farthest`, of an image: `measure` puts the diagonal in its place."""
        assert self.farthest is not None
        return self.farthest

    @property
    def widest(self) -> int:
        """The largest reach of any region; at least 1."""
        return max(self.reach, *self.reach_of.values(), 1)


GLIOMA = Rules(3, 50)

_CYST = "The project's labels do not tell a cyst from non-enhancing core: NETC and CC are not scored."
_2024 = Rules(
    3,
    50,
    year="2024",
    where_present={},
    grouped="voxels",
    surface_dice="voxels",
    tolerances=(0.5, 1.0),
    lesion_tolerances=(0.5, 1.0),
)
_BY_NETC = {"ET": ("NETC",)}
_OF_GLIOMA = {
    "NETC": ("ET", "RC"),
    "ET": ("NETC", "RC"),
    "RC": ("ET", "NETC"),
    "SNFH": ("ET", "RC", "NETC"),
}
_2026 = Rules(
    year="2026",
    where_present={},
    matching="pair",
    unmatched="none",
    hausdorff="voxels",
    surface_dice="voxels",
    tolerances=(0.5, 1.0),
    lesion_tolerances=(1.0,),
    farthest=373.0,
)
RULES: dict[str, dict[str, Rules]] = {
    "2023": {"gli": GLIOMA, "men": replace(GLIOMA, reach=1), "met": replace(GLIOMA, reach=1, smallest=2)},
    "2024": {
        "gli": replace(
            _2024,
            where_present=TISSUES,
            reach_of={"NETC": 5, "RC": 5},
            smallest=20,
            smallest_of={"ET": 10},
            joined_by=_OF_GLIOMA,
            farthest=337.0,
        ),
        "ssa": replace(_2024, joined_by=_BY_NETC),
        "met": replace(_2024, where_present=CAVITY, reach=1, smallest=2, joined_by=_BY_NETC, farthest=None),
        "men": replace(_2024, reach=1, grouped=""),
        "men-rt": replace(_2024, regions=TARGET, reach=1, grouped="mm3", unmatched="missed", farthest=None),
        "ped": replace(_2024, where_present=PAEDIATRIC, reach=5, smallest=10, note=_CYST),
        "goat": replace(_2024, grouped="", note="The code of 2024 has no GoAT: its lesions are as in 2023."),
    },
    "2026": {
        "gli": replace(_2026, where_present=TISSUES),
        "ssa": _2026,
        "met": replace(_2026, where_present=CAVITY, unmatched="all", split=20.0, detected=0.1),
        "men": _2026,
        "men-rt": replace(_2026, regions=TARGET),
        "ped": replace(_2026, where_present=PAEDIATRIC, note=_CYST),
        "goat": _2026,
    },
}
"""Year → challenge → its rules."""


SAID = {
    "2023": "A lesion missed or invented counts as Dice 0 and 374 mm. Lesions of up to 50 mm³, in metastases "
    "2 mm³, are left out. Surface Dice is weighted by area.",
    "2024": "A lesion missed or invented counts as Dice 0 and the farthest distance: 337 mm in glioma, the "
    "diagonal of the image in metastases and meningioma before radiotherapy, 374 mm otherwise. Predicted "
    "parts near each other are one lesion; small lesions are left out. Surface Dice counts all border voxels "
    "alike.",
    "2026": "Lesions are matched one to one. Means by lesion are over those matched, 0 and 373 mm where none "
    "was; what was missed or invented counts in F1, precision and recall. Of metastases the means are over "
    "lesions of 20 mm³ and more, those missed or invented included. HD95 and surface Dice count all border "
    "voxels alike; without overlap they are 373 mm and 0.",
}
"""What a reader of the scores must know, by year."""


def rules_of(dataset: str, asked: str = "auto") -> Rules:
    """The rules for a data set, by its name (of bts.cases.case): those of a year, or of its own year (auto).

    A data set of another kind than the challenge's is scored as glioma.
    """
    kinds = RULES[year_of(dataset) if asked == "auto" else asked]
    return kinds.get(kind_of(dataset), kinds["gli"])


def year_of(*names: str) -> Year:
    """The rules of the latest year that a data set or its label convention tells by its name.

    Those of 2023 up to then, or where none is told; those of 2024 in 2025.
    """
    told = max(re.findall(r"20\d\d", " ".join(names)), default="")
    return max((year for year in YEARS if year <= told), default="2023")


def kind_of(dataset: str) -> str:
    """The challenge of a data set: gli, ssa, met, men, men-rt, ped, goat, or "" where the name tells none."""
    told = re.search(r"(?<![a-z])(gli|ssa|met|men-rt|men|ped|goat)(?![a-z])", dataset.lower())
    return told[0] if told else ""
