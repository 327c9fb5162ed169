"""What a set says of its own labels, in nnU-Net's dataset.json or in BIDS's dseg.tsv, is believed."""

import json

import pytest

from bts.cases.said import list_folder
from bts.cases.sidecars import channels_of, labels_of, labels_of_table
from bts.labels import UNKNOWN
from bts.storage import Store
from tests import builders

NNUNET_2 = {"background": 0, "edema": 1, "non-enhancing and necrosis": 2, "enhancing": 3}
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
DECATHLON = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
OF_2023 = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
AFTER = {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}


@pytest.mark.parametrize(
    ("labels", "convention"),
    [
        (NNUNET_2, "msd"),
        (REGIONS, "msd"),
        ({**REGIONS, "enhancing tumor": 3}, "msd"),
        (DECATHLON, "msd"),
        (OF_2023, "brats2023"),
        (AFTER, "brats2024"),
        ({"0": "background", "1": "ET", "2": "NET", "3": "cyst", "4": "peritumoral edema"}, "ped2024"),
        ({"background": 0, "necrotic core": 7, "oedema": 8, "enhancing": 9}, "7=NCR,8=ED,9=ET"),
        ({"background": 0, "tumor": 1}, ""),
        ({"background": 0, "WT": 1, "TC": 2, "ET": 3}, ""),
        ({**REGIONS, "cavity": [4]}, ""),
        ({"background": 0, "core": [1], "spots": [2]}, ""),
        ({"background": 0, "edema": 300}, ""),
        ({"background": 0, "edema": "one"}, None),
        ({"background": 0}, None),
        ([1, 2], None),
        ({}, None),
    ],
)
def test_labels_by_their_names(labels, convention):
    assert labels_of(json.dumps({"labels": labels}).encode()) == convention


NONSENSE = {
    "nothing": b"",
    "half of it": b"[",
    "a list": b"[]",
    "no text": b"\xff",
    "a number for labels": b'{"labels": 3, "channel_names": 3}',
    "nested without end": b'{"labels": ' + b"[" * 100_000,
    "infinite values": b'{"labels": {"whole tumor": [Infinity], "ET": 1}}',
    "a value of 9000 digits": b'{"labels": {"ET": ' + b"9" * 9000 + b"}}",
    "a table without columns": b"index\n1\n",
    "a table of words": b"index\tname\none\tET\n",
}


@pytest.mark.parametrize("what", NONSENSE)
def test_what_says_nothing_that_is_known_says_nothing(what):
    data = NONSENSE[what]
    assert labels_of(data) is None and labels_of_table(data) is None and channels_of(data) == {}


def raw_of_nnunet(case_id: str, **more: object) -> dict[str, bytes]:
    names = {"0": "FLAIR", "1": "T1", "2": "T1CE", "3": "T2"}
    said = {"channel_names": names, **more}
    images = {f"D/imagesTr/{case_id}_{n:04}.nii.gz": b"x" for n in range(4)}
    return {"D/dataset.json": json.dumps(said).encode(), **images, f"D/labelsTr/{case_id}.nii.gz": b"x"}


def test_nnunets_own_values_count_more_than_the_name(tmp_path):
    """nnU-Net wants values without a gap, so its users write 1 oedema, 2 necrosis, 3 enhancing tumour."""
    builders.put_all(Store(tmp_path), raw_of_nnunet("BraTS-GLI-00001-000", labels=REGIONS))
    (case,) = list_folder(Store(tmp_path)).cases
    assert (case.labels, case.dataset) == ("msd", "brats2023-gli")
    (case,) = list_folder(Store(tmp_path), "brats2023").cases
    assert case.labels == "brats2023", "--labels counts more"


@pytest.mark.parametrize("labels", [{}, {"background": 0}, 7])
def test_without_names_of_labels_the_name_of_the_case_tells(tmp_path, labels):
    builders.put_all(Store(tmp_path), raw_of_nnunet("BraTS-GLI-00001-000", labels=labels))
    listing = list_folder(Store(tmp_path))
    assert listing.cases[0].labels == "brats2023" and not listing.unclear


@pytest.mark.parametrize("labels", [{"tumor": 1}, {"background": 0, "WT": 1, "TC": 2, "ET": 3}])
def test_labels_whose_names_are_not_known_are_not_guessed_by_the_case(tmp_path, labels):
    """A whole tumour as 1, or oedema as 1, would become necrosis without a word."""
    builders.put_all(Store(tmp_path), raw_of_nnunet("BraTS-GLI-00001-000", labels=labels))
    listing = list_folder(Store(tmp_path))
    assert listing.cases[0].labels == UNKNOWN and listing.unclear == ("D/dataset.json",)
    said = list_folder(Store(tmp_path), "brats2023")
    assert said.cases[0].labels == "brats2023" and not said.unclear


def test_ground_truths_without_their_images_are_told_by_dataset_json_too(tmp_path):
    files = raw_of_nnunet("BraTS-GLI-00001-000", labels=REGIONS)
    truths = {key: data for key, data in files.items() if "images" not in key}
    builders.put_all(Store(tmp_path), truths)
    (case,) = list_folder(Store(tmp_path)).cases
    assert (list(case.files), case.labels) == (["seg"], "msd")


def test_a_table_of_something_else_hides_no_table_of_the_labels(tmp_path):
    truth = {"derivatives/sub-1/anat/sub-1_dseg.nii.gz": b"x"}
    tables = {
        "derivatives/desc-aseg_dseg.tsv": b"index\tname\n1\tthalamus\n",
        "derivatives/desc-tumour_dseg.tsv": b"index\tname\n1\tnecrotic core\n2\tedema\n4\tenhancing\n",
        "derivatives/desc-veins_dseg.tsv": b"index\tname\n1\tvein\n",
    }
    builders.put_all(Store(tmp_path), truth | tables)
    assert list_folder(Store(tmp_path)).cases[0].labels == "brats2021"


def test_a_table_of_a_bids_set_tells_its_labels(tmp_path):
    images = {f"sub-1/anat/sub-1_{role}.nii.gz": b"x" for role in ("T1w", "ce-gad_T1w", "T2w", "FLAIR")}
    truth = {"derivatives/manual/sub-1/anat/sub-1_dseg.nii.gz": b"x"}
    table = b"index\tname\n0\tbackground\n1\tnecrotic core\n2\tedema\n4\tenhancing\n"
    for key in ("derivatives/manual/dseg.tsv", "derivatives/manual/desc-tumour_dseg.tsv", "dseg.tsv"):
        place = tmp_path / key.replace("/", "+")
        builders.put_all(Store(place), {**images, **truth, key: table})
        (case,) = list_folder(Store(place)).cases
        assert case.labels == "brats2021", key
    builders.put_all(Store(tmp_path / "of another"), {**images, **truth, "derivatives/auto/dseg.tsv": table})
    assert list_folder(Store(tmp_path / "of another")).cases[0].labels == ""
