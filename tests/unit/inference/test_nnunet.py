"""bts.inference.foreign.nnunet: trained folders adopted and run, or refused. Beside nnU-Net: tests/peers."""

import json
import os
import pickle
import zipfile
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from bts.errors import CaseError, UsageError
from bts.inference.foreign import convert
from bts.inference.foreign.nnunet.plan import Resampling
from bts.inference.foreign.nnunet.resample import new_shape, resample
from bts.inference.foreign.source import Asked, Source
from bts.inference.foreign.voxels import on_crop, spacing_of, whole_images
from bts.inference.segmenter import Segmenter
from bts.model.load import load
from bts.model.targets import LABELS, REGIONAL
from bts.notebook import read_case
from bts.storage import Store
from jobs import adopt as jobs_adopt
from jobs.driver.outcome import guarded
from tests import builders, nnunet_folders
from tests.nnunet_folders import changed, write

CASE = "BraTS-GLI-00001-000"
SHAPE = (35, 30, 26)  # x, y, z; of the brain 32, 26, 21


def adopt(place, **asked) -> bytes:
    kind, data = convert(Source(str(place)), Asked(name="theirs", **asked))
    assert kind == "nnunet"
    return data


def case(folder, codes="LPS", zooms=(1.0, 1.0, 1.0)):
    """A small case stored in an orientation: voxel by voxel the same head in space."""
    images, labels = builders.voxels(0, SHAPE)
    images["seg"] = labels
    for role, image in images.items():
        matrix = builders.affine(codes, zooms)
        for axis, (code, usual) in enumerate(zip(codes, "LPS", strict=True)):
            if code != usual:
                image = np.flip(image, axis)
        path = folder / CASE / f"{CASE}-{builders.NAMES_2023[role]}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(builders.nifti(image, matrix))
    return read_case(folder)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return case(tmp_path_factory.mktemp("cases"))


def labels_of(data: bytes, volume) -> np.ndarray:
    return Segmenter([load(data, "theirs")], "cpu")(volume)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("3d_fullres", {}),
        ("3d_fullres", {"regions": True, "family": "residual", "mirror": (1,), "folds": 2}),
        ("3d_lowres", {"plan": {"spacing": [1.5, 1.4, 1.3]}}),
        ("2d", {"mirror": (0, 1)}),
        ("2d", {"regions": True, "family": "residual", "plan": {"spacing": [0.8, 1.2]}}),
    ],
)
def test_a_trained_folder_is_one_model_file(tmp_path, head, name, how):
    data = adopt(write(tmp_path / "folder", name, **how))
    card = load(data, "theirs").card
    assert card.modalities == ("t1", "t1ce", "t2", "flair")
    assert card.predicts == (REGIONAL if how.get("regions") else LABELS)
    segmenter = Segmenter([load(data, "theirs")], "cpu")
    found = segmenter.probabilities(head)
    assert found.shape == (3, *head.images.shape[1:]) and found.dtype == torch.float32
    assert len(np.unique(segmenter(head))) > 1 and torch.isfinite(found).all()
    assert adopt(tmp_path / "folder") == data, "adopted twice it is the same model"


