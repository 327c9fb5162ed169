"""Bad inputs, and what must be said of each; odd inputs that are good, and must be read without loss.

A row makes the files of one case, {key: bytes}, that nothing else in the folder resembles: `n` is its number.
Voxels are in the files' own (x, y, z) order here.
"""

import bz2
import functools
import gzip
import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from isal import isal_zlib

from bts.cases.read import MSD_CHANNELS
from bts.errors import Failure
from tests import builders
from tests.builders import LPS, NAMES_2021, NAMES_2023, affine

Files = dict[str, bytes]
Make = Callable[[int], tuple[str, Files]]
"""Number of the case → (its id, its files)."""


@dataclass(frozen=True)
class Bad:
    """A bad input, and the failure that it must give."""

    make: Make
    says: str
    """Regular expression of what must be said to be wrong."""
    stage: str = "read"
    blames: str = "-t2w.nii.gz"
    """End of the key of the file to blame; empty where it is no single file."""
    truth: bool = False
    """The truth alone is bad: segmenting does not look at it."""
    heavy: bool = False
    """It asks for far more memory than its size."""

    def complaints(self, failure: Failure, case_id: str) -> list[str]:
        """What a failure lacks of all that is due."""
        message, named = failure.message, (case_id, repr(case_id))
        due = {
            f"case {case_id!r}": failure.case_id in named and any(name in message for name in named),
            f"stage {self.stage}": failure.stage == self.stage,
            f"file …{self.blames}": failure.file.endswith(self.blames) and failure.file in message,
            f"words {self.says!r}": re.search(self.says, failure.error),
            "a mend": failure.mend and failure.mend in message,
            "one short line": len(message) < 600 and message.isprintable(),
        }
        return [f"{what} is due in {str(failure)[:900]}" for what, there in due.items() if not there]


def write(folder: Path, files: Files) -> None:
    """Straight to the disk: Store.put would wait for it after every file."""
    for key, data in files.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


# --- NIfTI cases with one thing wrong ---------------------------------------------------------------------


def sound(n: int) -> tuple[str, Files]:
    case = f"BraTS-GLI-{n:05}-000"
    return case, builders.case_files(case, seed=n)


def packed(change: Callable[[bytes], bytes], role: str = "t2") -> Make:
    """A sound case but for the bytes of one file."""

    def make(n: int) -> tuple[str, Files]:
        case, files = sound(n)
        key = f"{case}/{case}-{NAMES_2023[role]}.nii.gz"
        return case, {**files, key: change(files[key])}

    return make


def raw(change: Callable[[bytes], bytes], role: str = "t2") -> Make:
    """But for one file's bytes within the gzip stream."""
    return packed(lambda data: gzip.compress(change(gzip.decompress(data)), 1), role)


def header(role: str = "t2", **fields) -> Make:
    """But for what one file's header says; its voxels stay."""
    return raw(lambda data: patched(data, **fields), role)


def voxels(
    change: Callable[[np.ndarray], np.ndarray] = np.array, matrix: np.ndarray = LPS, role: str = "t2"
) -> Make:
    """But for one file's voxels, or where they lie."""

    def change_file(data: bytes) -> bytes:
        image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
        return builders.nifti(change(np.asarray(image.dataobj)), matrix)

    return packed(change_file, role)


def everywhere(matrix: np.ndarray) -> Make:
    """But for where all files' voxels lie."""

    def make(n: int) -> tuple[str, Files]:
        case, _ = sound(n)
        return case, builders.case_files(case, seed=n, matrix=matrix)

    return make


def patched(data: bytes, **fields) -> bytes:
    """A NIfTI-1 file with other values in its header."""
    found = nib.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        found[name] = value
    return found.binaryblock + data[348:]


def with_voxel(value: float, dtype=np.float32) -> Callable[[np.ndarray], np.ndarray]:
    """One voxel of the brain becomes `value`."""

    def change(image: np.ndarray) -> np.ndarray:
        image = image.astype(dtype)
        image[9, 11, 5] = value
        return image

    return change


def blank(n: int) -> tuple[str, Files]:
    """Nothing but zeros in every image, and no truth."""
    case, _ = sound(n)
    files = builders.case_files(case, truth=False)
    return case, dict.fromkeys(files, builders.nifti(np.zeros((20, 24, 12), np.int16)))


def without(*roles: str) -> Make:
    def make(n: int) -> tuple[str, Files]:
        case, files = sound(n)
        gone = tuple(f"-{NAMES_2023[role]}.nii.gz" for role in roles)
        return case, {key: data for key, data in files.items() if not key.endswith(gone)}

    return make


def renamed(change: Callable[[str], str]) -> Make:
    """A sound case under another id."""

    def make(n: int) -> tuple[str, Files]:
        case = change(f"BraTS-GLI-{n:05}-000")
        return case, builders.case_files(case)

    return make


def rekeyed(change: Callable[[str], str]) -> Make:
    """A sound case with other keys."""

    def make(n: int) -> tuple[str, Files]:
        case, files = sound(n)
        return case, {change(key): data for key, data in files.items()}

    return make


def of_2021(n: int) -> tuple[str, Files]:
    """Written for 2023, where enhancing tumour is 3, under a name of 2021."""
    case = f"BraTS2021_{n:05}"
    return case, builders.case_files(case, names=NAMES_2021, enhancing=3)


