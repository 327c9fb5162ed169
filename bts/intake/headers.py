"""One file's tags → what tells its place and kind, and nothing that tells the patient.

A Header goes into the kept index, so it holds no name, date, free text or path: a description counts only by
the rule that it fits, a patient only by keyed hashes.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

from bts.errors import CaseError
from bts.intake import tools
from bts.intake.identity import Identity
from bts.intake.rules import Facts, Rules, plain

FORMAT = 2  # raised when Header changes, or how it is read
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED = {f"{MR_IMAGE}.1", f"{MR_IMAGE}.4"}  # multi-frame: of the scanner, and as a PACS converts old ones
IMAGES = {MR_IMAGE, *ENHANCED}
MOST_FRAMES = 20_000  # of one file; the longest series of function have some 10,000
FIRST_BYTES = 1 << 16  # of a file: its tags, for nearly all
TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "Modality",
    "PatientID",
    "StudyDate",
    "SeriesDescription",
    "ProtocolName",
    "SequenceName",
    "PulseSequenceName",
    "ImageType",
    "ContrastBolusAgent",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "SamplesPerPixel",
    "EchoNumbers",
]


@dataclass(frozen=True, slots=True)
class Header:
    """What one DICOM file says. A row of the kept index."""

    file: str
    """Stands for its key."""
    version: str
    patient: str
    visit: str
    study: str
    series: str
    number: int
    what: str
    """A modality or what else its rule tells; empty for a file that is no MR image."""
    instance: str
    enhanced: bool
    te: float
    rows: int
    columns: int
    zooms: list[float]
    """mm from column to column and from row to row."""
    directions: list[float]
    """ImageOrientationPatient: 6 numbers, LPS+."""
    positions: list[float]
    """ImagePositionPatient of each frame: 3 numbers a frame, mm in LPS+."""


def is_dicom(data: bytes) -> bool:
    """Whether a file's first bytes are those of DICOM."""
    return data[128:132] == b"DICM"


def read_header(
    read: Callable[[int | None], bytes], size: int, file: str, version: str, identity: Identity, rules: Rules
) -> Header | None:
    """The Header of one DICOM file, or None of a file that is none or holds no MR image.

    read(n) gives its first n bytes, read(None) all. Raises CaseError for a DICOM file that cannot be read.
    """
    data = read(FIRST_BYTES)
    if not is_dicom(data):
        return None
    try:
        tags = _tags(data)
        if size > len(data) and not _whole(tags):
            tags = _tags(read(None))
        if "SOPClassUID" not in tags:
            raise ValueError("no SOP Class UID")
        if tags.get("Modality") not in (None, "MR") or str(tags.get("SOPClassUID", "")) not in IMAGES:
            return None
        return _header(tags, file, version, identity, rules)
    except CaseError:
        raise
    except Exception as error:  # pydicom raises whatever a broken value leads to
        kind = type(error).__name__
        raise CaseError(
            f"its tags cannot be read ({kind})", mend="export the study again", stage="index"
        ) from None


def _tags(data: bytes):
    return tools.load("pydicom").dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=TAGS)


def _whole(tags) -> bool:
    """Whether the first bytes held all that is asked for: the functional groups stand last before the
    pixels.
    """
    if str(tags.get("SOPClassUID", "")) in ENHANCED:
        groups = tags.get("PerFrameFunctionalGroupsSequence")
        return groups is not None and len(groups) == int(tags.get("NumberOfFrames", 1))
    return "Rows" in tags and "Columns" in tags


def _header(tags, file: str, version: str, identity: Identity, rules: Rules) -> Header:
    patient, date = str(tags.get("PatientID", "")), str(tags.get("StudyDate", ""))
    study = str(tags.get("StudyInstanceUID", ""))
    count = int(tags.get("NumberOfFrames", 1) or 1)
    if not 1 <= count <= MOST_FRAMES:
        problem = f"it claims {count:,} frames; 1 to {MOST_FRAMES:,} are due"
        raise CaseError(problem, mend="export the study again", stage="index")
    frames = [_frame(tags, n) for n in range(count)]
    place = frames[0]
    directions = [float(v) for v in place["ImageOrientationPatient"] or ()]
    zooms = [float(v) for v in place["PixelSpacing"] or ()]
    positions = [float(v) for one in frames for v in one["ImagePositionPatient"] or ()]
    facts = facts_of(tags, place)
    return Header(
        file=file,
        version=version,
        patient=identity.patient(patient),
        visit=identity.visit(patient, date, study),
        study=study,
        series=str(tags.get("SeriesInstanceUID", "")),
        number=int(tags.get("SeriesNumber", 0) or 0),
        what=rules.what(facts),
        instance=str(tags.get("SOPInstanceUID", "")),
        enhanced=str(tags.get("SOPClassUID", "")) in ENHANCED,
        te=facts.te,
        rows=int(tags.get("Rows", 0) or 0),
        columns=int(tags.get("Columns", 0) or 0),
        zooms=zooms[::-1],
        directions=directions,
        positions=positions,
    )


def facts_of(tags, place: dict) -> Facts:
    """What the rules are asked about."""
    names = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
    agent = str(place["ContrastBolusAgent"] or "").strip().lower()
    return Facts(
        text=plain(*(str(tags.get(name, "") or "") for name in names)),
        image_type=tuple(str(word).upper() for word in _many(tags.get("ImageType"))),
        contrast=agent not in ("", "n", "0") and not re.match(r"(no|none|without)\b", agent),
        tr=_number(place["RepetitionTime"]),
        te=_number(place["EchoTime"]),
        ti=_number(place["InversionTime"]),
        sop_class=str(tags.get("SOPClassUID", "")),
    )


# Where an enhanced multi-frame file keeps what others keep at their top: a group and its name there.
GROUPS = {
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "ImagePositionPatient": ("PlanePositionSequence", "ImagePositionPatient"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "ContrastBolusAgent": ("ContrastBolusUsageSequence", "ContrastBolusAgentAdministered"),
}


def _frame(tags, n: int) -> dict:
    """Name → value of what may stand at the top, in the shared groups, or in those of frame n."""
    found = {name: tags.get(name) for name in GROUPS}
    places = []
    for sequence, at in (("PerFrameFunctionalGroupsSequence", n), ("SharedFunctionalGroupsSequence", 0)):
        if groups := tags.get(sequence):
            places.append(groups[at])
    for name, (group, inner) in GROUPS.items():
        for place in places:
            if found[name] is None and (items := place.get(group)):
                found[name] = items[0].get(inner)
    return found


def _many(value) -> list:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _number(value) -> float:
    if value is not None and not isinstance(value, (str, int, float)):
        value = next(iter(value), None)
    return float(value or 0)
