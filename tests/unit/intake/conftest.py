"""Small phantom studies, drawn once for all tests of this room."""

import copy

import pytest

from bts.intake.headers import read_header
from bts.intake.identity import Identity
from bts.intake.rules import read_rules
from bts.phantom.study import Study, make_study, write_dicom

SIZE = (96, 96, 80)
IDENTITY = Identity("a key for tests, long enough")


@pytest.fixture(scope="session")
def ge() -> Study:
    """Thick axial and coronal slices."""
    pytest.importorskip("pydicom", reason="requirements-intake.txt is not installed")
    return make_study(0, 1, vendor="ge", size=SIZE)


@pytest.fixture(scope="session")
def siemens() -> Study:
    """T1 and T1ce sagittal at 1 mm, the others axial at 3 mm."""
    pytest.importorskip("pydicom", reason="requirements-intake.txt is not installed")
    return make_study(0, 1, vendor="siemens", size=SIZE)


@pytest.fixture(scope="session")
def ge_files(ge) -> dict[str, bytes]:
    return write_dicom(ge)


@pytest.fixture(scope="session")
def itk():
    return pytest.importorskip("SimpleITK", reason="requirements-intake.txt is not installed")


def headers(files: dict[str, bytes], rules=None, identity=IDENTITY) -> list:
    """The rows of an index of these files."""
    told = rules or read_rules()
    rows = [
        read_header(lambda n, data=data: data[:n], len(data), identity.opaque(key), "1", identity, told)
        for key, data in files.items()
    ]
    return [row for row in rows if row]


def multi_frame(slices: list, kind: str = "1"):
    """Slices as one enhanced file (kind 4: legacy converted), a Dataset."""
    from pydicom import Dataset

    whole = copy.deepcopy(slices[0])
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.4.{kind}"
    whole.NumberOfFrames = len(slices)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, plane.ImageOrientationPatient = whole.PixelSpacing, whole.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    frames = []
    for one in slices:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = one.ImagePositionPatient
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    del whole.PixelSpacing, whole.ImageOrientationPatient, whole.ImagePositionPatient
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], frames
    whole.PixelData = b"".join(one.PixelData for one in slices)
    return whole
