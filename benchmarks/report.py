"""How large is a report, and how soon is it open? `python -m benchmarks.report [CASES …]`, in Chromium.

Made-up scores, pictures of phantoms. Seconds from the click to the first sight of the whole page, and of a
search in the table of cases.
"""

import argparse
import base64
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.colours import LABEL_COLOURS
from bts.phantom.case import write_case
from bts.report import page, rotation, slices
from bts.report.page import Contents, Picture
from bts.scoring import metrics
from bts.scoring.scores import Scored
from bts.storage import Store
from tests.browser import Browser

SEEN = """new Promise((seen) => {
  const end = () => requestAnimationFrame(() => setTimeout(() => seen(performance.now()), 0));
  document.readyState === "complete" ? end() : addEventListener("load", end); })"""
SEARCH = """(() => { const before = performance.now(); find.value = "9"; show(); document.body.offsetHeight;
  return performance.now() - before; })()"""


def make_scores(count: int) -> list[Scored]:
    """Of a model that does well on large tumours."""
    rng, found = np.random.default_rng(0), []
    for n in range(count):
        truth = {region: float(rng.lognormal(mean, 1)) for region, mean in (("WT", 4), ("TC", 3), ("ET", 2))}
        scores = {}
        for region, ml in truth.items():
            dice = float(np.clip(1 - rng.exponential(0.5 / (1 + ml**0.4)), 0, 1))
            scores[region] = dict.fromkeys((*metrics.METRICS, *metrics.DISTANCES, *metrics.LESIONS), dice)
            scores[region] |= {"hd95": float(rng.lognormal(1.5, 0.8)) if dice else 374.0}
        group, flags = "HGG" if n % 3 else "LGG", ["edge: the tumour touches the edge"] if n % 20 == 0 else []
        found.append(Scored(f"case-{n:05}", group, "brats2021", scores, "", "0123456789ab", flags, truth))
    return found


def make_report(count: int) -> str:
    """A report of so many cases, with as many and as large pictures as jobs.evaluate makes."""
    scored = make_scores(count)
    with tempfile.TemporaryDirectory() as place:
        store = Store(place)
        for key, data in write_case(0, 3).items():
            store.put(key, data)
        (case,) = find_cases(store.list()).cases
        volume = load_case(case, store)
    truth, flair = volume.mask, volume.images[volume.modalities.index("flair")]
    z = slices.fullest_slice(truth, truth)
    seen = truth[z], np.roll(truth[z], 2), {"flair": flair[z], "t1ce": flair[z]}, volume.grid.zooms[1:]
    gif, panels = rotation.draw(volume, truth, truth, LABEL_COLOURS), slices.draw(*seen)
    texts = {"title": "Segmentation scores", "when": "now", "labelmaps": "l", "cases": "c"}
    nothing = {"failed": [], "without_labelmap": [], "without_truth": []}
    shown = [Picture(title, one, z, panels, gif) for title, one in page.choose(scored).items()]
    worst = [(one, slices.draw_pair(*seen)) for one in page.worst(scored)]
    return page.render(Contents(**texts, **nothing, scored=scored, pictures=shown, worst=worst))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", type=int, default=[300, 5000])
    parser.add_argument("--picture", type=Path, help="also a PNG of the whole page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, Browser(Path(place, "chromium")) as browser:
        for count in given.cases:
            started = time.perf_counter()
            file = Path(place, f"{count}.html")
            file.write_text(make_report(count), "utf-8")
            made, size = time.perf_counter() - started, file.stat().st_size / 1e6
            browser.open(file.as_uri())
            browser.wait(f"location.pathname.endsWith('/{count}.html')")
            seen, found = browser.run(SEEN) / 1000, browser.run(SEARCH) / 1000
            times = f"made in {made:.1f} s, open in {seen:.2f} s, a search {found:.3f} s"
            print(f"{count:6} cases: {size:5.1f} MB, {times}", flush=True)
        if given.picture:
            shot = browser("Page.captureScreenshot", format="png", captureBeyondViewport=True)
            Image.open(io.BytesIO(base64.b64decode(shot["data"]))).save(given.picture)


if __name__ == "__main__":
    main()
