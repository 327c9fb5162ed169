"""Whatever a folder holds: a bad input is that case's failure and no other's, an odd one is read exactly."""

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import hypothesis.extra.numpy as hnp
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bts.cases import figshare
from bts.cases.case import Case, CaseVolume
from bts.cases.layouts import find_cases
from bts.cases.read import MSD_CHANNELS, load_case
from bts.errors import CaseError, Failure
from bts.images.grid import Volume
from bts.images.nifti import read_nifti, write_labelmap
from bts.modalities import MODALITIES
from bts.storage import Entry, Store
from jobs.driver import figshare_index
from tests import builders
from tests.conftest import ROOT
from tests.faults import inputs

MOST_MIB = 300  # of memory for any input: a real modality takes 18
MOST_S = 20.0
FUZZ = settings(max_examples=150, deadline=None, derandomize=True)


def list_all(folder: Path) -> tuple[list[Case], list[Failure]]:
    """(cases, failures) of a folder, as jobs list it."""
    store = Store(folder)
    listing = find_cases(store.list())
    failures = figshare_index.index_figshare(listing, store, store, "no")
    return listing.cases, failures + [Failure.of(problem) for problem in listing.problems]


def read_all(folder: Path) -> tuple[dict[str, CaseVolume], list[Failure]]:
    """(volumes by case, failures) of a folder: what jobs.preprocess would write, and what it would report."""
    volumes, (cases, failures) = {}, list_all(folder)
    for case in cases:
        assert case.id not in volumes, f"there are two cases {case.id}: one would overwrite the other"
        try:
            volumes[case.id] = load_case(case, Store(folder))
        except CaseError as error:
            failures.append(Failure.of(error, case.id))
    return volumes, failures


# --- bad inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", inputs.BAD)
def test_a_bad_input_fails_alone(tmp_path, name):
    case, files = inputs.BAD[name].make(1)
    inputs.write(tmp_path, {**inputs.neighbours(), **files})
    volumes, failures = read_all(tmp_path)
    assert sorted(volumes) == sorted(inputs.NEIGHBOURS)
    assert len(failures) == 1, failures
    assert inputs.BAD[name].complaints(failures[0], case) == []


def test_the_neighbours_are_sound(tmp_path):
    """Or the rows would prove nothing."""
    inputs.write(tmp_path, inputs.neighbours())
    volumes, failures = read_all(tmp_path)
    assert sorted(volumes) == sorted(inputs.NEIGHBOURS) and failures == []
    assert all(volume.mask.any() for volume in volumes.values())


def test_hidden_files_are_said_to_be_no_case(tmp_path):
    files = builders.case_files("BraTS-GLI-00001-000")
    hidden = {f"x/.{key.rpartition('/')[2]}": data for key, data in files.items()}
    inputs.write(tmp_path, {**inputs.neighbours(), **hidden})
    volumes, failures = read_all(tmp_path)
    assert sorted(volumes) == sorted(inputs.NEIGHBOURS) and failures == []
    assert sorted(find_cases(Store(tmp_path).list()).strays) == sorted(hidden)


@pytest.mark.parametrize("folder", ["..", "../other", "a/../../b", "a/.."])
def test_keys_that_leave_their_folder_are_refused(folder):
    """A bucket may hold them; a disk cannot."""
    listing = find_cases([Entry(f"{folder}/BraTS2021_00001_{role}.nii.gz", 1, "v") for role in MODALITIES])
    assert [problem.stage for problem in listing.problems] == ["list"] and not listing.cases


@pytest.mark.parametrize("roles", [["t2w"], ["seg"], ["t1n", "t1c", "t2w", "t2f", "seg"]])
def test_a_link_to_nowhere_is_a_file_that_cannot_be_read(tmp_path, roles):
    """As a git-annex leaves them that was not fetched: neither truth nor case may vanish unsaid."""
    case, files = inputs.sound(1)
    inputs.write(tmp_path, {**inputs.neighbours(), **files})
    for role in roles:
        path = tmp_path / case / f"{case}-{role}.nii.gz"
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    volumes, (failure,) = read_all(tmp_path)
    assert sorted(volumes) == sorted(inputs.NEIGHBOURS)
    assert (failure.case_id, failure.stage) == (case, "read") and "cannot be read" in failure.error
    assert failure.file.endswith(tuple(f"-{role}.nii.gz" for role in roles))


