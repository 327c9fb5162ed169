"""What labels of other tools' models mean, by their names."""

import pytest

from bts.errors import UsageError
from bts.inference.foreign.source import Asked
from bts.inference.foreign.words import labels_of

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