def test_the_zip_that_nnunet_exports_is_the_same_model(tmp_path):
    folder = write(tmp_path / "Dataset001_T" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    write(tmp_path / "Dataset001_T" / "nnUNetTrainer__nnUNetPlans__2d", "2d")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for path in (tmp_path / "Dataset001_T").rglob("*.*"):
            file.write(path, path.relative_to(tmp_path))
    assert adopt(tmp_path / "export.zip", configuration="3d_fullres") == adopt(folder)
    with pytest.raises(UsageError, match=r"by --configuration: .*__2d/, .*__3d_fullres/"):
        adopt(tmp_path / "export.zip")


def test_folds_are_averaged(tmp_path, head):
    """Two folds of equal weights are one of them; of other weights they are not."""
    one = write(tmp_path / "one", regions=True)
    alike = write(tmp_path / "alike", regions=True, folds=2)
    other = write(tmp_path / "other", regions=True, folds=2)
    (alike / "fold_1" / "checkpoint_final.pth").write_bytes(
        (one / "fold_0" / "checkpoint_final.pth").read_bytes()
    )
    single, twice, both = (
        Segmenter([load(adopt(folder), "m")], "cpu").probabilities(head) for folder in (one, alike, other)
    )
    assert torch.allclose(single, twice, atol=1e-3) and not torch.allclose(single, both, atol=1e-2)


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_mirroring_makes_the_answer_symmetric(tmp_path, head, name):
    """But for half precision, which at a window's corners keeps little."""
    turned, apart = replace(head, images=np.ascontiguousarray(head.images[..., ::-1])), {}
    for axes in ((), (0, 1) if name == "2d" else (0, 1, 2)):
        model = load(adopt(write(tmp_path / f"m{len(axes)}", name, mirror=axes)), "m")
        there, back = (Segmenter([model], "cpu").probabilities(one) for one in (head, turned))
        apart[bool(axes)] = (back.flip(-1) - there).abs().mean()
    assert apart[True] < 0.002 and 5 * apart[True] < apart[False]


@pytest.mark.parametrize(("reader", "same"), [("NibabelIOWithReorient", True), ("SimpleITKIO", False)])
def test_a_reader_that_reorients_gives_one_answer_however_a_file_is_stored(tmp_path, reader, same):
    data = adopt(write(tmp_path / "m", plan={"image_reader_writer": reader}))
    lps, ras = (case(tmp_path / codes, codes) for codes in ("LPS", "RAS"))
    assert np.array_equal(lps.images, ras.images) and lps.grid.orientation != ras.grid.orientation
    assert np.array_equal(labels_of(data, lps), labels_of(data, ras)) == same


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR"])
def test_a_reader_that_reorients_sees_what_nibabel_gives(tmp_path, codes):
    files = builders.case_files(CASE, matrix=builders.affine(codes, (0.9, 1.1, 3.5)))
    builders.put_all(Store(tmp_path), files)
    volume = read_case(tmp_path / CASE)
    theirs = nib.as_closest_canonical(nib.load(tmp_path / CASE / f"{CASE}-t2f.nii.gz"))
    seen = whole_images(volume, ("flair",), "RAS")
    assert np.array_equal(seen[0], theirs.get_fdata().T)
    assert np.array_equal(on_crop(seen, volume, "RAS")[0], volume.images[3])
    assert spacing_of(volume, "RAS") == pytest.approx(theirs.header.get_zooms()[::-1])


def test_channels_are_found_by_name_in_their_own_order(tmp_path, head):
    names = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    model = load(adopt(write(tmp_path / "m", described={"channel_names": names})), "m")
    assert model.card.modalities == ("flair", "t1", "t1ce", "t2")
    free = {str(n): "zscore" for n in range(4)}
    folder = write(tmp_path / "free", described={"channel_names": free})
    with pytest.raises(UsageError, match=r"called zscore, zscore, zscore, zscore; say which .* --channels"):
        adopt(folder)
    order = ("t2", "flair", "t1", "t1ce")
    assert load(adopt(folder, channels=order), "m").card.modalities == order
    with pytest.raises(UsageError, match="the model has 4"):
        adopt(folder, channels=order[:3])


def test_labels_are_found_by_name_or_said(tmp_path):
    as_2023 = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    found = load(adopt(write(tmp_path / "m", described={"labels": as_2023})), "m").description["labels"]
    assert found == [0, 1, 2, 3]
    assert load(adopt(write(tmp_path / "msd")), "m").description["labels"] == [0, 2, 1, 3]
    free = {"background": 0, "a": 1, "b": 2, "c": 3}
    folder = write(tmp_path / "free", described={"labels": free})
    with pytest.raises(UsageError, match=r"called 1 a, 2 b, 3 c; say with --labels"):
        adopt(folder)
    assert load(adopt(folder, labels="1=ET,2=ED,3=NCR"), "m").description["labels"] == [0, 3, 2, 1]
    organs = {"background": 0, "liver": 1, "enhancing tumor": 2, "edema": 3}
    with pytest.raises(UsageError, match="1 liver"):
        adopt(write(tmp_path / "organs", described={"labels": organs}))


def test_two_of_its_labels_may_be_one_of_ours(tmp_path, head):
    """Of children's tumours: cyst and non-enhancing core are necrosis here."""
    names = {"background": 0, "ET": 1, "NET": 2, "CC": 3, "ED": 4}
    model = load(adopt(write(tmp_path / "m", described={"labels": names}, outputs=5)), "m")
    assert model.description["labels"] == [0, 3, 1, 1, 2]
    assert set(np.unique(Segmenter([model], "cpu")(head))) <= {0, 1, 2, 3}


def test_regions_are_told_by_which_lies_in_which(tmp_path):
    inside_out = {"background": 0, "enhancing": [3], "core": [2, 3], "whole": [1, 2, 3]}
    folder = write(tmp_path / "m", regions=True, described={"labels": inside_out})
    with pytest.raises(UsageError, match="not how ours are painted"):
        adopt(folder)
    data = adopt(write(tmp_path / "usual", regions=True))
    assert load(data, "m").description["regions"] == [0, 1, 2]
    changed(folder, "dataset.json", "labels", to={"background": 0, "whole": [1, 2, 3], "rest": [2, 3, 4]})
    changed(folder, "dataset.json", "regions_class_order", to=[1, 2])
    with pytest.raises(UsageError, match="not whole tumour, tumour core"):
        adopt(folder)


def test_a_fold_whose_training_did_not_end_is_not_left_out_unsaid(tmp_path):
    folder = write(tmp_path / "m", folds=3)
    (folder / "fold_1" / "checkpoint_final.pth").rename(folder / "fold_1" / "checkpoint_best.pth")
    with pytest.raises(UsageError, match=r"fold_1 has no checkpoint_final\.pth; train it to its end, or"):
        adopt(folder)
    (folder / "fold_1" / "checkpoint_best.pth").unlink()
    assert load(adopt(folder), "m").description["folds"] == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inference_allowed_mirroring_axes", (0, 1, 2)),
        ("trainer_name", "nnUNetTrainerBN"),
        ("init_args", {"configuration": "3d_lowres"}),
    ],
)
def test_folds_that_were_trained_in_other_ways_are_no_ensemble(tmp_path, key, value):
    folder = write(tmp_path / "m", folds=2)
    place = folder / "fold_1" / "checkpoint_final.pth"
    torch.save(torch.load(place, weights_only=False) | {key: value}, place)
    with pytest.raises(UsageError, match=r"fold_1/.* was trained otherwise than fold_0/"):
        adopt(folder)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("WT", "TC", "NETC"), "NETC"),
        (("tumor and edema", "core", "non-enhancing tumor"), "non-enhancing tumor"),
        (("whole tumor", "enhancing tumor", "core"), "enhancing tumor"),
        (("whole with resection cavity", "TC", "ET"), "whole with resection cavity"),
    ],
)
def test_regions_whose_names_say_other_structures_are_refused(tmp_path, names, word):
    """They nest as ours do, and are not ours."""
    labels = {"background": 0, names[0]: [1, 2, 3], names[1]: [1, 3], names[2]: [1]}
    told = {"labels": labels, "regions_class_order": [2, 3, 1]}
    with pytest.raises(UsageError, match=f"its region {word} is not"):
        adopt(write(tmp_path / "m", regions=True, described=told))


