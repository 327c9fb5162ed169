"""A phantom study as it leaves the scanner: DICOM series of two vendors, or NIfTI as dcm2niix names it.

Beside the four modalities lie what every study has: a localiser, a derived map, a series that was begun,
given up and repeated. Tags are as the two vendors write them. All names are made up and carry the word
CANARY, so that a test can look for it where no name may be.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from isal import igzip

from bts.phantom.anatomy import SIZE
from bts.phantom.head import AXIAL, CORONAL, SAGITTAL, Plan, Scan, base_pose, make_head, take

if TYPE_CHECKING:
    from pydicom.uid import UID

VENDORS = ("siemens", "ge")
CANARY = "CANARY"
FLIP = np.diag([-1.0, -1.0, 1.0])  # RAS ↔ LPS, in which DICOM counts
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True)
class Series:
    """A scan and the tags that tell what it is."""

    number: int
    description: str
    scan: Scan
    tags: dict = field(default_factory=dict)
    slices: tuple[int, ...] | None = None
    """Which slices were taken before it was given up; None: all."""
    turned: bool = False
    """A localiser: each slice along another axis."""


Prescription = tuple[Plan, str, tuple[float | None, ...], str]
"""Plan, description, times (repetition, echo and inversion time in ms, flip angle), name of the sequence."""
SIEMENS: dict[str, Prescription] = {
    "t1": (Plan("t1", SAGITTAL), "t1_mprage_sag_p2_iso", (2300, 2.98, 900, 9), "*tfl3d1_16ns"),
    "t1ce": (Plan("t1ce", SAGITTAL), "t1_mprage_sag_p2_iso_KM", (2300, 2.98, 900, 9), "*tfl3d1_16ns"),
    "t2": (Plan("t2", AXIAL, (0.9, 0.9, 3.0)), "t2_tse_tra_3mm", (5500, 93, None, 150), "*tse2d1_17"),
    "flair": (
        Plan("flair", AXIAL, (0.9, 0.9, 3.0)),
        "t2_tirm_tra_dark-fluid",
        (9000, 81, 2500, 150),
        "*tir2d1_19",
    ),
}
GE: dict[str, Prescription] = {
    "t1": (Plan("t1", AXIAL, (0.94, 0.94, 5.0)), "Ax T1 FSE", (600, 12, None, 90), "fse"),
    "t1ce": (Plan("t1ce", AXIAL, (0.94, 0.94, 5.0)), "Ax T1 FSE +C", (600, 12, None, 90), "fse"),
    "t2": (Plan("t2", AXIAL, (0.94, 0.94, 5.0)), "Ax T2 frFSE", (4000, 102, None, 90), "fse"),
    "flair": (Plan("flair", CORONAL, (0.94, 0.94, 5.0)), "Cor T2 FLAIR", (8800, 120, 2250, 160), "fse"),
}
SEQUENCES = {"siemens": SIEMENS, "ge": GE}


@dataclass(frozen=True, slots=True)
class Study:
    """All series of one examination, and the names that must not leave it."""

    seed: int
    index: int
    vendor: str
    series: tuple[Series, ...]

    @property
    def key(self) -> str:
        """Its folder: as PACS exports are named, by the patient."""
        return f"{CANARY}_{self.seed}_{self.index}/20260{1 + self.index % 9}15_MR_HEAD"

    def scan(self, role: str) -> Scan:
        """The scan of one modality, the complete one."""
        return next(s.scan for s in self.series if s.scan.plan.role == role and s.number in (2, 5, 6, 7))

    def truth(self) -> dict:
        """What is known: {role: affine and pose, 4×4 each}, and the UIDs."""
        known = {role: self.scan(role) for role in ("t1", "t1ce", "t2", "flair")}
        found = {r: {"affine": s.affine.tolist(), "pose": s.pose.tolist()} for r, s in known.items()}
        return {"study_uid": self.uid("study"), "vendor": self.vendor, "series": found}

    def uid(self, *what: object) -> "UID":
        """A UID that depends on the study and `what` alone."""
        from pydicom.uid import generate_uid

        return generate_uid(entropy_srcs=["bts phantom", str(self.seed), str(self.index), *map(str, what)])


def make_study(
    seed: int,
    index: int,
    *,
    vendor: str | None = None,
    size: tuple[int, int, int] = SIZE,
    extras: bool = True,
) -> Study:
    """Study `index` of the set `seed`; the vendors take turns. extras: also what lies beside the four."""
    vendor = vendor or VENDORS[index % len(VENDORS)]
    rng = np.random.default_rng([seed, index, 77])
    head = make_head(seed, index, size)
    base = base_pose(head, rng)
    made = []
    for number, (role, (plan, description, times, sequence)) in zip(
        (2, 7, 5, 6), SEQUENCES[vendor].items(), strict=True
    ):
        tags = {"times": times, "sequence": sequence, "contrast": role == "t1ce"}
        made.append(Series(number, description, take(head, plan, base, rng), tags))
    if extras:
        made += _extras(vendor, made)
    return Study(seed, index, vendor, tuple(sorted(made, key=lambda one: one.number)))


def _extras(vendor: str, made: list[Series]) -> Iterator[Series]:
    """A localiser, an aborted T2, a derived map."""
    t1, t2 = made[0], made[2]
    name = {
        "siemens": ("localizer", "ep2d_diff_3scan_ADC"),
        "ge": ("3-Plane Loc", "Apparent Diffusion Coefficient"),
    }
    tags = {
        "times": (8.6, 4, None, 20),
        "sequence": "*fl2d1" if vendor == "siemens" else "fgre",
        "contrast": False,
    }
    middle = t1.scan.voxels_xyz.shape[2] // 2
    yield Series(1, name[vendor][0], t1.scan, tags, slices=(middle - 1, middle, middle + 1), turned=True)
    count = t2.scan.voxels_xyz.shape[2]
    yield Series(4, t2.description, t2.scan, t2.tags, slices=tuple(range(count // 3)))
    yield Series(9, name[vendor][1], t2.scan, t2.tags | {"derived": True})


def write_dicom(study: Study) -> dict[str, bytes]:
    """{key: bytes}, a file a slice, in the order and under the names of a PACS export."""
    files = {}
    for series in study.series:
        for n, data in enumerate(write_series(study, series)):
            files[f"{study.key}/SE{series.number:06d}/IM{n:06d}.dcm"] = data
    return files


def write_series(study: Study, series: Series) -> Iterator[bytes]:
    """The slices of one series."""
    count = series.scan.voxels_xyz.shape[2]
    for place in series.slices if series.slices is not None else range(count):
        yield encode(slice_dataset(study, series, place))


def encode(dataset) -> bytes:
    """The bytes of a DICOM file."""
    import pydicom

    sink = io.BytesIO()
    pydicom.dcmwrite(sink, dataset, enforce_file_format=True)
    return sink.getvalue()


def slice_dataset(study: Study, series: Series, place: int):
    """One slice as a pydicom Dataset with its file meta information."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = UID(MR_IMAGE)
    data.file_meta.MediaStorageSOPInstanceUID = study.uid(series.number, place)
    data.file_meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE)
    _identify(data, study, series, place)
    _describe(data, study, series)
    _place(data, series, place)
    pixels = series.scan.voxels_xyz[:, :, place].T
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = np.ascontiguousarray(pixels.astype("<i2")).tobytes()
    return data


