"""The viewer's page as a reader sees it, in a headless Chromium: the colours lie where the truth does."""

import threading

import numpy as np
import pytest

from bts.cases.layouts import find_cases
from bts.colours import LABEL_COLOURS
from bts.phantom.case import case_id, make_case, to_nifti, write_case
from bts.report.viewer import CaseIndex, Server
from bts.storage import Store
from tests.browser import Browser

pytestmark = pytest.mark.slow

SIZE = (72, 88, 64)  # x, y, z
INDEX = 3  # of a phantom with one tumour, at the patient's side
CASE, ALONE, BAD, HALF = (case_id(INDEX + n) for n in range(4))
TRUTH = make_case(0, INDEX, SIZE)[1]
Z = int(TRUTH.astype(bool).sum(axis=(1, 2)).argmax())
STEP = 3  # slices


@pytest.fixture(scope="module")
def url(niivue, tmp_path_factory):
    """Of a viewer with a case whose prediction is its truth moved to the back, one without a labelmap, and
    two with broken files: all of its images, and T1ce alone."""
    root = tmp_path_factory.mktemp("viewer")
    cases, labelmaps = Store(str(root / "cases")), Store(str(root / "labelmaps"))
    for index in (INDEX, INDEX + 1):
        for key, data in write_case(0, index, SIZE).items():
            cases.put(key, data)
    for key, data in write_case(0, INDEX, SIZE).items():
        name = key.rpartition("/")[2].removeprefix(CASE)
        if "seg" not in name:
            cases.put(f"{BAD}/{BAD}{name}", b"\x1f\x8b rubbish")
            cases.put(f"{HALF}/{HALF}{name}", b"" if "t1c" in name else data)
    labelmaps.put(f"{CASE}.nii.gz", to_nifti(np.roll(TRUTH, 6, axis=1)))
    with Server(CaseIndex(find_cases(cases.list()).cases, cases, labelmaps, {})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.url
        server.shutdown()


@pytest.fixture(scope="module")
def page(url, tmp_path_factory):
    """The browser at the fullest slice of the truth, filled, without the prediction."""
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        browser.open(f"{url}?case={CASE}&modality=t1ce&truth=fill&prediction=off&slice={Z}")
        browser.wait(f"document.body?.dataset.shown === '{CASE}'")
        opaque(browser, "truth")
        picture = browser.screenshot()
        assert picture[:, picture.shape[1] // 2 :].std() > 20, "a blank picture"
        # The rendering takes most of the time where no GPU draws it.
        browser.run("nv.setCustomLayout(nv.getCustomLayout().slice(0, 3))")
        yield browser


def opaque(page: Browser, role: str) -> None:
    page.run(f"document.getElementById('{role}-opacity').value = 1")
    page.run(f"document.getElementById('{role}-opacity').oninput()")


def axial(page: Browser) -> np.ndarray:
    """The axial plane as it looks, (rows, columns, RGB)."""
    script = """(() => { const box = nv.canvas.getBoundingClientRect();
        const [left, top, wide, high] = nv.screenSlices.find((one) => one.axCorSag === 0).leftTopWidthHeight;
        return [left + box.left, top + box.top, wide, high].map(Math.round); })()"""
    left, top, wide, high = page.run(script)
    return page.screenshot()[top : top + high, left : left + wide]


def looks_like(pixels: np.ndarray, label: int) -> np.ndarray:
    """Where the picture has a label's own colour."""
    return np.abs(pixels - LABEL_COLOURS[label][1]).max(axis=-1) <= 6


def overlap(seen: np.ndarray, labels_HW: np.ndarray, label: int) -> float:
    """Dice of a label's colour in the picture with the label: rows run from front to back, columns from the
    patient's right to left, so the picture is radiological."""
    rows, columns = (np.arange(n) * of // n for n, of in zip(seen.shape, labels_HW.shape, strict=False))
    found, expected = looks_like(seen, label), labels_HW[np.ix_(rows, columns)] == label
    return 2 * np.count_nonzero(found & expected) / (found.sum() + expected.sum())


def pick(page: Browser, group: str, value: str) -> None:
    page.run(f"document.querySelector('#{group} [value={value}]').click()")


def test_colours_lie_where_the_truth_does_seen_from_below(page):
    seen = axial(page)
    high, wide = np.array(seen.shape[:2]) / TRUTH.shape[1:]
    assert high == pytest.approx(wide, rel=0.02), "voxels of 1 mm are squares"
    for label in (1, 2, 3):
        assert overlap(seen, TRUTH[Z], label) > 0.75, "but for the crosshair"
        assert overlap(seen, TRUTH[Z, :, ::-1], label) < 0.1, "left and right are told apart"


def test_outline_is_thinner_than_fill_and_off_is_off(page):
    counts = {}
    for way in ("outline", "off", "fill"):
        pick(page, "truth", way)
        opaque(page, "truth")
        counts[way] = sum(looks_like(axial(page), label).sum() for label in (1, 2, 3))
    assert 0 == counts["off"] < counts["outline"] < 0.8 * counts["fill"]


def test_the_prediction_lies_where_it_is(page):
    pick(page, "truth", "off")
    pick(page, "prediction", "fill")
    opaque(page, "prediction")
    assert overlap(axial(page), np.roll(TRUTH, 6, axis=1)[Z], 2) > 0.75
    pick(page, "prediction", "off")
    pick(page, "truth", "fill")


def test_slice_and_modality_change_the_picture_and_the_address(page):
    before = axial(page)
    for key, back in (("ArrowUp", "ArrowDown"), ("ArrowDown", "ArrowUp")):
        for _ in range(STEP):
            page.press(key)
        moved = Z + STEP if key == "ArrowUp" else Z - STEP
        page.wait(f"new URLSearchParams(location.search).get('slice') === '{moved}'")
        assert np.abs(axial(page) - before).mean() > 1
        for _ in range(STEP):
            page.press(back)
    assert np.abs(axial(page) - before).mean() < 0.1
    page.press("3")
    page.wait("new URLSearchParams(location.search).get('modality') === 't2'")
    assert np.abs(axial(page) - before).mean() > 1
    page.press("2")


def test_a_case_without_a_labelmap_says_so_and_shows_its_images(page):
    page.press("ArrowRight")
    page.wait(f"document.body?.dataset.shown === '{ALONE}'")
    assert (
        page.run("document.getElementById('said').textContent") == "no labelmap: images and ground truth only"
    )
    assert page.run("document.querySelector('#prediction button').disabled") is True
    assert axial(page).std() > 20
    page.press("ArrowLeft")
    page.wait(f"document.body?.dataset.shown === '{CASE}'")


def test_broken_files_are_said_and_no_other_case_is_seen_under_their_name(page):
    page.run(f"document.querySelector('#cases [value={BAD}]').click()")
    page.wait(f"document.body?.dataset.shown === '{BAD}'")
    said = page.run("document.getElementById('said').textContent")
    assert said.count("gzip stream") == 4 and BAD in said and "copy the file again" in said
    hidden = "[...document.querySelectorAll('canvas')].map((one) => getComputedStyle(one).visibility)"
    assert page.run(hidden) == ["hidden", "hidden"], "nothing of the case before"
    page.run(f"document.querySelector('#cases [value={HALF}]').click()")
    page.wait(f"document.body?.dataset.shown === '{HALF}'")
    assert page.run("new URLSearchParams(location.search).get('modality')") == "t1"
    assert page.run("document.querySelector('#modality [value=t1ce]').disabled") and axial(page).std() > 20
    page.errors[:] = [one for one in page.errors if "422" not in one]  # of the broken files


def test_cases_can_be_filtered(page):
    page.run("document.getElementById('filter').value = 'no labelmap: images and'")
    page.run("document.getElementById('filter').oninput()")
    assert page.run("[...document.querySelectorAll('#cases button')].map((one) => one.value)") == [ALONE]
    assert page.run("document.getElementById('count').textContent") == "1 of 4 cases"


def test_a_narrow_window_shows_the_planes_below_the_list(page):
    page("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    left, top, wide, high = page.run(
        "(({ left, top, width, height }) => [left, top, width, height])"
        "(document.getElementById('stage').getBoundingClientRect())"
    )
    assert (left, wide) == (0, 400) and top > 200 and high > 200
    assert page.run("document.documentElement.scrollWidth") == 400
    page("Emulation.clearDeviceMetricsOverride")


def test_no_error_and_no_request_beyond_this_machine(page, url):
    """The last one: after all that the others did."""
    assert page.errors == []
    assert page.requests and all(one.startswith((url, "data:", "blob:")) for one in page.requests)


def test_a_study_begins_with_the_series_on_whose_grid_it_is_shown(niivue, tmp_path):
    cases = Store(str(tmp_path / "cases"))
    for key, data in write_case(0, INDEX, SIZE).items():
        cases.put(key, data)
    index = CaseIndex(find_cases(cases.list()).cases, cases, Store(str(tmp_path / "none")), {})
    index.space = "t1ce"  # as jobs.view --scans --space has it
    with Server(index) as server, Browser(tmp_path / "chromium") as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(server.url)
        browser.wait(f"document.body?.dataset.shown === '{CASE}'")
        shown = browser.run("document.querySelector('#modality [aria-pressed=true]').textContent")
        assert shown == "T1ce" and browser.errors == []
        assert "the scanner's grid of T1ce" in browser.run("document.getElementById('facts').textContent")
        assert browser.run("document.getElementById('count').textContent") == "1 case"
        server.shutdown()