@pytest.mark.parametrize(
    "change",
    [
        {"network_weights": {"w": torch.zeros(3, device="meta")}},
        {"inference_allowed_mirroring_axes": torch.ones(3)},
    ],
    ids=str,
)
def test_a_checkpoint_of_odd_values_is_refused(tmp_path, change):
    folder = write(tmp_path / "m")
    place = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(place, weights_only=False) | change, place)
    with pytest.raises(UsageError, match="no nnU-Net that can be adopted"):
        adopt(folder)


def test_a_case_without_a_modality_fails_unless_it_may_be_missing(tmp_path, head):
    data = adopt(write(tmp_path / "m"))
    lacking = replace(
        head,
        images=head.images[:3],
        modalities=head.modalities[:3],
        **{name: getattr(head, name)[:3] for name in ("mean", "std", "p01", "p99")},
    )
    with pytest.raises(CaseError, match="lacks flair"):
        labels_of(data, lacking)
    found = Segmenter([load(data, "m")], "cpu", allow_missing=["flair"]).probabilities(lacking)
    assert torch.isfinite(found).all()


def test_an_ensemble_with_ours(tmp_path, head):
    ours, theirs = (
        load(builders.tiny_model(), "tiny"),
        load(adopt(write(tmp_path / "m", regions=True)), "theirs"),
    )
    both = Segmenter([ours, theirs], "cpu")
    alone = [Segmenter([one], "cpu").probabilities(head) for one in (ours, theirs)]
    assert torch.allclose(both.probabilities(head), sum(alone) / 2)