def test_a_pipe_is_no_file(tmp_path):
    """Reading it would wait for ever."""
    case, files = inputs.sound(1)
    inputs.write(tmp_path, files)
    os.mkfifo(tmp_path / case / f"{case}-t2w.nii")
    assert sorted(entry.key for entry in Store(tmp_path).list()) == sorted(files)


def test_a_file_that_goes_after_the_listing(tmp_path):
    case, files = inputs.sound(1)
    inputs.write(tmp_path, files)
    (listed,), _ = list_all(tmp_path)
    (tmp_path / case / f"{case}-t2w.nii.gz").unlink()
    with pytest.raises(CaseError, match="No such file") as caught:
        load_case(listed, Store(tmp_path))
    assert inputs.Bad(inputs.sound, "cannot be read").complaints(Failure.of(caught.value, case), case) == []


MEASURE = """
import json, sys, time, tracemalloc
from bts.cases import figshare
from bts.images import nifti
from bts.errors import CaseError
from bts.storage import Entry

def held():  # (most, now) by this process in MiB; getrusage would count its parent's most too
    with open("/proc/self/status") as file:
        lines = dict(line.split(":") for line in file)
    return [int(lines[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS")]

tracemalloc.start()
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        data = file.read()
    tracemalloc.reset_peak()
    traced, started = tracemalloc.get_traced_memory()[0], time.monotonic()
    most, now = held()
    try:
        if path.endswith(".mat"):
            figshare.read_index_row(data, Entry(path, len(data), ""))
        else:
            nifti.read_nifti(data, path)
        end = "read"
    except CaseError:
        end = "refused"
    asked, peak = (tracemalloc.get_traced_memory()[1] - traced) / 2**20, held()[0]
    mib = max(asked, peak - now if peak > most else 0)
    print(json.dumps([path, end, mib, time.monotonic() - started]))
"""


def test_no_input_takes_more_memory_or_time_than_a_scan(tmp_path):
    """Asked for by NumPy (which need not touch it) or held by anyone (HDF5 asks behind Python's back)."""
    paths = {}
    for n, (name, bad) in enumerate(inputs.BAD.items(), 1):
        if bad.heavy:
            _, files = bad.make(n)
            inputs.write(tmp_path, files)
            (key,) = [key for key in files if key.endswith(bad.blames)]
            paths[str(tmp_path / key)] = name
    assert len(paths) >= 8
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line[0] for line in measured] == list(paths)
    over = [
        f"{paths[path]}: {end}, {mib:.0f} MiB, {seconds:.1f} s"
        for path, end, mib, seconds in measured
        if end != "refused" or mib > MOST_MIB or seconds > MOST_S
    ]
    assert over == []


# --- odd inputs -------------------------------------------------------------------------------------------


def nibabel_reads(data: bytes) -> nib.Nifti1Image:
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    kind = nib.Nifti2Image if int.from_bytes(data[:4], "little") == 540 else nib.Nifti1Image
    return kind.from_bytes(data)


def canonical(data: bytes) -> np.ndarray:
    """(D, H, W) in LPS, as nibabel turns it: its canonical is RAS."""
    image = nib.as_closest_canonical(nibabel_reads(data))
    return np.asarray(image.dataobj).reshape(image.shape[:3])[::-1, ::-1].T


def by_role(files: inputs.Files) -> dict[str, bytes]:
    found = {}
    for role, name in builders.NAMES_2023.items():
        for key, data in files.items():
            if key.lower().replace("_", "-").partition(".nii")[0].endswith(f"-{name}"):
                found[role] = data
    return found


def check_exact(volume: CaseVolume, files: dict[str, bytes]) -> None:
    """The volume holds every voxel of the files, and its labels go back to the very place."""
    whole = {modality: volume.source(modality) for modality in volume.modalities}
    assert set(whole) == set(MODALITIES)
    for role in MODALITIES:
        expected = canonical(files[role])
        assert whole[role].shape == expected.shape and np.array_equal(whole[role], expected), role
    zooms = nib.as_closest_canonical(nibabel_reads(files["t1"])).affine[:3, :3]
    assert np.allclose(volume.grid.zooms, np.sqrt((zooms**2).sum(axis=0))[::-1])
    assert not volume.grid.contradicted
    if "seg" not in files:
        assert volume.mask is None
        return
    labels = volume.whole(volume.mask)
    assert np.array_equal(labels, canonical(files["seg"])) and labels.any()
    source, back = nibabel_reads(files["seg"]), nibabel_reads(write_labelmap(labels, volume.grid, "test"))
    assert np.array_equal(np.asarray(back.dataobj), np.asarray(source.dataobj).reshape(source.shape[:3]))
    assert np.allclose(back.affine, source.affine, atol=1e-5) and type(back) is type(source)


