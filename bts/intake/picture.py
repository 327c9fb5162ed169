"""The check picture of a case: T1ce in three planes, outlines of the brain mask and of FLAIR's head on it.

Volumes are (z, y, x) in LPS+, before the skull is taken away.
"""

import html
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

MASK, OTHER = (255, 70, 70), (60, 200, 255)  # red: brain mask; blue: where FLAIR's head ends
PANEL_PX = 360
KEY = "_checks/{case_id}.png"
PAGE = "_checks/index.html"
PAGE_HTML = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Scans taken in</title>
<style>body{font:16px sans-serif;background:#111;color:#eee;margin:2em}
img{max-width:100%}li{color:#fb6}</style>
<h1>Scans taken in</h1>
<p>T1ce in three planes. Red: brain mask. Blue: outline of the head in FLAIR, which must lie on T1ce's.</p>
ROWS</html>"""


def draw(t1ce: np.ndarray, other: np.ndarray | None, mask: np.ndarray | None) -> bytes:
    """PNG of an axial, a coronal and a sagittal slice through the middle of the mask, or of the head."""
    middle = [int(v.mean()) for v in np.nonzero(mask if mask is not None else t1ce > t1ce.mean())]
    panels = []
    for axis, at in enumerate(middle):
        grey = _grey(_cut(t1ce, axis, at))
        colours = np.repeat(grey[..., None], 3, axis=2)
        if other is not None:
            colours[_outline(_cut(_head(other), axis, at))] = OTHER
        if mask is not None:
            colours[_outline(_cut(mask, axis, at))] = MASK
        panels.append(_panel(colours))
    sheet = Image.new("RGB", (PANEL_PX * len(panels), PANEL_PX))
    for n, panel in enumerate(panels):
        sheet.paste(panel, (n * PANEL_PX + (PANEL_PX - panel.width) // 2, (PANEL_PX - panel.height) // 2))
    sink = io.BytesIO()
    sheet.save(sink, "PNG", optimize=True)
    return sink.getvalue()


def page(cases: Iterable[tuple[str, list[str]]]) -> bytes:
    """One page with the picture and the warnings of each (case id, warnings), those with warnings first."""
    rows = []
    for case_id, warnings in sorted(cases, key=lambda one: (not one[1], one[0])):
        name = html.escape(case_id)
        said = "".join(f"<li>{html.escape(line)}</li>" for line in warnings)
        picture = f'<img src="{name}.png" alt="check picture of {name}" loading="lazy">'
        rows.append(f"<h2>{name}</h2><ul>{said}</ul>{picture}")
    return PAGE_HTML.replace("ROWS", "".join(rows)).encode()


def _cut(volume: np.ndarray, axis: int, at: int) -> np.ndarray:
    """One slice as it is looked at: head up, front at the left of a sagittal one."""
    found = np.take(volume, at, axis)
    return found if axis == 0 else found[::-1]


def _head(volume: np.ndarray) -> np.ndarray:
    """Where there is something, bool: brighter than a fifth of its bright parts."""
    return volume > 0.2 * np.percentile(volume[volume > 0], 90) if (volume > 0).any() else volume > 0


def _grey(image: np.ndarray) -> np.ndarray:
    high = np.percentile(image[image > 0], 99) if (image > 0).any() else 1
    return (np.clip(image / max(high, 1e-6), 0, 1) * 255).astype(np.uint8)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that have a neighbour outside."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _panel(colours: np.ndarray) -> Image.Image:
    high, wide = colours.shape[:2]
    scale = PANEL_PX / max(high, wide)
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    return Image.fromarray(colours).resize(size, Image.Resampling.BILINEAR)
