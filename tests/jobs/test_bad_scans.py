"""Bad raw scans: each study fails alone, with a reason and what to do; its sound neighbour is taken in."""

import copy
import gzip
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from bts.intake import identity
from bts.phantom.study import CANARY, encode, make_study, slice_dataset
from bts.storage import Store
from jobs import intake
from jobs.driver.outcome import Outcome
from tests import builders

for name in ("SimpleITK", "pydicom", "dcm2niix"):
    pytest.importorskip(name, reason="requirements-intake.txt is not installed")
pytestmark = pytest.mark.slow
T1, T2, FLAIR, T1CE = NUMBERS = (2, 5, 6, 7)
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
Scans = dict[int, list]
"""Series number → its slices, pydicom Datasets, from one end to the other."""


@dataclass(frozen=True)
class Bad:
    """A study of DICOM, as a change of a sound one; or of NIfTI, as files by name."""

    reason: str
    """Regular expression of what is said about it."""
    change: Callable[[Scans], object] | None = None
    files: Callable[[], dict[str, bytes]] | None = None
    spoil: Callable[[bytes], bytes] = bytes
    """Changes the bytes of the first T2 slice."""


def each(number: int, **tags: object) -> Callable[[Scans], None]:
    """These values in every slice of a series; None takes a tag out."""

    def change(scans: Scans) -> None:
        for data in scans[number]:
            put(data, tags)

    return change


def one(number: int, place: int = 3, **tags: object) -> Callable[[Scans], None]:
    return lambda scans: put(scans[number][place], tags)


def half(number: int, **tags: object) -> Callable[[Scans], None]:
    def change(scans: Scans) -> None:
        for data in scans[number][::2]:
            put(data, tags)

    return change


def put(data, tags: dict[str, object]) -> None:
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)


def again(scans: Scans, number: int, other: int, shift: float = 0.0) -> None:
    """A series once more, under another number."""
    scans[other] = copy.deepcopy(scans[number])
    for n, data in enumerate(scans[other]):
        data.SeriesNumber, data.SeriesInstanceUID = other, f"1.2.3.{other}"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{other}.{n}"


def two_volumes(scans: Scans) -> None:
    more = copy.deepcopy(scans[T2])
    for n, data in enumerate(more):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.4.{n}"
    scans[T2] += more


def tilted(scans: Scans) -> None:
    """As a scanner with a slanted gantry: every slice 1 mm further along its rows."""
    for n, data in enumerate(scans[T2]):
        along = np.array(data.ImageOrientationPatient[:3], float)
        place = np.array(data.ImagePositionPatient, float) + n * along
        data.ImagePositionPatient = [f"{v:.6f}" for v in place]


def multi_frames(scans: Scans) -> None:
    for data in scans[T2]:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ENHANCED
        data.NumberOfFrames = 1


def mirrored_in_parts(scans: Scans) -> None:
    """A slice that says that it lies the other way round."""
    data = scans[T2][4]
    data.ImageOrientationPatient = [-float(v) for v in data.ImageOrientationPatient]


def packed_rubbish(scans: Scans) -> None:
    """Slices that claim JPEG-LS and hold none."""
    from pydicom.encaps import encapsulate

    for data in scans[T2]:
        data.PixelData = encapsulate([b"\xff\xd8 no image " * 8])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"


def niftis(**changed: bytes | None) -> Callable[[], dict[str, bytes]]:
    """A study of NIfTI files; T1, T1_post, T2, FLAIR changed or (None) left out."""

    def files() -> dict[str, bytes]:
        image = builders.nifti(np.arange(24 * 24 * 12, dtype=np.int16).reshape(24, 24, 12))
        every = {name: image for name in ("T1", "T1_post", "T2", "FLAIR")} | changed
        return {f"{name}.nii.gz": data for name, data in every.items() if data is not None}

    return files


