"""The report as a reader uses it, in a headless Chromium: the table of cases sorts, filters and pages."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from bts.scoring import metrics
from tests.browser import Browser
from tests.unit.report.test_page import PNG, html_of, scored

pytestmark = pytest.mark.slow

CASES = 250


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """At a report of 250 cases: case 7 is flagged, and case 9 alone has an HD95."""
    cases = [scored(f"case-{n}", (n * 37 % CASES) / CASES) for n in range(CASES)]
    cases[7] = replace(cases[7], flags=["empty: no tumour found"])
    cases[9].scores["WT"]["hd95"] = 12.5
    folder = tmp_path_factory.mktemp("report")
    (folder / "index.html").write_text(html_of(scored=cases), "utf-8")
    with Browser(tmp_path_factory.mktemp("chromium")) as found:
        found.open((folder / "index.html").as_uri())
        found.wait("document.getElementById('tools')?.hidden === false")
        yield found


def column(browser: Browser, place: int) -> list[str]:
    return browser.run(
        f"[...document.querySelectorAll('#cases tbody tr')].map(r => r.cells[{place}].textContent)"
    )


def click(browser: Browser, heading: str) -> None:
    browser.run(
        f"[...document.querySelectorAll('#cases th button')].find(b => b.textContent === '{heading}').click()"
    )


def find(browser: Browser, words: str, *, flagged: bool = False) -> list[str]:
    """The cases that stay."""
    browser.run(f"document.getElementById('find').value = '{words}'")
    browser.run(f"document.getElementById('flagged').checked = {str(flagged).lower()}")
    browser.run("document.getElementById('find').dispatchEvent(new Event('input'))")
    return column(browser, 0)


def test_a_hundred_rows_at_a_time(browser):
    assert find(browser, "")[0] == "case-0" and len(column(browser, 0)) == 100
    for rows in (200, 250):
        browser.run("document.getElementById('more').click()")
        assert len(column(browser, 0)) == rows
    assert browser.run("document.getElementById('more').hidden")
    assert len(find(browser, "")) == 100
    browser("Page.printToPDF")
    assert len(column(browser, 0)) == 250, "paper has them all"


def test_words_and_flags_choose(browser):
    assert set(find(browser, "CASE-24")) == {"case-24", *(f"case-24{n}" for n in range(10))}
    assert find(browser, "case empty") == ["case-7"] == find(browser, "", flagged=True)
    assert find(browser, "nothing like it") == []
    assert browser.run("document.getElementById('count').textContent") == "0 of 250 cases"


def test_words_and_order_hold_on_the_way_back_from_a_case(browser):
    find(browser, "case-24")
    click(browser, "Case")
    click(browser, "Case")
    shown = column(browser, 0)
    assert shown[0] == "case-249" and shown[-1] == "case-24"
    browser.open("about:blank")
    browser.wait("location.href === 'about:blank'")
    visited = browser("Page.getNavigationHistory")
    browser("Page.navigateToHistoryEntry", entryId=visited["entries"][visited["currentIndex"] - 1]["id"])
    browser.wait("document.getElementById('find')?.value === 'case-24'")
    browser.wait("document.querySelector('#cases tbody th')?.textContent === 'case-249'", seconds=5)
    assert column(browser, 0) == shown


def test_headings_sort_by_number_or_name(browser):
    find(browser, "")
    click(browser, "Mean Dice")
    values = [float(text) for text in column(browser, 5)]
    assert values == sorted(values) and values[0] == 0
    click(browser, "Mean Dice")
    assert column(browser, 5)[0] == f"{(CASES - 1) / CASES:.3f}"
    click(browser, "Case")
    assert column(browser, 0)[:3] == ["case-0", "case-1", "case-2"]
    click(browser, "HD95 WT, mm")
    assert column(browser, 6)[:2] == ["12.5", "–"], "what is not known comes last"


def test_nothing_is_loaded_and_nothing_complains(browser):
    assert browser.errors == []
    assert all(url.startswith(("file:", "data:")) for url in browser.requests)
    assert browser.run("document.querySelector('#cases a').getAttribute('href')").startswith("cases/case-")


@pytest.mark.parametrize(("width", "medium"), [(390, "screen"), (1160, "screen"), (718, "print")])
def test_narrow_screens_and_paper_hold_the_page(tmp_path, browser, width, medium):
    """Paper, 718 pixels wide (A4), scrolls no table, a laptop not that of cases; paper shows colours."""
    cases = [replace(scored(f"BraTS2021_{n:05}", n / 9), flags=["edge: touches the edge"]) for n in range(9)]
    for one in cases:
        for of in one.scores.values():
            of |= dict.fromkeys((*metrics.DISTANCES, *metrics.LESIONS), 123.456)
    (tmp_path / "index.html").write_text(html_of(scored=cases, worst=[(cases[0], PNG)]), "utf-8")
    with resized(browser, width, medium):
        browser.open((tmp_path / "index.html").as_uri())
        browser.wait(f"location.href.startsWith('{tmp_path.as_uri()}') && document.readyState === 'complete'")
        assert browser.run("document.documentElement.scrollWidth") == width
        if width > 390:
            tables = f"[...document.querySelectorAll('{'table' if medium == 'print' else '#cases'}')]"
            fits = "one.offsetWidth <= one.parentElement.clientWidth"
            assert browser.run(f"{tables}.length > 0 && {tables}.every(one => {fits})")
        if medium == "print":
            swatch = "getComputedStyle(document.querySelector('.legend i'))"
            assert browser.run(f"{swatch}.printColorAdjust") == "exact"


@contextmanager
def resized(browser: Browser, width: int, medium: str):
    """The page so wide, on a screen or on paper; afterwards as before."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser("Emulation.setDeviceMetricsOverride", **size)
    browser("Emulation.setEmulatedMedia", media=medium)
    yield
    browser("Emulation.clearDeviceMetricsOverride")
    browser("Emulation.setEmulatedMedia", media="")
