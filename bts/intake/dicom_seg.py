"""Labels on a series' own slices → one DICOM SEG that refers to them: BINARY, coded names, placed frames.

Identity comes from the source's headers, as the standard wants: a SEG belongs into the PACS that the scans
came from. UIDs depend on study, series, model and labels alone: the same result is the same object. Another
result is another object, which a PACS does not drop as one that it has.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from bts.errors import CaseError
from bts.intake import tools
from bts.intake.grids import LPS, Image, Lattice

SEGMENTS = {  # label of the project → name, coding scheme, code, meaning
    1: ("Necrosis and non-enhancing tumour core", "SCT", "6574001", "Necrosis"),
    2: ("Oedema and infiltration", "SCT", "79654002", "Edema"),
    3: ("Enhancing tumour", "NCIt", "C113842", "Enhancing Lesion"),
}
CATEGORY = ("SCT", "49755003", "Morphologically Altered Structure")
FAMILY = ("DCM", "123109", "Artificial Intelligence")
MAKER = "bts"
SERIES_NUMBER = 9000  # plus the source's: beyond a scanner's own
# What the standard wants in a header, if only empty; anonymised scans lack some.
WANTED = [
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "SliceThickness"),
]
MEND = "deliver without --dicom-seg, or look at the source series"


def read_source(files: Sequence[bytes]) -> list[Any]:
    """The series' files as pydicom datasets, in the order of their places. Raises CaseError."""
    pydicom = tools.load("pydicom")
    try:
        datasets = [pydicom.dcmread(io.BytesIO(data)) for data in files]
        if len(datasets) > 1:
            across = _across(datasets[0].ImageOrientationPatient)
            datasets.sort(key=lambda one: float(np.dot(np.array(one.ImagePositionPatient, float), across)))
    except Exception as error:  # pydicom raises whatever a broken value leads to
        raise CaseError(
            f"a source file cannot be read ({type(error).__name__})", mend=MEND, stage="seg"
        ) from None
    for one in datasets:
        for name in WANTED:
            if name not in one:
                setattr(one, name, None)
    return datasets


def lattice_of(datasets: Sequence[Any]) -> tuple[Lattice, np.ndarray]:
    """(grid of the slices as DICOM stores them, places of its slices in the order of the frames). Raises
    CaseError."""
    try:
        lattice, places = _lattice_of(datasets)
        if not np.isfinite(lattice.affine).all() or abs(np.linalg.det(lattice.affine)) < 1e-6:
            raise ValueError
    except Exception as error:  # pydicom raises whatever a broken value leads to
        problem = f"its source series does not tell where its slices lie ({type(error).__name__})"
        raise CaseError(problem, mend=MEND, stage="seg") from None
    return lattice, places