SOUND = builders.nifti(np.ones((24, 24, 12), np.int16))
NOT_A_NUMBER = builders.nifti(np.full((24, 24, 12), np.nan, np.float32))
BAD = {
    "no flair": Bad("no series of flair", lambda s: s.pop(FLAIR)),
    "no t1ce": Bad("no series of t1ce", lambda s: s.pop(T1CE)),
    "two t1ce": Bad("2 series may be t1ce", lambda s: again(s, T1CE, 17)),
    "t1ce without a word of contrast": Bad(
        "2 series may be t1:", each(T1CE, ContrastBolusAgent=None, SeriesDescription="Ax T1 FSE")
    ),
    "a slice is missing": Bad("1 seem to be missing", lambda s: s[T2].pop(4)),
    "every other slice is missing at the end": Bad(
        "seem to be missing", lambda s: s.update({T2: s[T2][:8] + s[T2][8::2]})
    ),
    "a slice twice": Bad("there twice", lambda s: s[T2].append(copy.deepcopy(s[T2][4]))),
    "two volumes in one series": Bad("more than one volume", two_volumes),
    "seven slices": Bad("8 are needed", lambda s: s.update({T2: s[T2][:7]})),
    "slices all at one place": Bad("at the same place", each(T2, ImagePositionPatient=[0, 0, 0])),
    "gantry tilt": Bad("gantry tilt", tilted),
    "no position": Bad("do not tell where they lie", each(T2, ImagePositionPatient=None)),
    "no position of one slice": Bad("do not tell where they lie", one(T2, ImagePositionPatient=None)),
    "no orientation": Bad("do not tell where they lie", each(T2, ImageOrientationPatient=None)),
    "no pixel spacing": Bad("do not tell where they lie", each(T2, PixelSpacing=None)),
    "an orientation of four numbers": Bad(
        "do not tell where they lie", each(T2, ImageOrientationPatient=[1, 0, 0, 0])
    ),
    "slices of two sizes": Bad("different sizes", one(T2, Rows=32, Columns=32)),
    "slices of two spacings": Bad("different pixel spacings", one(T2, PixelSpacing=[2, 2])),
    "slices turned against each other": Bad(
        "turned against each other", one(T2, ImageOrientationPatient=[0, 1, 0, 0, 0, 1])
    ),
    "a slice the other way round": Bad("turned against each other", mirrored_in_parts),
    "two echoes": Bad("several echo times", half(T2, EchoTime=30)),
    "half of it derived": Bad("mixes images of several kinds", half(T2, ImageType=["DERIVED", "PRIMARY"])),
    "all of it derived": Bad("no series of t2", each(T2, ImageType=["DERIVED", "PRIMARY"])),
    "several multi-frame files": Bad("several multi-frame files", multi_frames),
    "two patients": Bad("several patients or dates", one(T2, PatientID="ANOTHER")),
    "two dates": Bad("several patients or dates", one(T2, StudyDate="19991231")),
    "slices of gigabytes": Bad("would fill more than 2 GiB", each(T2, Rows=65535, Columns=65535)),
    "no pixels": Bad("t2: .*dcm2niix made 0 volumes", each(T2, PixelData=None)),
    "pixels cut off": Bad("t2: ", lambda s: [put(d, {"PixelData": d.PixelData[:200]}) for d in s[T2]]),
    "pixels all zero": Bad(
        "all its voxels are equal", lambda s: [put(d, {"PixelData": bytes(len(d.PixelData))}) for d in s[T2]]
    ),
    "packed rubbish": Bad("t2: ", packed_rubbish),
    "a million frames": Bad("claims 1,000,000 frames", one(T2, NumberOfFrames=1_000_000)),
    "frames below zero": Bad("claims -5 frames", one(T2, NumberOfFrames=-5)),
    "tags overwritten": Bad("tags cannot be read", spoil=lambda d: d[:400] + b"\xff" * 40 + d[440:]),
    "cut off in its tags": Bad("tags cannot be read|seem to be missing|no sound", spoil=lambda d: d[:700]),
    "nifti: gzip cut off": Bad("truncated", files=niftis(T2=SOUND[:-40])),
    "nifti: text": Bad("not a NIfTI file", files=niftis(T2=b"nobody" * 99)),
    "nifti: empty file": Bad("no sound series of t2.* 0 bytes", files=niftis(T2=b"")),
    "nifti: no number": Bad("NaN", files=niftis(T2=NOT_A_NUMBER)),
    "nifti: all equal": Bad("all its voxels are equal", files=niftis(T2=SOUND)),
    "nifti: 4D": Bad(
        "one 3D image is due", files=niftis(T2=builders.nifti(np.zeros((9, 9, 9, 3), np.int16)))
    ),
    "nifti: a bomb": Bad(
        "claims",
        files=niftis(
            T2=gzip.compress(
                builders.nifti(np.zeros((1, 1, 1), np.int16), compress=False).replace(
                    b"\x01\x00\x01\x00\x01\x00", b"\xff\x7f\xff\x7f\xff\x7f", 1
                )
            )
        ),
    ),
    "nifti: no t1ce": Bad("no series of t1ce", files=niftis(T1_post=None)),
    "nifti: two flair": Bad("2 series may be flair", files=niftis(FLAIR=SOUND, FLAIR_2=SOUND)),
}


