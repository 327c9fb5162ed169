"""Names and colours of the labels, for the programs in which people look at labelmaps.

A folder of labelmaps has two files of each convention that occurs in it: `_labels/itksnap-CONVENTION.txt` for
ITK-SNAP (Segmentation, Import Label Descriptions) and `_labels/slicer-CONVENTION.ctbl` for 3D Slicer (drop it
on the window, then choose it as the labelmap's colour table). The colours are those of all our pictures.
"""

from collections.abc import Iterable

from bts.colours import Legend, colours_of
from bts.labels import values_of

ITKSNAP_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    IDX:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def files(conventions: Iterable[str]) -> dict[str, bytes]:
    """{key in a folder of labelmaps: file}, two of each convention."""
    found = {}
    for convention in sorted(set(conventions)):
        name = convention.replace("=", "-").replace(",", "_")  # of pairs; no store minds it
        found[f"_labels/itksnap-{name}.txt"] = itksnap(convention).encode()
        found[f"_labels/slicer-{name}.ctbl"] = slicer(convention).encode()
    return found


def itksnap(convention: str) -> str:
    """An ITK-SNAP label description file of the values that labelmaps of a convention hold."""
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for value, (name, (r, g, b)) in _named(convention).items():
        lines.append(f'{value:5} {r:5} {g:4} {b:4}        1  1  1    "{name}"')
    return ITKSNAP_HEAD + "\n".join(lines) + "\n"


def slicer(convention: str) -> str:
    """A 3D Slicer colour table of the values that labelmaps of a convention hold."""
    named = _named(convention)
    lines = [f"# Color table file of label convention {convention}", f"# {len(named) + 1} values"]
    lines.append("0 background 0 0 0 0")
    for value, (name, (r, g, b)) in named.items():
        lines.append(f"{value} {name.replace(' ', '_')} {r} {g} {b} 255")  # Slicer shows _ as a space
    return "\n".join(lines) + "\n"


def _named(convention: str) -> Legend:
    """Value in the file → name and RGB, by value."""
    legend = colours_of(convention)
    return {outside: legend[inside] for outside, inside in sorted(values_of(convention).items())}
