"""bts.phantom.case and jobs.phantom: the same case everywhere, and what a BraTS case must be."""

import gzip
import hashlib
import pickle
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.phantom.case import KINDS, case_keys, make_case, to_nifti, write_case
from bts.storage import Store
from jobs import phantom as phantom_job
from jobs.driver.here import UseRay
from tests.conftest import ROOT

SIZE = (64, 64, 48)


@pytest.fixture(scope="module")
def sixteen() -> list[tuple[dict, np.ndarray, dict]]:
    return [make_case(7, index, SIZE) for index in range(16)]


def test_a_case_is_the_same_every_time_and_no_other():
    first, again = write_case(3, 5, SIZE), write_case(3, 5, SIZE)
    assert first == again
    t1 = make_case(3, 5, SIZE)[0]["t1"]
    assert not np.array_equal(t1, make_case(3, 6, SIZE)[0]["t1"])
    assert not np.array_equal(t1, make_case(4, 5, SIZE)[0]["t1"])


def test_voxels_are_these_on_every_machine():
    images, mask, _ = make_case(0, 0, SIZE)
    digest = hashlib.blake2b(digest_size=8)
    for volume in (*images.values(), mask):
        digest.update(volume.tobytes())
    assert digest.hexdigest() == "8214f50082405329", (
        "every demo and test of a trained model rests on these voxels"
    )


def test_voxels_are_those_of_a_brats_case(sixteen):
    for images, mask, facts in sixteen:
        assert set(images) == {"t1", "t1ce", "t2", "flair"}
        brain = images["t1"] > 0
        assert 0.08 < brain.mean() < 0.25
        assert ndimage.label(brain)[0].max() <= 3, "one brain, but for a crumb or two"
        for image in images.values():
            assert image.dtype == np.int16 and image.shape == SIZE[::-1]
            np.testing.assert_array_equal(image != 0, brain)
            assert image.min() == 0 and 100 < np.median(image[brain]) < 3000
        assert mask.dtype == np.uint8 and mask.shape == SIZE[::-1]
        assert not mask[~brain].any()
        assert facts["voxels"] == {label: int((mask == label).sum()) for label in (1, 2, 3)}


def test_labels_are_nested(sixteen):
    for _, mask, facts in sixteen:
        border = ndimage.binary_dilation(mask == 0) & (mask > 0)
        assert (mask[border] == 2).mean() > 0.7, "oedema lies around the core"
        depth = ndimage.distance_transform_edt(mask)  # voxels to the nearest healthy one
        present = [label for label in (2, 3, 1) if facts["voxels"][label] >= 5]
        depths = [depth[mask == label].mean() for label in present]
        assert depths == sorted(depths), "oedema, rim, necrosis from outside to inside"


def test_the_mix_of_kinds_holds_for_any_seed():
    for seed in (0, 1, 12345):
        facts = [make_case(seed, index, SIZE)[2] for index in range(8)]
        assert sorted(f["kind"] for f in facts) == sorted(KINDS)
        for fact in facts:
            assert fact["voxels"][2] > 0
            assert (fact["voxels"][3] == 0) == (fact["kind"] == "non-enhancing")
            assert fact["lesions"] > 1 or fact["kind"] != "multifocal"


def test_contrasts_are_those_of_the_sequences(sixteen):
    for images, mask, facts in sixteen:
        healthy = (images["t1"] > 0) & (mask == 0)
        middle = {role: np.median(image[healthy]) for role, image in images.items()}
        fluid = healthy & (images["t2"] > 1.8 * middle["t2"])
        assert np.median(images["t1"][fluid]) < 0.75 * middle["t1"]
        assert np.median(images["flair"][fluid]) < 0.8 * middle["flair"]
        assert np.median(images["flair"][mask == 2]) > 1.15 * middle["flair"]
        if facts["voxels"][3] > 20:
            assert np.median(images["t1ce"][mask == 3]) > 1.15 * middle["t1ce"]
            assert np.median(images["t1"][mask == 3]) < middle["t1"]


