"""Names on pictures: in the letters of other alphabets too, and never as boxes."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont  # as Pillow's default is
DEJAVU = "mpl-data/fonts/ttf/DejaVuSans.ttf"  # matplotlib's: Latin, Greek, Cyrillic, Hebrew, Arabic
NO_LETTER = "\U0010ffff"


def write(
    ink: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    size: int,
    width: float,
    anchor: str = "lm",
) -> None:
    """One line of text, its end cut off where it is wider than that many pixels."""
    font, shown = lettered(text, size)
    ink.text(at, _fitted(shown, font, width), colour, font, anchor=anchor)


def lettered(text: str, size: int) -> tuple[Font, str]:
    """(Pillow's font, or DejaVu where that lacks a letter; the text, what both lack as \\uXXXX)."""
    font: Font = ImageFont.load_default(size)
    if not all(_has(font, letter) for letter in text):
        font = _dejavu(size)
    shown = (c if _has(font, c) else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return font, "".join(shown)


@cache
def _dejavu(size: int) -> Font:
    """Found without loading matplotlib; Pillow's font where a distribution has taken it out."""
    found = find_spec("matplotlib")
    folders = (found and found.submodule_search_locations) or []
    path = next((path for folder in folders if (path := Path(folder, DEJAVU)).is_file()), None)
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def _has(font: Font, letter: str) -> bool:
    if letter.isascii():
        return letter.isprintable()
    return letter.isprintable() and bytes(font.getmask(letter)) != bytes(font.getmask(NO_LETTER))


def _fitted(text: str, font: Font, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