@pytest.mark.parametrize("name", inputs.GOOD)
def test_an_odd_input_is_read_without_loss(tmp_path, name):
    case, files = inputs.GOOD[name]()
    inputs.write(tmp_path, files)
    volumes, failures = read_all(tmp_path)
    assert failures == [] and list(volumes) == [case]
    check_exact(volumes[case], by_role(files))


def test_names_in_capitals(tmp_path):
    case, files = inputs.GOOD["in one flat folder"]()
    inputs.write(tmp_path, {case + key.removeprefix(case).upper(): data for key, data in files.items()})
    volumes, failures = read_all(tmp_path)
    assert failures == [] and list(volumes) == [case]
    check_exact(volumes[case], by_role(files))


def test_linked_folders_and_files(tmp_path):
    case, files = inputs.sound(1)
    inputs.write(tmp_path / "archive", files)
    cases = tmp_path / "cases"
    cases.mkdir()
    (cases / "today").symlink_to(tmp_path / "archive" / case)
    (cases / "again").symlink_to(cases)  # round and round
    volumes, failures = read_all(cases)
    assert failures == [] and list(volumes) == [case]
    check_exact(volumes[case], by_role(files))
    single = tmp_path / "single"
    single.mkdir()
    for key in files:
        (single / key.rpartition("/")[2]).symlink_to(tmp_path / "archive" / key)
    check_exact(read_all(single)[0][case], by_role(files))


def test_msd(tmp_path):
    case, files = inputs.msd()(7)
    inputs.write(tmp_path, files)
    volumes, failures = read_all(tmp_path)
    assert failures == [] and list(volumes) == [case]
    image, truth = (
        nibabel_reads(files[f"Task01/{folder}Tr/{case}.nii.gz"]) for folder in ("images", "labels")
    )
    volume = volumes[case]
    whole = {modality: volume.source(modality) for modality in volume.modalities}
    for place, name in enumerate(MSD_CHANNELS):  # the file is LPS already
        assert np.array_equal(whole[name], np.asarray(image.dataobj)[..., place].T), name
    labels = np.array([0, 2, 1, 3])[np.asarray(truth.dataobj).T]
    assert np.array_equal(volume.whole(volume.mask), labels)


@pytest.mark.parametrize("name", inputs.GOOD_SLICES)
def test_an_odd_slice_is_read_without_loss(name):
    found = figshare.read_slice(inputs.GOOD_SLICES[name], "1.mat")
    assert np.array_equal(found.image, inputs.IMAGE) and np.array_equal(found.mask, inputs.MASK)
    assert (found.tumour, found.pid) == (1, "N1")


def test_a_patient_with_slices_of_equal_height_and_other_widths(tmp_path):
    """They cannot be stacked; neither stack may take the other's name."""
    narrow = {"image": inputs.IMAGE.T[:-2], "tumorMask": inputs.MASK.T[:-2]}
    files = {"1.mat": inputs.slice_file("N2"), "2.mat": inputs.slice_file("N2", **narrow)}
    inputs.write(tmp_path, files)
    volumes, failures = read_all(tmp_path)
    assert failures == [] and len(volumes) == 2
    assert sorted(volume.grid.shape for volume in volumes.values()) == [(1, 12, 8), (1, 12, 10)]


# --- fuzz -------------------------------------------------------------------------------------------------

SMALL = builders.nifti(np.arange(60, dtype=np.int16).reshape(5, 4, 3), compress=False)
SEEDS = (SMALL, inputs.nifti2(SMALL), inputs.swapped(SMALL))
WORDS = [bytes(8), b"\xff" * 8, b"\x7f" * 8, b"\1" + bytes(7), bytes(3) + b"\1" + bytes(4)]
WORDS += [np.array([value, value], "<f4").tobytes() for value in (np.nan, np.inf, -1.0, 1e-30, 3e38)]
TINY = inputs.slice_file("N1", image=np.ones((4, 5), np.int16), tumorMask=np.ones((4, 5), np.uint8))