def _identify(data, study: Study, series: Series, place: int) -> None:
    """Who, when, where: what must not leave."""
    data.SOPClassUID, data.SOPInstanceUID = MR_IMAGE, study.uid(series.number, place)
    data.StudyInstanceUID, data.SeriesInstanceUID = study.uid("study"), study.uid("series", series.number)
    data.FrameOfReferenceUID = study.uid("frame")
    data.PatientName = f"{CANARY}^Name{study.index}"
    data.PatientID = f"{CANARY}-ID-{study.seed}-{study.index}"
    data.PatientBirthDate, data.PatientSex = "19570213", "F"
    data.InstitutionName, data.ReferringPhysicianName = f"{CANARY} Hospital", f"{CANARY}^Doctor"
    data.StationName, data.AccessionNumber = f"{CANARY}MR1", f"{CANARY}77"
    data.StudyDescription, data.ImageComments = f"MR head {CANARY}", f"{CANARY} comment"
    data.StudyID = "1"
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = f"20260{1 + study.index % 9}15"
    data.StudyTime, data.AcquisitionTime = "101500", f"10{15 + series.number:02d}00"
    data.SeriesNumber, data.InstanceNumber = series.number, place + 1


def _describe(data, study: Study, series: Series) -> None:
    """How it was taken."""
    (tr, te, ti, flip), tags = series.tags["times"], series.tags
    data.Modality, data.BodyPartExamined = "MR", "HEAD"
    siemens = study.vendor == "siemens"
    data.Manufacturer = "SIEMENS" if siemens else "GE MEDICAL SYSTEMS"
    data.ManufacturerModelName = "Skyra" if siemens else "Signa HDxt"
    data.SeriesDescription = series.description
    data.ProtocolName = series.description if siemens else "BRAIN TUMOR W/WO"
    data.ScanningSequence = ["GR", "IR"] if "tfl" in tags["sequence"] else ["SE", *(["IR"] if ti else [])]
    data.SequenceVariant, data.MRAcquisitionType = ["SK", "SP"], "3D" if "3d" in tags["sequence"] else "2D"
    data.SequenceName = tags["sequence"]
    data.RepetitionTime, data.EchoTime, data.FlipAngle = tr, te, flip
    if ti:
        data.InversionTime = ti
    if tags["contrast"]:
        data.ContrastBolusAgent = "Gadovist" if siemens else "7.5 ML MULTIHANCE"
    taken = ["ORIGINAL", "PRIMARY", *(["M", "ND", "NORM"] if siemens else ["OTHER"])]
    data.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"] if tags.get("derived") else taken
    data.MagneticFieldStrength = 3 if siemens else 1.5