def patient(what: str) -> str:
    return "".join(word.capitalize() for word in re.findall("[a-z0-9]+", what))


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Store:
    """All bad studies, and a sound one, in one folder."""
    store = Store(str(tmp_path_factory.mktemp("scans")))
    study = make_study(0, 1, vendor="ge", size=(64, 64, 56), extras=False)
    sound = {
        series.number: [slice_dataset(study, series, n) for n in range(series.scan.voxels_xyz.shape[2])]
        for series in study.series
    }
    for count, (what, bad) in enumerate([("sound", Bad("")), *BAD.items()]):
        if bad.files:
            builders.put_all(store, {f"{patient(what)}/{name}": data for name, data in bad.files().items()})
            continue
        scans = copy.deepcopy(sound)
        for data in (data for series in scans.values() for data in series):
            data.PatientID, data.StudyInstanceUID = patient(what), f"1.2.3.4.{count}"
        if bad.change:
            bad.change(scans)
        for number, series in scans.items():
            for n, data in enumerate(series):
                raw = encode(data)
                raw = bad.spoil(raw) if (number, n) == (T2, 3) else raw
                store.put(f"{patient(what)}/{number}/{n}.dcm", raw)
    return store


def take_in(scans: Store, cases: str, **more: object) -> Outcome:
    settings = {"strip": "none", "atlas": "none", "keep_ids": True, "ray": "no", **more}
    return intake.main(intake.Settings(scans.uri, cases, **settings))


@pytest.fixture(scope="module", autouse=True)
def key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(identity.VARIABLE, "a key for tests, long enough")
        yield


@pytest.fixture(scope="module")
def done(scans, tmp_path_factory):
    """The outcome of one run over all of them, and what it wrote."""
    output = Store(str(tmp_path_factory.mktemp("cases")))
    return take_in(scans, output.uri), output


def test_the_sound_study_alone_is_taken_in(done):
    outcome, output = done
    assert outcome.counts["written"] == 1 and outcome.exit_code == 3
    folders = {entry.key.split("/")[0] for entry in output.list() if entry.key.startswith("Scan-")}
    assert len(folders) == 1 and next(iter(folders)).startswith("Scan-Sound-")


@pytest.mark.parametrize("what", BAD)
def test_a_bad_study_fails_alone_and_is_named(done, what):
    outcome, _ = done
    of_study = [one for one in outcome.failed if f"Scan-{patient(what)}-" in one.case_id]
    of_file = [one for one in outcome.failed if one.stage == "index"]
    said = [one for one in of_study + of_file if re.search(BAD[what].reason, one.message)]
    assert said, [one.message for one in of_study]
    assert all(one.mend and CANARY not in one.message and len(one.message) < 1000 for one in said)
    assert len(of_study) <= 1


def test_a_file_of_terabytes_is_not_read(tmp_path):
    scans = Store(str(tmp_path / "scans"))
    builders.put_all(scans, {f"One/{name}": data for name, data in niftis()().items()})
    os.truncate(tmp_path / "scans/One/T2.nii.gz", 1 << 40)
    (failure,) = take_in(scans, str(tmp_path / "cases")).failed
    assert "1024 GiB" in failure.message and failure.stage == "read"