@st.composite
def mutated(draw, seeds: tuple[bytes, ...], head: int) -> bytes:
    """One of the files with some bytes, words or its end changed, often within the first `head`."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, head - 1) | st.integers(0, len(data) - 1)) % max(len(data), 1)
        kind = draw(st.sampled_from(["byte", "word", "two bytes", "cut"]))
        if kind == "cut":
            del data[max(at, 1) :]
        elif kind == "word":
            word = draw(st.sampled_from(WORDS))[: draw(st.sampled_from([2, 4, 8]))]
            data[at : at + len(word)] = word
        else:
            size = 1 if kind == "byte" else 2
            data[at : at + size] = draw(st.binary(min_size=size, max_size=size))
    return bytes(data)


def check_volume(data: bytes, channels: int = 0) -> None:
    """A sound volume or a CaseError that names the file and a mend; anything else is raised."""
    try:
        found = read_nifti(data, "t1.nii.gz", channels=channels)
    except CaseError as error:
        assert error.file == "t1.nii.gz" and error.mend and len(str(error)) < 600
        return
    assert isinstance(found, Volume) and np.isfinite(found.voxels).all()
    assert found.voxels.shape[-3:] == found.grid.shape and np.isfinite(found.grid.zooms).all()
    write_labelmap(np.zeros(found.grid.shape, np.uint8), found.grid, "test")


@FUZZ
@given(data=mutated(SEEDS, 348), compress=st.booleans(), channels=st.sampled_from([0, 0, 4]))
def test_fuzzed_images(data, compress, channels):
    check_volume(gzip.compress(data, 1) if compress else data, channels)


@FUZZ
@given(data=mutated(tuple(gzip.compress(seed) for seed in SEEDS), 20))
def test_fuzzed_gzip_streams(data):
    check_volume(data)


@FUZZ
@given(
    name=st.sampled_from(nib.nifti1.header_dtype.names),
    values=st.lists(
        st.sampled_from([0, 1, -1, 2, 3, 4, 7, 8, 16, 127, 32767, -32768, 2**31 - 1]) | st.floats(width=32),
        min_size=8,
        max_size=8,
    ),
    compress=st.booleans(),
)
def test_fuzzed_headers(name, values, compress):
    """Each field of the header with each kind of number."""
    header = np.frombuffer(SMALL[:348], nib.nifti1.header_dtype).copy()
    field = header[name]
    if field.dtype.kind == "S":
        field[...] = np.array(values, "<f4").tobytes()[: field.dtype.itemsize]
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            field[...] = np.resize(np.array(values, float), field.shape).astype(field.dtype)
    data = header.tobytes() + SMALL[348:]
    check_volume(gzip.compress(data, 1) if compress else data)


def check_slice(data: bytes) -> None:
    try:
        found = figshare.read_index_row(data, Entry("1.mat", len(data), "v"))
    except CaseError as error:
        assert error.file == "1.mat" and error.mend and len(str(error)) < 600
        return
    assert isinstance(found, figshare.IndexRow) and found.tumour in figshare.TUMOURS
    image, truth = figshare.stack([figshare.read_slice(data, "1.mat")])
    assert image.voxels.shape == truth.voxels.shape == (1, found.height, found.width)


@FUZZ
@given(data=mutated((TINY,), 800))
def test_fuzzed_slices(data):
    check_slice(data)


ARRAYS = hnp.arrays(
    hnp.integer_dtypes() | hnp.floating_dtypes() | hnp.boolean_dtypes() | hnp.byte_string_dtypes(max_len=4),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@FUZZ
@given(fields=st.dictionaries(st.sampled_from(["image", "tumorMask", "label", "PID"]), ARRAYS, min_size=1))
def test_slices_with_fields_of_any_type(fields):
    small = {"image": np.ones((3, 4), np.int16), "tumorMask": np.ones((3, 4), np.uint8)}
    check_slice(inputs.slice_file(**{**small, **fields}))


def test_the_seeds_of_the_fuzz_are_sound():
    """Or all would be refused for the same reason."""
    for seed in (*SEEDS, *map(gzip.compress, SEEDS)):
        assert read_nifti(seed, "t1.nii.gz").voxels.size == 60
    with h5py.File(io.BytesIO(TINY)) as file:
        assert file["cjdata/image"].shape == (4, 5)
    assert figshare.read_slice(TINY, "1.mat").pid == "N1"