def test_resampling_keeps_a_ramp_and_its_range():
    """A spline through a ramp is the ramp; slices far apart are taken as they are."""
    ramp = np.arange(20, dtype=np.float32)[None, :, None, None] * np.ones((1, 20, 6, 7), np.float32)
    how = Resampling(kind="spline", order=3, separate=None)
    shape = new_shape((20, 6, 7), (1, 1, 1), (0.5, 1, 1))
    assert shape == (40, 6, 7)
    fine = resample(ramp, shape, (1, 1, 1), (0.5, 1, 1), how)
    assert np.allclose(fine[0, 4:-4, 0, 0], (np.arange(40) / 2 - 0.25)[4:-4], atol=0.02)
    assert fine.min() >= 0 and fine.max() <= 19
    thick = resample(ramp, (40, 12, 7), (5, 1, 1), (2.5, 0.5, 1), how)
    assert np.array_equal(thick[0, :, 3, 3], np.repeat(np.arange(20), 2))
    for kind in ("spline", "torch"):
        same = resample(ramp, (20, 6, 7), (1, 1, 1), (1, 1, 1), Resampling(kind=kind, order=1, separate=None))
        assert same is ramp
    linear = resample(
        ramp, (10, 6, 7), (1, 1, 1), (2, 1, 1), Resampling(kind="torch", order=1, separate=None)
    )
    assert np.allclose(linear[0, :, 0, 0], np.arange(10) * 2 + 0.5)