def of_nobody(n: int) -> tuple[str, Files]:
    """A name that tells no convention."""
    case = f"hospital {n}"
    return case, builders.case_files(case, names=NAMES_2021)


def in_another_format(n: int) -> tuple[str, Files]:
    """A .mha that is none, in place of the T2."""
    case, files = without("t2")(n)
    return case, {**files, f"{case}/{case}-t2w.mha": PAGE}


def in_two_folders(n: int) -> tuple[str, Files]:
    case, files = sound(n)
    return case, {f"{place}/{key}": data for place in "ab" for key, data in files.items()}


def twice(n: int) -> tuple[str, Files]:
    """One role as .nii and as .nii.gz."""
    case, files = sound(n)
    key = f"{case}/{case}-t2w.nii"
    return case, {**files, key: gzip.decompress(files[f"{key}.gz"])}


def msd(*, channels: int = 4, image: bool = True, label: int = 3, again: bool = False) -> Make:
    """A case of the decathlon; `again`: its image lies in imagesTs too."""

    def make(n: int) -> tuple[str, Files]:
        case = f"BRATS_{n:03}"
        images, truth = builders.voxels(n)
        stacked = np.stack([images[name] for name in MSD_CHANNELS[:channels]], -1)
        files = {"labels": builders.nifti(np.where(truth == 3, label, truth).astype(np.uint8))}
        if image:
            files["images"] = builders.nifti(stacked[..., 0] if channels == 1 else stacked)
        files = {f"Task01/{folder}Tr/{case}.nii.gz": data for folder, data in files.items()}
        if again:
            files[f"Task01/imagesTs/{case}.nii.gz"] = files[f"Task01/imagesTr/{case}.nii.gz"]
        return case, files

    return make


