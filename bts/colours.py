"""Names and colours of the labels, the same wherever they are seen.

Pictures and pages draw with these, the viewer gets them as JSON (bts.report.viewer), and labelmaps have them
beside them for ITK-SNAP and 3D Slicer (bts.results.colour_tables).
"""

from collections.abc import Mapping
from typing import Literal

# The field's colours: necrosis red, oedema green, enhancing yellow; blue for the cavity of 2024.
LABEL_COLOURS = {
    1: ("necrosis / non-enhancing", (230, 30, 40)),
    2: ("oedema", (30, 170, 60)),
    3: ("enhancing tumour", (255, 220, 0)),
    4: ("resection cavity", (66, 133, 244)),
}
# Colours of Okabe and Ito 2008, which colour-blind readers tell apart.
TYPE_COLOURS = {
    1: ("meningioma", (230, 159, 0)),
    2: ("glioma", (86, 180, 233)),
    3: ("pituitary tumour", (204, 121, 167)),
}
TUMOUR_COLOURS = {1: ("tumour", (230, 159, 0))}
SAFE_COLOURS = {
    1: (LABEL_COLOURS[1][0], (213, 94, 0)),
    2: (LABEL_COLOURS[2][0], (86, 180, 233)),
    3: (LABEL_COLOURS[3][0], (240, 228, 66)),
    4: (LABEL_COLOURS[4][0], (204, 121, 167)),
}
# By label convention; of the others: LABEL_COLOURS.
LEGENDS = {"figshare": TYPE_COLOURS, "figshare_tumour": TUMOUR_COLOURS}
Legend = Mapping[int, tuple[str, tuple[int, int, int]]]  # name and RGB of each label
Colours = Literal["field", "colour-blind"]  # red, green and yellow, or those of Okabe and Ito 2008


def colours_of(convention: str, colours: Colours = "field") -> Legend:
    """Of a label convention. figshare's colours are told apart by colour-blind readers as they are."""
    return LEGENDS.get(convention, SAFE_COLOURS if colours == "colour-blind" else LABEL_COLOURS)