ARCHITECTURE = ("configurations", "3d_fullres", "architecture")
KWARGS = (*ARCHITECTURE, "arch_kwargs")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ((*ARCHITECTURE, "network_class_name"), "os.system", "network_class_name 'os.system'|'system'"),
        ((*ARCHITECTURE, "network_class_name"), "evil.PlainConvUNet", "evil.PlainConvUNet' is not known"),
        ((*KWARGS, "conv_op"), "os.system", "conv_op 'os.system' is not known here"),
        ((*KWARGS, "norm_op"), "builtins.eval", "norm_op 'builtins.eval' is not known here"),
        ((*KWARGS, "nonlin"), "subprocess.run", "nonlin 'subprocess.run' is not known here"),
        ((*KWARGS, "norm_op_kwargs"), {"device": "meta"}, "device is not known here"),
        ((*KWARGS, "spell"), "x", "spell is not known here"),
        ((*KWARGS, "features_per_stage"), [10**9] * 3, r"network.widths\[0\] is 1000000000"),
        ((*KWARGS, "n_stages"), 10**9, "n_stages is 1000000000"),
        (("configurations", "3d_fullres", "patch_size"), [10**6] * 3, r"patch\[0\] is 1000000"),
        (("configurations", "3d_fullres", "patch_size"), [1024] * 3, "larger than any"),
        (("configurations", "3d_fullres", "patch_size"), [33, 24, 40], "does not go through strides"),
        (("configurations", "3d_fullres", "spacing"), [1e-9, 1, 1], r"spacing\[0\] is 1e-09"),
        (("configurations", "3d_fullres", "spacing"), [float("nan"), 1, 1], r"spacing\[0\] is nan"),
        (
            ("configurations", "3d_fullres", "normalization_schemes"),
            ["os.system"] * 4,
            "normalization_schemes",
        ),
        (
            ("configurations", "3d_fullres", "resampling_fn_data"),
            "os.system",
            "resampling_fn_data 'os.system'",
        ),
        (("configurations", "3d_fullres", "preprocessor_name"), "Evil", "preprocessor_name 'Evil'"),
        (("configurations", "3d_fullres", "inherits_from"), "3d_fullres", "inherits from itself"),
        (("configurations", "3d_fullres", "previous_stage"), "3d_lowres", "second stage of a cascade"),
        (("image_reader_writer",), "NaturalImage2DIO", "image_reader_writer 'NaturalImage2DIO'"),
        (("label_manager",), "os.system", "label_manager 'os.system'"),
        (("transpose_forward",), [0, 0, 1], "does not name each axis once"),
        (("configurations",), {}, "'3d_fullres' is not there"),
        (("configurations",), "x", "not an object"),
    ],
)
def test_a_plan_that_is_hostile_or_strange_is_refused_in_one_line(tmp_path, path, value, words):
    folder = write(tmp_path / "m")
    changed(folder, "plans.json", *path, to=value)
    with pytest.raises(UsageError, match=words) as error:
        adopt(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_the_command_ends_with_2_and_one_line(tmp_path, capsys):
    folder = write(tmp_path / "m")
    changed(folder, "plans.json", *KWARGS, "nonlin", to="os.system")
    settings = jobs_adopt.Settings(source=str(folder), models=str(tmp_path / "models"), name="evil")
    assert guarded("adopt", lambda: jobs_adopt.main(settings)) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "nonlin 'os.system' is not known here" in said[0]
    assert not (tmp_path / "models").exists()


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_with_a_trap_is_refused_and_not_run(tmp_path, how):
    folder, mark = write(tmp_path / "m"), tmp_path / "sprung"
    place = folder / "fold_0" / "checkpoint_final.pth"
    found = torch.load(place, weights_only=False)
    found["_best_ema"] = Trap(mark)
    if how == "torch":
        torch.save(found, place)
    else:
        place.write_bytes(pickle.dumps(found))
    with pytest.raises(UsageError, match=r"fold_0/checkpoint_final\.pth: .*refused") as error:
        adopt(folder)
    assert not mark.exists() and "\n" not in str(error.value)


def test_what_is_no_whole_trained_folder(tmp_path):
    folder = write(tmp_path / "m")
    place = folder / "fold_0" / "checkpoint_final.pth"
    whole = place.read_bytes()
    for broken, words in ((whole[:1000], "damaged"), (b"", "damaged"), (b"no pickle", "damaged|refused")):
        place.write_bytes(broken)
        with pytest.raises(UsageError, match=words) as error:
            adopt(folder)
        assert "\n" not in str(error.value)
    torch.save({"a": 1}, place)
    with pytest.raises(UsageError, match="no checkpoint of nnU-Net v2"):
        adopt(folder)
    place.unlink()
    with pytest.raises(UsageError, match=r"has no fold_N/checkpoint_final\.pth"):
        adopt(folder)
    (folder / "plans.json").write_text("[1")
    place.write_bytes(whole)
    with pytest.raises(UsageError, match=r"plans\.json: no JSON of nnU-Net"):
        adopt(folder)


def test_weights_of_another_network_are_refused(tmp_path, head):
    folder = write(tmp_path / "m")
    changed(folder, "plans.json", *KWARGS, "features_per_stage", to=[4, 6, 10])
    with pytest.raises(UsageError, match="no nnU-Net that can be run"):
        labels_of(adopt(folder), head)


@pytest.mark.parametrize(
    ("key", "value"),
    [("patch", [4096, 4096, 4096]), ("folds", 99), ("network", None), ("evil", 1), ("labels", [0, 9])],
)
def test_a_model_file_whose_description_was_changed_is_refused(tmp_path, head, key, value):
    """A file in a bucket may come from anybody: it is checked again where it is run."""
    data = adopt(write(tmp_path / "m"))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    said = json.loads(header["__metadata__"]["adopted"])
    said["description"][key] = value
    header["__metadata__"]["adopted"] = json.dumps(said)
    changed_header = json.dumps(header).encode()
    data = len(changed_header).to_bytes(8, "little") + changed_header + data[8 + length :]
    with pytest.raises(UsageError, match="theirs: no nnU-Net that can be run"):
        labels_of(data, head)


def test_plans_of_before_2024_are_read(tmp_path, head):
    folder = write(tmp_path / "m")
    kwargs = nnunet_folders.plans("3d_fullres", 3)["configurations"]["3d_fullres"]["architecture"][
        "arch_kwargs"
    ]
    plans = json.loads((folder / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    del configuration["architecture"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": kwargs["n_conv_per_stage"],
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
        "pool_op_kernel_sizes": kwargs["strides"],
        "num_pool_per_axis": [2, 2, 2],
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    described = load(adopt(folder), "m").description["network"]
    assert described["widths"] == [4, 6, 6] and described["strides"][1] == [2, 2, 2]