def _place(data, series: Series, place: int) -> None:
    """Where the slice lies. DICOM counts mm in LPS+."""
    affine = series.scan.affine
    steps = FLIP @ affine[:3, :3]
    zooms = np.linalg.norm(steps, axis=0)
    along = steps / zooms
    if series.turned:
        along = np.roll(along, place % 3, axis=1)
    origin = FLIP @ (affine @ [0, 0, place, 1])[:3]
    data.ImageOrientationPatient = [f"{v:.12g}"[:16] for v in (*along[:, 0], *along[:, 1])]
    data.ImagePositionPatient = [f"{v:.10g}"[:16] for v in origin]
    data.PixelSpacing = [f"{zooms[1]:.10g}", f"{zooms[0]:.10g}"]
    data.SliceThickness = data.SpacingBetweenSlices = f"{zooms[2]:.10g}"
    data.SliceLocation = f"{origin @ np.cross(along[:, 0], along[:, 1]):.10g}"
    data.PatientPosition = "HFS"


def write_nifti(study: Study) -> dict[str, bytes]:
    """{key: bytes} as dcm2niix names its files by default (%f_%p_%t_%s): folder, protocol, time, series."""
    files = {}
    folder = study.key.partition("/")[0]
    for series in study.series:
        if series.turned:
            continue
        voxels = series.scan.voxels_xyz
        taken = voxels if series.slices is None else voxels[:, :, list(series.slices)]
        image = nib.Nifti1Image(taken, series.scan.affine)
        image.header.set_qform(series.scan.affine, 1)
        image.header.set_sform(series.scan.affine, 1)
        name = series.description.replace(" ", "_")
        stem = f"{folder}/{study.key.rpartition('/')[2]}_{name}_20260115101500_{series.number}"
        files[f"{stem}.nii.gz"] = igzip.compress(image.to_bytes(), 1, mtime=0)
        tr, te, ti, _ = series.tags["times"]
        side = {"RepetitionTime": tr / 1000, "EchoTime": te / 1000, "SeriesDescription": series.description}
        side |= {"InversionTime": ti / 1000} if ti else {}
        side |= {"ImageType": ["DERIVED", "ADC"] if series.tags.get("derived") else ["ORIGINAL", "PRIMARY"]}
        files[f"{stem}.json"] = json.dumps(side, indent=1).encode()
    return files