def _lattice_of(datasets: Sequence[Any]) -> tuple[Lattice, np.ndarray]:
    first = datasets[0]
    if len(datasets) > 1:
        directions, spacing = first.ImageOrientationPatient, first.PixelSpacing
        positions = np.array([one.ImagePositionPatient for one in datasets], float)
    else:
        shared, frames = first.SharedFunctionalGroupsSequence[0], first.PerFrameFunctionalGroupsSequence
        directions = _group(shared, frames[0], "PlaneOrientationSequence").ImageOrientationPatient
        spacing = _group(shared, frames[0], "PixelMeasuresSequence").PixelSpacing
        planes = (_group(shared, frame, "PlanePositionSequence") for frame in frames)
        positions = np.array([plane.ImagePositionPatient for plane in planes], float)
    heights = positions @ _across(directions)
    order = np.argsort(heights, kind="stable")
    placed = positions[order]
    row, column = np.array(directions[:3], float), np.array(directions[3:], float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * float(spacing[1]), column * float(spacing[0])
    affine[:3, 2] = (placed[-1] - placed[0]) / max(len(placed) - 1, 1)
    affine[:3, 3] = placed[0]
    shape = (len(placed), int(first.Rows), int(first.Columns))
    return Lattice(shape, LPS @ affine), np.argsort(order)


def write_seg(
    datasets: Sequence[Any],
    labels: Image,
    places: np.ndarray,
    model: str,
    version: str,
    *,
    by_model: bool = True,
) -> bytes:
    """The SEG's bytes. labels: on the grid of `lattice_of`; model and version: what made them; by_model: a
    model alone, and no person or unknown tool.

    Raises CaseError where the source cannot be referred to.
    """
    hd = tools.load("highdicom")
    tools.load("highdicom.seg")
    first = datasets[0]
    wanted = (str(first.StudyInstanceUID), str(first.SeriesInstanceUID), model, version)
    found = hashlib.blake2b(labels.voxels.tobytes(), digest_size=16).hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote names of patients, which no log may hold
            seg = hd.seg.Segmentation(
                source_images=list(datasets),
                pixel_array=np.ascontiguousarray(labels.voxels[places]),
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=_segments(hd, model, version, by_model),
                series_instance_uid=_uid("series", *wanted),
                series_number=SERIES_NUMBER + int(first.get("SeriesNumber", 0) or 0),
                sop_instance_uid=_uid("instance", *wanted, found, *(() if by_model else ("SEMIAUTOMATIC",))),
                instance_number=1,
                manufacturer=MAKER,
                manufacturer_model_name=MAKER,
                software_versions=version[:64],
                device_serial_number="0",
                content_label="TUMOUR",
                content_description="Brain tumour segmentation, not for diagnosis",
                omit_empty_frames=bool(labels.voxels.any()),
                **_names(hd, first),
            )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        problem = f"no SEG can refer to this series ({type(error).__name__})"
        raise CaseError(problem, mend=MEND, stage="seg") from error
    seg.SeriesDescription = "Brain tumour segmentation"
    for item in [*seg.get("DimensionOrganizationSequence", ()), *seg.get("DimensionIndexSequence", ())]:
        item.DimensionOrganizationUID = _uid("dimensions", *wanted)
    sink = io.BytesIO()
    seg.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def _names(hd: Any, source: Any) -> dict[str, str]:
    """UTF-8 for the names of a source whose own character sets highdicom does not take: several, such as
    Japan's, of which the first is empty, and those with code extensions (ISO 2022)."""
    said = source.get("SpecificCharacterSet")
    known = {one.value for one in hd.SpecificCharacterSetValues}
    takes = said is None or (isinstance(said, str) and said in known and "2022" not in said)
    return {} if takes else {"specific_character_set": "ISO_IR 192"}


def _segments(hd: Any, model: str, version: str, by_model: bool) -> list[Any]:
    types = hd.seg.SegmentAlgorithmTypeValues
    code = hd.sr.CodedConcept
    family = code(value=FAMILY[1], scheme_designator=FAMILY[0], meaning=FAMILY[2])
    category = code(value=CATEGORY[1], scheme_designator=CATEGORY[0], meaning=CATEGORY[2])
    algorithm = hd.AlgorithmIdentificationSequence(name=model[:64], family=family, version=version[:64])
    return [
        hd.seg.SegmentDescription(
            segment_number=label,
            segment_label=name,
            segmented_property_category=category,
            segmented_property_type=code(value=value, scheme_designator=scheme, meaning=meaning),
            algorithm_type=types.AUTOMATIC if by_model else types.SEMIAUTOMATIC,
            algorithm_identification=algorithm,
        )
        for label, (name, scheme, value, meaning) in SEGMENTS.items()
    ]


def _uid(*what: str) -> str:
    """A UID under 2.25 (of a hash), the same for the same words."""
    return f"2.25.{int.from_bytes(hashlib.blake2b(json.dumps(what).encode(), digest_size=16).digest())}"


def _across(directions: Sequence[float]) -> np.ndarray:
    numbers = np.array(directions, float)
    return np.cross(numbers[:3], numbers[3:])


def _group(shared: Any, frame: Any, name: str) -> Any:
    return (frame.get(name) or shared.get(name))[0]
