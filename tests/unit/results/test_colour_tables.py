"""Label files for ITK-SNAP and 3D Slicer, read back by the rules of those programs."""

import shlex

import numpy as np
import pytest

from bts.colours import colours_of
from bts.labels import CONVENTIONS, to_internal
from bts.results import colour_tables


def read_itksnap(text: str) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Value → (name, RGB), as ITK-SNAP reads them: eight fields a line, the last one quoted."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        value, *numbers, name = shlex.split(line)
        r, g, b, opacity, visible, mesh = map(float, numbers)
        assert {opacity, visible, mesh} == ({0} if value == "0" else {1})
        found[int(value)] = name, (r, g, b)
    return found


def read_slicer(text: str) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Value → (name, RGB), as Slicer reads them: six fields a line, _ for a space."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        value, name, r, g, b, opacity = line.split(" ")
        assert opacity == ("0" if value == "0" else "255")
        found[int(value)] = name.replace("_", " "), (int(r), int(g), int(b))
    return found


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_value_of_a_convention_has_its_labels_name_and_colour(convention):
    itksnap = read_itksnap(colour_tables.itksnap(convention))
    slicer = read_slicer(colour_tables.slicer(convention))
    assert itksnap.pop(0) == ("Clear Label", (0, 0, 0)) and slicer.pop(0) == ("background", (0, 0, 0))
    assert itksnap == slicer and list(itksnap) == sorted(CONVENTIONS[convention])
    legend = colours_of(convention)
    for value, named in itksnap.items():
        assert named == legend[int(to_internal(np.array([value]), convention)[0])]


def test_files_of_the_conventions_that_occur():
    files = colour_tables.files(["msd", "brats2021", "msd"])
    assert list(files) == [
        *("_labels/itksnap-brats2021.txt", "_labels/slicer-brats2021.ctbl"),
        *("_labels/itksnap-msd.txt", "_labels/slicer-msd.ctbl"),
    ]
    assert b'"enhancing tumour"' in files["_labels/itksnap-msd.txt"]
