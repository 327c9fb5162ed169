"""What labels of other tools' models mean, by their names."""

import pytest

from bts.errors import UsageError
from bts.inference.foreign.source import Asked
from bts.inference.foreign.words import labels_of, modalities_of

ASKED = Asked(name="model")


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ({"NCR": 1, "ED": 2, "ET": 3}, {1: 1, 2: 2, 3: 3}),
        ({"edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}, {1: 2, 2: 1, 3: 3}),
        ({"Peritumoral oedema": 1, "necrotic core": 2, "GD-enhancing tumor": 4}, {1: 2, 2: 1, 4: 3}),
        ({"NETC": 1, "SNFH": 2, "ET": 3}, {1: 1, 2: 2, 3: 3}),
        # SNFH as BraTS writes it out: oedema, and no core for its being called non-enhancing.
        ({"NETC": 1, "Surrounding non-enhancing FLAIR hyperintensity": 2, "ET": 3}, {1: 1, 2: 2, 3: 3}),
        ({"nec": 1, "infiltration": 2, "AT": 3}, {1: 1, 2: 2, 3: 3}),
        ({"NET": 1, "cyst": 2, "edema": 3, "active tumor": 4}, {1: 1, 2: 1, 3: 2, 4: 3}),
        # As RANO and radiologists write it: what does not enhance is core, however that is said.
        (
            {"necrosis": 1, "edema": 2, "non-contrast-enhancing tumor": 3, "contrast-enhancing tumor": 4},
            {1: 1, 2: 2, 3: 1, 4: 3},
        ),
        ({"necrosis": 1, "edema": 2, "tumor, not enhancing": 3, "ET": 4}, {1: 1, 2: 2, 3: 1, 4: 3}),
    ],
)
def test_names_tell_the_labels(names, labels):
    assert labels_of(names, ASKED) == labels


@pytest.mark.parametrize(
    "names",
    [
        {"NCR": 1, "ED": 2, "ET": 3, "resection cavity": 4},
        {"NCR": 1, "ED": 2, "liver": 3},
        {"core": 1, "ED": 2, "ET": 3},
        {"NCR": 1, "ET": 3},
    ],
)
def test_what_is_none_of_ours_is_refused_with_what_to_say(names):
    with pytest.raises(UsageError, match="--labels"):
        labels_of(names, ASKED)


def test_labels_that_contradict_the_names_are_refused():
    """nnU-Net's users number BraTS's labels anew: what the data set has is not what the model has."""
    names = {"edema": 1, "non-enhancing": 2, "enhancing": 3}
    with pytest.raises(UsageError, match=r"--labels 1=NCR,2=ED,3=ET: the model calls 1 edema; leave"):
        labels_of(names, Asked(name="model", labels="1=NCR,2=ED,3=ET"))
    agreed = Asked(name="model", labels="1=ED,2=NCR,3=ET")
    assert labels_of(names, agreed) == {1: 2, 2: 1, 3: 3}
    assert labels_of({"a": 1, "non-enhancing": 2, "enhancing": 3}, agreed) == {1: 2, 2: 1, 3: 3}


def test_channels_that_contradict_the_names_are_refused():
    names = ["FLAIR", "T1-w", "t1gd", "MRI"]
    with pytest.raises(UsageError, match=r"--channels t1 t1ce t2 flair: the model calls channel 0 FLAIR"):
        modalities_of(names, Asked(name="model", channels=("t1", "t1ce", "t2", "flair")))
    order = ("flair", "t1", "t1ce", "t2")
    assert modalities_of(names, Asked(name="model", channels=order)) == order


def test_a_sequence_that_only_begins_as_one_of_ours_is_none():
    with pytest.raises(UsageError, match=r"T2\*, FLAIR; say which"):
        modalities_of(["T1", "T1ce", "T2*", "FLAIR"], ASKED)