@functools.cache
def zeros(mib: int) -> bytes:
    """Gzip members, end to end, that expand to so many MiB: a thousand times their size."""
    return gzip.compress(bytes(16 << 20)) * (mib // 16)


def bomb(data: bytes) -> bytes:
    """A header that claims 6 GB, and the zeros to prove it."""
    start = patched(gzip.decompress(data)[:352], dim=[3, 32000, 32000, 3, 1, 1, 1, 1])
    return gzip.compress(start) + zeros(5872)


def flipped(data: bytes, at: float) -> bytes:
    """Eight bytes inverted at a fraction of the file."""
    place = int(len(data) * at)
    return data[:place] + bytes(byte ^ 255 for byte in data[place : place + 8]) + data[place + 8 :]


def nifti2(data: bytes) -> bytes:
    """The same image as NIfTI-2, both without gzip."""
    return nib.Nifti2Image.from_image(nib.Nifti1Image.from_bytes(data)).to_bytes()


PAGE = b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head></html>\n" * 20
PIXDIM = {"sform_code": 0, "qform_code": 1}  # then the place depends on pixdim
NO_FORM = {"sform_code": 0, "qform_code": 0}
LIST = {"stage": "list", "blames": ""}
GRID = {"stage": "check"}
TRUTH = {"stage": "check", "blames": "-seg.nii.gz", "truth": True}
TRUTH_FILE = {**TRUTH, "stage": "read"}
NAME = "cannot be used as a file name"
SHIFTED = LPS + np.array([[0, 0, 0, 0], [0, 0, 0, 5.0], [0, 0, 0, 0], [0, 0, 0, 0]])

BAD: dict[str, Bad] = {
    # No NIfTI file at all, or not the whole of one.
    "empty file": Bad(packed(lambda data: b""), "not a NIfTI file"),
    "one byte": Bad(packed(lambda data: b"\x1f"), "not a NIfTI file"),
    "plain text": Bad(packed(lambda data: b"see the other folder\n"), "not a NIfTI file"),
    "an error page": Bad(packed(lambda data: PAGE), "not a NIfTI file"),
    "an error page as .mha": Bad(in_another_format, "not a MetaImage file", blames="-t2w.mha"),
    "zeros alone": Bad(packed(lambda data: bytes(5000)), "not a NIfTI file"),
    "a ZIP archive": Bad(packed(lambda data: b"PK\x03\x04" + data[4:]), "not a NIfTI file"),
    "bzip2": Bad(packed(lambda data: bz2.compress(data)), "not a NIfTI file"),
    "gzip of nothing": Bad(raw(lambda data: b""), "not a NIfTI file"),
    "gzip of text": Bad(raw(lambda data: PAGE), "not a NIfTI file"),
    "gzip within gzip": Bad(packed(gzip.compress), "not a NIfTI file"),
    "gzip's first bytes alone": Bad(packed(lambda data: data[:6]), "truncated or corrupt|not a NIfTI file"),
    "gzip cut short": Bad(packed(lambda data: data[: len(data) // 2]), "truncated or corrupt|ends after"),
    "gzip cut before its checksum": Bad(packed(lambda data: data[:-8]), "truncated or corrupt"),
    "gzip cut within its length": Bad(packed(lambda data: data[:-2]), "truncated or corrupt"),
    "gzip corrupt": Bad(packed(lambda data: flipped(data, 0.6)), "truncated or corrupt|ends after|goes on"),
    "gzip checksum wrong": Bad(packed(lambda data: data[:-8] + bytes(4) + data[-4:]), "truncated or corrupt"),
    "gzip length wrong": Bad(packed(lambda data: data[:-4] + bytes(4)), "truncated or corrupt"),
    "gzip of another method": Bad(packed(lambda data: data[:2] + b"\7" + data[3:]), "truncated or corrupt"),
    "text after the gzip stream": Bad(packed(lambda data: data + PAGE), "truncated or corrupt|goes on"),
    "another image after it": Bad(packed(lambda data: data * 2), "goes on after"),
    "header alone": Bad(raw(lambda data: data[:348]), "ends before|ends after"),
    "header cut short": Bad(raw(lambda data: data[:200]), "not a NIfTI file"),
    "NIfTI-2 header cut short": Bad(raw(lambda data: nifti2(data)[:400]), "header|not a NIfTI file"),
    "voxels cut short": Bad(raw(lambda data: data[:-5]), "ends after"),
    "voxels go on": Bad(raw(lambda data: data + b"\0"), "goes on after"),
    "bomb behind a sound image": Bad(packed(lambda data: data + zeros(1024)), "goes on after", heavy=True),
    "bomb that its header admits": Bad(packed(bomb), "claims", heavy=True),
    # Headers that lie.
    "claims 100 GB": Bad(header(dim=[3, 32000, 32000, 49, 1, 1, 1, 1]), "claims", heavy=True),
    "claims 4 GB": Bad(header(dim=[3, 2000, 1000, 1000, 1, 1, 1, 1]), "claims", heavy=True),
    "claims the most that can be": Bad(header(dim=[7, *[32767] * 7]), "shape|claims", heavy=True),
    "claims a little more": Bad(header(dim=[3, 21, 24, 12, 1, 1, 1, 1]), "ends after"),
    "claims a little less": Bad(header(dim=[3, 19, 24, 12, 1, 1, 1, 1]), "goes on after"),
    "a size of zero": Bad(header(dim=[3, 20, 0, 12, 1, 1, 1, 1]), "shape 20×0×12"),
    "a negative size": Bad(header(dim=[3, 20, -24, 12, 1, 1, 1, 1]), "shape 20×-24×12"),
    "no dimension": Bad(header(dim=[0, 20, 24, 12, 1, 1, 1, 1]), "dimensions"),
    "eight dimensions": Bad(header(dim=[8, 20, 24, 12, 1, 1, 1, 1]), "dimensions"),
    "less than no dimension": Bad(header(dim=[-3, 20, 24, 12, 1, 1, 1, 1]), "dimensions"),
    "1D": Bad(header(dim=[1, 5760, 1, 1, 1, 1, 1, 1]), "3D image is due"),
    "2D": Bad(header(dim=[2, 480, 12, 1, 1, 1, 1, 1]), "3D image is due"),
    "4D": Bad(header(dim=[4, 20, 24, 6, 2, 1, 1, 1]), "20×24×6×2 where one 3D image is due"),
    "5D vectors": Bad(header(dim=[5, 20, 24, 4, 1, 3, 1, 1], intent_code=1007), "3D image is due"),
    "header of another size": Bad(header(sizeof_hdr=349), "not a NIfTI file"),
    "magic of a pair": Bad(header(magic=b"ni1"), "single-file"),
    "magic of nothing": Bad(header(magic=b"\0"), "single-file|not a NIfTI file"),
    "voxels beyond the end": Bad(header(vox_offset=1e6), "ends before"),
    "voxels light years beyond": Bad(header(vox_offset=1e30), "voxels at byte"),
    "voxels before the file": Bad(header(vox_offset=-352), "voxels at byte -352"),
    "voxels within the header": Bad(header(vox_offset=100), "voxels at byte 100"),
    "voxels nowhere": Bad(header(vox_offset=np.nan), "voxels at byte nan"),
    "voxels at infinity": Bad(header(vox_offset=np.inf), "voxels at byte inf"),
    "no data type": Bad(header(datatype=0), "data type code 0"),
    "bits": Bad(header(datatype=1, bitpix=1), "data type code 1"),
    "unknown data type": Bad(header(datatype=999), "data type code 999"),
    "negative data type": Bad(header(datatype=-4), "data type code -4"),
    "RGB": Bad(header(datatype=128, bitpix=24), "data type code 128"),
    "RGBA": Bad(header(datatype=2304, bitpix=32), "data type code 2304"),
    "complex": Bad(header(datatype=32, bitpix=64), "data type code 32"),
    "type of twice the bytes": Bad(header(datatype=16), "ends after"),
    "type of half the bytes": Bad(header(datatype=2), "goes on after"),
    "slope infinite": Bad(header(scl_slope=np.inf, scl_inter=0), "scale"),
    "offset not a number": Bad(header(scl_slope=2, scl_inter=np.nan), "scale"),
    "offset infinite": Bad(header(scl_slope=1, scl_inter=-np.inf), "scale"),
    "slope beyond float32": Bad(header(scl_slope=3e38, scl_inter=0), "NaN or infinite"),
    "affine with NaN": Bad(header(srow_y=[0, np.nan, 0, 0]), "affine"),
    "affine with infinity": Bad(header(srow_z=[0, 0, 1, np.inf]), "affine"),
    "affine of zeros": Bad(header(srow_x=0, srow_y=0, srow_z=0), "affine"),
    "affine of a plane": Bad(header(srow_z=[-1, 0, 0, 0]), "affine"),
    "quaternion longer than one": Bad(header(**PIXDIM, quatern_b=2), "affine|qform"),
    "quaternion not a number": Bad(header(**PIXDIM, quatern_c=np.nan), "affine|qform"),
    "spacing of zero": Bad(header(**PIXDIM, pixdim=[1, 1, 0, 1, 1, 1, 1, 1]), "affine|pixdim"),
    "spacing below zero": Bad(header(**PIXDIM, pixdim=[1, 1, -1, 1, 1, 1, 1, 1]), "affine|pixdim"),
    "spacing not a number": Bad(header(**PIXDIM, pixdim=[1, 1, np.nan, 1, 1, 1, 1, 1]), "affine|pixdim"),
    "no place, spacing of zero": Bad(header(**NO_FORM, pixdim=0), "affine|pixdim"),
    "no place, spacing below zero": Bad(header(**NO_FORM, pixdim=-1), "affine|pixdim"),
    # Voxels that are no image.
    "a voxel not a number": Bad(voxels(with_voxel(np.nan)), "1 voxels are NaN or infinite"),
    "a voxel infinite": Bad(voxels(with_voxel(-np.inf)), "1 voxels are NaN or infinite"),
    "a voxel beyond float32": Bad(voxels(with_voxel(1e300, np.float64)), "infinite|float32"),
    "all zero": Bad(voxels(np.zeros_like), "every voxel is zero", stage="check"),
    "all images all zero": Bad(blank, "every voxel is zero", "check", "-t1n.nii.gz"),
    "more than float32 holds": Bad(voxels(with_voxel(1 << 25, np.int32)), "would be rounded", stage="check"),
    "a constant brain": Bad(voxels(lambda v: np.int16(7) * (v > 0)), "same value", stage="check"),
    "a constant volume": Bad(voxels(lambda v: np.full_like(v, 7.5, np.float32)), "same value", stage="check"),
    # Modalities that are missing, or do not belong together.
    "no t1": Bad(without("t1"), "t1 missing", **LIST),
    "no t1ce": Bad(without("t1ce"), "t1ce missing", **LIST),
    "no t2": Bad(without("t2"), "t2 missing", **LIST),
    "no flair": Bad(without("flair"), "flair missing", **LIST),
    "the truth alone": Bad(without("t1", "t1ce", "t2", "flair"), "t1, t1ce, t2, flair missing", **LIST),
    "another shape": Bad(voxels(lambda v: v[:-1]), "another grid.*19×24×12", **GRID),
    "another orientation": Bad(voxels(matrix=LPS * [-1, 1, 1, 1]), "another grid.*RPS", **GRID),
    "another origin": Bad(voxels(matrix=SHIFTED), "another grid.*244", **GRID),
    "another spacing": Bad(voxels(matrix=LPS * [2, 2, 2, 1]), "another grid.*(2×2×2|2, 2, 2)", **GRID),
    "turned": Bad(voxels(matrix=affine(rotation=0.2)), "another grid", **GRID),
    "spacing of 40 mm": Bad(everywhere(LPS * [40, 40, 40, 1]), "mm large", "check", "-t1n.nii.gz"),
    "axes exchanged": Bad(voxels(lambda v: v.swapaxes(0, 1)), "another grid.*24×20×12", **GRID),
    # Truths.
    "truth of another shape": Bad(voxels(lambda v: v[:, :, :-1], role="seg"), "seg lies on another", **TRUTH),
    "truth at another place": Bad(voxels(matrix=SHIFTED, role="seg"), "seg lies on another grid", **TRUTH),
    "label 5": Bad(voxels(with_voxel(5, np.uint8), role="seg"), "labels 5 are not", **TRUTH),
    "label 4 under 2023": Bad(voxels(with_voxel(4, np.uint8), role="seg"), "labels 4 are not", **TRUTH),
    "label 3 under 2021": Bad(of_2021, "labels 3 are not", **{**TRUTH, "blames": "_seg.nii.gz"}),
    "label 255": Bad(voxels(with_voxel(255, np.uint8), role="seg"), "labels 255 are not", **TRUTH),
    "label 257": Bad(voxels(with_voxel(257, np.int16), role="seg"), "labels 257 are not", **TRUTH),
    "a negative label": Bad(voxels(with_voxel(-1, np.int8), role="seg"), "labels -1 are not", **TRUTH),
    "half a label": Bad(voxels(with_voxel(1.5), role="seg"), "labels 1.5 are not", **TRUTH),
    "labels scaled": Bad(header("seg", scl_slope=0.5, scl_inter=0), "labels 0.5", **TRUTH),
    "label not a number": Bad(voxels(with_voxel(np.nan), role="seg"), "NaN", **TRUTH_FILE),
    "truth cut short": Bad(packed(lambda data: data[:-9], "seg"), "truncated or corrupt", **TRUTH_FILE),
    "a channel a label": Bad(
        voxels(lambda v: np.stack([v == 1, v == 2], -1) * np.uint8(1), role="seg"), "3D image", **TRUTH_FILE
    ),
    "labels of no known convention": Bad(of_nobody, "which labels", **{**TRUTH, "blames": "_seg.nii.gz"}),
    # Names.
    "in two folders": Bad(in_two_folders, "2 folders", **LIST),
    "a modality twice": Bad(twice, "t2 is there 2 times", stage="list", blames="-t2w.nii"),
    "two dots": Bad(renamed(lambda case: f"{case}..x"), NAME, **LIST),
    "control character": Bad(renamed(lambda case: f"{case}\x1b[31m"), NAME, **LIST),
    "newline": Bad(renamed(lambda case: f"{case}\nfake line"), NAME, **LIST),
    "text from right to left": Bad(renamed(lambda case: f"{case}\u202egnp"), NAME, **LIST),
    "a name that is no text": Bad(renamed(lambda case: f"{case}\udce9"), NAME, **LIST),
    "a name of 220 bytes": Bad(renamed(lambda case: f"{case}{'x' * 200}"), NAME, **LIST),
    "control character in the folder": Bad(rekeyed(lambda key: f"\x1b[2J/{key}"), "name|key", **LIST),
    "newline at the end": Bad(rekeyed(lambda key: f"{key}\n" if "t2w" in key else key), "name|key", **LIST),
    # MSD.
    "MSD of three channels": Bad(msd(channels=3), "4 volumes in a 4D image", blames=".nii.gz"),
    "MSD of one channel": Bad(msd(channels=1), "4 volumes in a 4D image", blames=".nii.gz"),
    "MSD without an image": Bad(msd(image=False), "missing", **LIST),
    "MSD image twice": Bad(msd(again=True), "image is there 2 times", stage="list", blames=".nii.gz"),
    "MSD label 4": Bad(msd(label=4), "labels 4 are not", **{**TRUTH, "blames": ".nii.gz"}),
}  # fmt: skip


# --- figshare's slices ------------------------------------------------------------------------------------

IMAGE = np.random.default_rng(0).integers(0, 900, (12, 10)).astype(np.int16)
MASK = np.zeros(IMAGE.shape, np.uint8)
MASK[4:8, 3:6] = 1


def slice_file(pid: str = "N1", *, whole: Callable[[h5py.File], None] | None = None, **fields) -> bytes:
    """One file like the set's, MATLAB v7.3, columns first. A field: an array or a link, a function that makes
    it, or None; `whole` changes the file at the end.
    """
    letters = np.array([[ord(letter)] for letter in pid], np.uint16)
    fields = {"image": IMAGE.T, "tumorMask": MASK.T, "label": [[1.0]], "PID": letters} | fields
    file = io.BytesIO()
    with h5py.File(file, "w") as out:
        group = out.create_group("cjdata")
        for name, value in fields.items():
            if callable(value):
                value(group)
            elif value is not None:
                group[name] = value
        if whole:
            whole(out)
    return file.getvalue()


def one_slice(make: Callable[[str], bytes]) -> Make:
    """Patient number → the bytes of the only slice. Its key stands for the case: the patient is not known."""

    def numbered(n: int) -> tuple[str, Files]:
        return f"{n}.mat", {f"{n}.mat": make(f"B{n}")}

    return numbered


def bad_slice(says: str, *, heavy: bool = False, **fields) -> Bad:
    make = one_slice(lambda pid: slice_file(pid, **fields))
    return Bad(make, says, stage="index", blames=".mat", heavy=heavy)


def bad_bytes(says: str, change: Callable[[bytes], bytes], heavy: bool = False) -> Bad:
    make = one_slice(lambda pid: change(slice_file(pid)))
    return Bad(make, says, stage="index", blames=".mat", heavy=heavy)


def bad_patient(pid: str) -> Bad:
    return Bad(one_slice(lambda _: slice_file(pid)), "patient number", stage="index", blames=".mat")


def slice_below(folder: str) -> Make:
    def make(n: int) -> tuple[str, Files]:
        key = f"{folder}/{n}.mat"
        return key, {key: slice_file(f"B{n}")}

    return make


def one_number_twice(n: int) -> tuple[str, Files]:
    return f"figshare-B{n}", {f"{folder}/{n}.mat": slice_file(f"B{n}") for folder in "ab"}


def patient_named_as_a_case(n: int) -> tuple[str, Files]:
    """A NIfTI case with the id that a figshare patient will have."""
    case = f"figshare-B{n}"
    files = builders.case_files(case, truth=False)
    return case, {**files, f"{n}.mat": slice_file(f"B{n}")}


def image_outside(group: h5py.Group) -> None:
    """Pixels are taken from another file of the machine that reads."""
    group.create_dataset("image", (10, 12), "i2", external=[("/etc/passwd", 0, 240)])


def image_virtual(group: h5py.Group) -> None:
    """Pixels are put together from other HDF5 files; zeros where these are absent."""
    layout = h5py.VirtualLayout((10, 12), "i2")
    layout[:] = h5py.VirtualSource("another-patient.h5", "image", (10, 12))
    group.create_virtual_dataset("image", layout)


def image_in_a_huge_chunk(group: h5py.Group) -> None:
    """A small image, stored as the corner of 512 MiB of zeros that shrink to one."""
    options = {"maxshape": (None, None), "chunks": (16384, 16384), "compression": "gzip"}
    group.create_dataset("image", (10, 12), "i2", **options).id.write_direct_chunk((0, 0), _half_gib())


@functools.cache
def _half_gib() -> bytes:
    packer = isal_zlib.compressobj(1)
    return b"".join([packer.compress(bytes(16 << 20)) for _ in range(32)]) + packer.flush()


def moved_behind_a_link(out: h5py.File) -> None:
    out.move("cjdata", "elsewhere")
    out["cjdata"] = h5py.SoftLink("/elsewhere")


def giant(name: str, dtype: str, shape: tuple[int, ...], fill: int = 0) -> Callable[[h5py.Group], None]:
    """An array that takes no place in the file, for every value is the fill value."""
    chunks = tuple(min(n, 64) for n in shape)
    return lambda group: group.create_dataset(name, shape, dtype, chunks=chunks, fillvalue=fill)


DECODED, TOGETHER, PLAIN = "cannot be decoded", "label|mask", "plain"
TEXT = np.array([[b"x" for _ in range(12)] for _ in range(10)])
PAIRS = np.zeros((10, 12), [("re", "f4"), ("im", "f4")])

BAD_SLICES: dict[str, Bad] = {
    "empty slice": bad_bytes(DECODED, lambda data: b""),
    "slice of text": bad_bytes(DECODED, lambda data: PAGE),
    "MATLAB 5": bad_bytes(DECODED, lambda data: b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(512)),
    "slice cut short": bad_bytes(DECODED, lambda data: data[: len(data) // 2]),
    "slice cut at the end": bad_bytes(DECODED, lambda data: data[:-1]),
    "slice with a corrupt root": bad_bytes(DECODED, lambda data: data[:48] + bytes(200) + data[248:]),
    "slice with an address beyond all": bad_bytes(DECODED, lambda data: data[:48] + bytes(3) + data[51:]),
    "slice of 33 MB": bad_bytes("bytes for one slice", lambda data: data.ljust((32 << 20) + 1), heavy=True),
    "no image": bad_slice("image is missing", image=None),
    "no mask": bad_slice("tumorMask is missing", tumorMask=None),
    "no label": bad_slice("label is missing", label=None),
    "no patient number": bad_slice("PID is missing", PID=None),
    "no cjdata": bad_slice("missing", whole=lambda out: out.move("cjdata", "data")),
    "cjdata behind a link": bad_slice("missing", whole=moved_behind_a_link),
    "cjdata in another file": bad_slice(
        "missing", whole=lambda out: (out.pop("cjdata"), out.update(cjdata=h5py.ExternalLink("x.mat", "/")))
    ),
    "image behind a link": bad_slice("image", image=h5py.SoftLink("/cjdata/tumorMask")),
    "image behind a link to itself": bad_slice("image", image=h5py.SoftLink("/cjdata/image")),
    "image in another file": bad_slice("image", image=h5py.ExternalLink("2.mat", "/cjdata/image")),
    "image from /etc/passwd": bad_slice("image", image=image_outside),
    "virtual image": bad_slice("image", image=image_virtual),
    "image is a folder": bad_slice("image", image=lambda group: group.create_group("image")),
    "image is a type": bad_slice("image", image=np.dtype("i2")),
    "image of nothing": bad_slice("image|pixels", image=h5py.Empty("i2")),
    "image without pixels": bad_slice(TOGETHER, image=np.zeros((0, 12), "i2"), tumorMask=np.zeros((0, 12))),
    "image is one number": bad_slice(TOGETHER, image=np.int16(3), tumorMask=np.uint8(1)),
    "image of text": bad_slice("pixels|image", image=TEXT),
    "image is a text": bad_slice("pixels|image", image="see figure 1"),
    "image of pairs": bad_slice("pixels|image", image=PAIRS),
    "image of three channels": bad_slice(TOGETHER, image=np.stack([IMAGE.T] * 3)),
    "image of fractions": bad_slice("pixels are float64", image=IMAGE.T + 0.5),
    "image not a number": bad_slice("pixels are float32", image=np.full((10, 12), np.nan, np.float32)),
    "image beyond int16": bad_slice("pixels are int32|int16", image=IMAGE.T + np.int32(1 << 15)),
    "giant image": bad_slice(PLAIN, image=giant("image", "i2", (1 << 20, 1 << 20)), heavy=True),
    "image of 2^64 pixels": bad_slice("image", image=giant("image", "u1", (1 << 32, 1 << 32)), heavy=True),
    "image in a huge chunk": bad_slice("image", image=image_in_a_huge_chunk, heavy=True),
    "mask of another shape": bad_slice(TOGETHER, tumorMask=MASK.T[:, :-1]),
    "mask not transposed": bad_slice(TOGETHER, tumorMask=MASK),
    "mask of 0 and 255": bad_slice(TOGETHER, tumorMask=MASK.T * np.uint8(255)),
    "mask of fractions": bad_slice(TOGETHER, tumorMask=MASK.T * 0.5),
    "mask not a number": bad_slice(TOGETHER, tumorMask=np.full((10, 12), np.nan)),
    "mask of text": bad_slice("[Mm]ask", tumorMask=TEXT),
    "mask of pairs": bad_slice("[Mm]ask", tumorMask=PAIRS),
    "tumour type 0": bad_slice(TOGETHER, label=[[0.0]]),
    "tumour type 4": bad_slice(TOGETHER, label=[[4.0]]),
    "tumour type 1.5": bad_slice(TOGETHER, label=[[1.5]]),
    "tumour type not a number": bad_slice(TOGETHER, label=[[np.nan]]),
    "tumour type infinite": bad_slice(TOGETHER, label=[[np.inf]]),
    "no tumour type": bad_slice("label", label=np.zeros((0, 0))),
    "two tumour types": bad_slice(TOGETHER, label=[[1.0, 2.0]]),
    "tumour type in words": bad_slice("label", label="glioma"),
    "tumour type is a pointer": bad_slice(
        "label", label=lambda group: group.create_dataset("label", data=group.ref, dtype=h5py.ref_dtype)
    ),
    "patient number with a slash": bad_patient("12/34"),
    "patient number that climbs": bad_patient("../../etc"),
    "patient number with a newline": bad_patient("12\n34"),
    "patient number of 33 letters": bad_patient("7" * 33),
    "no letter in the patient number": bad_slice("PID|patient number", PID=np.zeros((0, 1), np.uint16)),
    "patient number of fractions": bad_slice("PID|patient number", PID=[[49.5], [50.5]]),
    "patient number below zero": bad_slice("PID|patient number", PID=np.array([[-1]], np.int16)),
    "patient number beyond Unicode": bad_slice("PID|patient number", PID=np.array([[1 << 31]], np.uint32)),
    "patient number as a text": bad_slice("PID|patient number", PID="patient/7"),
    "patient number of a million letters": bad_slice(
        "PID|patient number", PID=giant("PID", "u2", (1_000_000, 1), ord("A")), heavy=True
    ),
    "one number twice": Bad(one_number_twice, "share their slice numbers", stage="list", blames=".mat"),
    "slice below a control character": Bad(slice_below("\x1b[2J"), "name|key", **LIST),
    "slice below a name that is no text": Bad(slice_below("caf\udce9"), "name|key", **LIST),
    "patient named as a case": Bad(patient_named_as_a_case, "name|twice|already", **LIST),
}  # fmt: skip
BAD |= BAD_SLICES

NEIGHBOURS = ("BraTS-GLI-99999-000", "figshare-N1")


@functools.cache
def neighbours() -> Files:
    """A sound case and a sound slice, that bad ones beside them must not disturb."""
    return {**sound(99999)[1], "99999.mat": slice_file("N1")}


# --- odd, but good ----------------------------------------------------------------------------------------


def odd(
    *,
    dtype=np.int16,
    matrix: np.ndarray = LPS,
    values: Callable[[np.ndarray], np.ndarray] = np.array,
    both: Callable[[np.ndarray], np.ndarray] = np.array,
    change: Callable[[bytes], bytes] = bytes,
    pack: Callable[[bytes], bytes] = gzip.compress,
    key: str = "{case}/{case}-{role}.nii.gz",
    case: str = "BraTS-GLI-00500-000",
    truth: bool = True,
) -> Callable[[], tuple[str, Files]]:
    """A case with `values` of 0–100 in its images; `both` changes images and truth, `change` a whole file
    before it is packed.
    """

    def make() -> tuple[str, Files]:
        images, labels = builders.voxels(500)
        arrays = {
            name: values(np.where(image > 0, image % 100 + 1, 0).astype(int))
            for name, image in images.items()
        }
        if truth:
            arrays["seg"] = labels
        files = {}
        for role, array in arrays.items():
            data = builders.nifti(both(array).astype(dtype), matrix, compress=False)
            files[key.format(case=case, role=NAMES_2023[role])] = pack(change(data))
        return case, files

    return make


def of_header(**fields) -> Callable[[bytes], bytes]:
    return lambda data: patched(data, **fields)


def swapped(data: bytes) -> bytes:
    """The same file in big-endian order."""
    found = nib.Nifti1Header(data[:348])
    values = np.frombuffer(data[352:], found.get_data_dtype())
    return found.as_byteswapped(">").binaryblock + data[348:352] + values.byteswap().tobytes()


def as_int64(data: bytes) -> bytes:
    """nibabel does not write it unasked."""
    start = patched(data[:352], datatype=1024, bitpix=64)
    return start + np.frombuffer(data[352:], "<i2").astype("<i8").tobytes()


def extended(data: bytes) -> bytes:
    """With a comment between header and voxels."""
    block = struct.pack("<ii24s", 32, 6, b"acquired upside down")
    return patched(data[:348], vox_offset=384) + b"\1\0\0\0" + block + data[352:]


def in_members(data: bytes) -> bytes:
    return gzip.compress(data[:500]) + gzip.compress(data[500:])


def with_name(data: bytes) -> bytes:
    """As the command gzip writes it, with name and time."""
    out = io.BytesIO()
    with gzip.GzipFile("scan.nii", "wb", 6, out, mtime=1e9) as file:
        file.write(data)
    return out.getvalue()


GOOD: dict[str, Callable[[], tuple[str, Files]]] = {
    "big-endian int16": odd(change=swapped),
    "big-endian float32": odd(dtype=np.float32, change=swapped),
    "big-endian float64, plain": odd(dtype=np.float64, change=swapped, pack=bytes),
    "int8": odd(dtype=np.int8),
    "uint8": odd(dtype=np.uint8),
    "uint16": odd(dtype=np.uint16, values=lambda v: v * 600),
    "int32": odd(dtype=np.int32),
    "uint32": odd(dtype=np.uint32),
    "int64": odd(change=as_int64),
    "float32": odd(dtype=np.float32),
    "float64": odd(dtype=np.float64),
    "fractions": odd(dtype=np.float32, values=lambda v: v / 8),
    "negative voxels": odd(values=lambda v: v - 50 * (v > 0)),
    "negative and above 32767": odd(dtype=np.int32, values=lambda v: v * 600 - 20000 * (v > 0)),
    "slope 1": odd(change=of_header(scl_slope=1, scl_inter=0)),
    "slope 0": odd(change=of_header(scl_slope=0, scl_inter=5)),
    "slope not a number": odd(change=of_header(scl_slope=np.nan, scl_inter=np.nan)),
    "slope 2": odd(change=of_header(scl_slope=2, scl_inter=0), truth=False),
    "slope and offset": odd(change=of_header(scl_slope=0.5, scl_inter=-3), truth=False),
    "RAS": odd(matrix=affine("RAS")),
    "LAS": odd(matrix=affine("LAS")),
    "PIR": odd(matrix=affine("PIR")),
    "SAL": odd(matrix=affine("SAL")),
    "oblique": odd(matrix=affine("LPS", rotation=0.3)),
    "oblique and permuted": odd(matrix=affine("ASR", (0.9, 1.1, 3.0), rotation=-0.2)),
    "sheared": odd(matrix=LPS + np.eye(4, k=1) / 10, change=of_header(qform_code=0)),
    "odd spacing": odd(matrix=affine("LPS", (0.47, 0.47, 6.5))),
    "qform alone": odd(change=of_header(sform_code=0)),
    "sform alone": odd(change=of_header(qform_code=0)),
    "sform alone, no spacing": odd(change=of_header(qform_code=0, pixdim=0)),
    "both forms, spacing below zero": odd(change=of_header(pixdim=[1, -1, 1, 1, 0, 0, 0, 0])),
    "no form": odd(change=of_header(**NO_FORM)),
    "qform with qfac 0": odd(change=of_header(sform_code=0, pixdim=[0, 1, 1, 1, 0, 0, 0, 0])),
    "bits a voxel wrong": odd(change=of_header(bitpix=8)),
    "NIfTI-2": odd(change=nifti2),
    "NIfTI-2, plain": odd(change=nifti2, pack=bytes, key="{case}/{case}-{role}.nii"),
    "a comment in the header": odd(change=extended),
    "a fourth axis of one": odd(both=lambda v: v[..., None]),
    "five axes": odd(both=lambda v: v[..., None, None]),
    "one slice": odd(both=lambda v: v[:, :, 5:6]),
    "not compressed": odd(pack=bytes, key="{case}/{case}-{role}.nii"),
    "not compressed, named .gz": odd(pack=bytes),
    "compressed, named .nii": odd(key="{case}/{case}-{role}.nii"),
    "compressed by 0": odd(pack=lambda data: gzip.compress(data, 0)),
    "compressed in members": odd(pack=in_members),
    "compressed with name and time": odd(pack=with_name),
    "padded with zeros after gzip": odd(pack=lambda data: gzip.compress(data) + bytes(512)),
    "in one flat folder": odd(key="{case}-{role}.nii.gz"),
    "underscores": odd(key="{case}/{case}_{role}.nii.gz"),
    "spaces and umlauts in the folder": odd(key="a b/Köln (脳)/{case}-{role}.nii.gz"),
    "spaces and umlauts in the name": odd(case="Frau Müller  脳 #7 %41", truth=False),
    "without a truth": odd(truth=False),
}  # fmt: skip


def with_userblock(data: bytes) -> bytes:
    """As MATLAB writes it: a text of 512 bytes first."""
    out = io.BytesIO()
    with h5py.File(io.BytesIO(data)) as source, h5py.File(out, "w", userblock_size=512) as target:
        source.copy("cjdata", target)
    return b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(512) + out.getvalue()[512:]


def compressed(group: h5py.Group) -> None:
    group.create_dataset("image", data=IMAGE.T, chunks=(5, 5), compression="gzip", shuffle=True)


GOOD_SLICES: dict[str, bytes] = {
    "as MATLAB writes it": with_userblock(slice_file()),
    "compressed": slice_file(image=compressed),
    "int32 pixels": slice_file(image=IMAGE.T.astype(np.int32)),
    "uint16 pixels": slice_file(image=IMAGE.T.astype(np.uint16)),
    "big-endian pixels": slice_file(image=IMAGE.T.astype(">i2")),
    "mask of doubles": slice_file(tumorMask=MASK.T.astype(float)),
    "mask of truths": slice_file(tumorMask=MASK.T.astype(bool)),
    "label as an integer": slice_file(label=np.uint8(1)),
    "other fields too": slice_file(tumorBorder=[[1.0, 2.0, 3.0]]),
}