def test_no_threshold_on_flair_finds_the_tumour(sixteen):
    best = []
    for images, mask, _ in sixteen:
        flair, truth = images["flair"], mask > 0
        cuts = np.percentile(flair[flair > 0], np.arange(50, 100))
        best.append(max(2 * (truth & (flair > c)).sum() / (truth.sum() + (flair > c).sum()) for c in cuts))
    assert np.mean(best) < 0.85


def test_files_are_those_of_brats_2023(tmp_path):
    files = write_case(0, 1, SIZE)
    assert list(files) == [
        f"BraTS-PHANTOM-00001-000/BraTS-PHANTOM-00001-000-{name}.nii.gz"
        for name in ("t1n", "t1c", "t2w", "t2f", "seg")
    ]
    images, mask, _ = make_case(0, 1, SIZE)
    for role, data in zip((*images, "seg"), files.values(), strict=True):
        loaded = nib.Nifti1Image.from_bytes(gzip.decompress(data))
        np.testing.assert_array_equal(np.asarray(loaded.dataobj).T, (images | {"seg": mask})[role])
        expected = [[-1, 0, 0, 0], [0, -1, 0, SIZE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]]
        np.testing.assert_array_equal(loaded.affine, expected)
        assert nib.aff2axcodes(loaded.affine) == ("L", "P", "S")
        assert (int(loaded.header["qform_code"]), int(loaded.header["sform_code"])) == (1, 1)
        assert loaded.header.get_xyzt_units()[0] == "mm"


def test_header_is_that_of_a_real_case(real_cases):
    real = nib.load(real_cases / "BraTS2021_00002" / "BraTS2021_00002_t1.nii.gz").header
    empty = to_nifti(np.zeros((155, 240, 240), np.int16))
    ours = nib.Nifti1Image.from_bytes(gzip.decompress(empty)).header
    for name in ("dim", "datatype", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        np.testing.assert_array_equal(ours[name], real[name], err_msg=name)
    np.testing.assert_array_equal(ours.get_qform(), real.get_qform())


def test_the_project_reads_them_as_they_were_drawn(tmp_path):
    store = Store(str(tmp_path))
    for key, data in write_case(0, 2, SIZE).items():
        store.put(key, data)
    (case,) = find_cases(store.list()).cases
    volume = load_case(case, store)
    images, mask, _ = make_case(0, 2, SIZE)
    box = tuple(slice(o, o + n) for o, n in zip(volume.origin, volume.mask.shape, strict=True))
    np.testing.assert_array_equal(volume.mask, mask[box])
    np.testing.assert_array_equal(volume.images, np.stack([images[m][box] for m in volume.modalities]))


@pytest.mark.slow
def test_job_writes_what_is_missing_and_no_more(ray_local, bucket):
    def made(count: int, ray: UseRay) -> tuple[int, int]:
        settings = phantom_job.Settings(cases=bucket.uri, seed=5, size=SIZE, count=count, ray=ray)
        counts = phantom_job.main(settings).counts
        return counts["written"], counts["unchanged"]

    assert made(2, "yes") == (2, 0)
    written = {key: (bucket.directory / key).read_bytes() for key in case_keys(1).values()}
    Store(bucket.uri).delete(case_keys(0)["seg"])
    assert made(3, "no") == (2, 1)
    assert {key: (bucket.directory / key).read_bytes() for key in written} == written
    assert all((bucket.directory / key).exists() for n in (0, 2) for key in case_keys(n).values())
    assert drawn_elsewhere(5, 1) == written


def drawn_elsewhere(seed: int, index: int) -> dict[str, bytes]:
    """A case's files as a process of its own makes them."""
    case = f"write_case({seed}, {index}, {SIZE})"
    code = f"import pickle, sys; from bts.phantom.case import write_case; case = {case}"
    command = [sys.executable, "-c", f"{code}; sys.stdout.buffer.write(pickle.dumps(case))"]
    return pickle.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def test_job_refuses_numbers_that_make_no_cases(run_job, tmp_path):
    run = run_job("phantom", "--cases", tmp_path, "--count", 0)
    assert run.code == 2 and "--count 0" in run.stderr and "Traceback" not in run.stderr
