"""Bad inputs through the jobs: each is in the list of failures once, all else is done; no name is code."""

import csv
import io
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
from markupsafe import escape

from bts.cases.layouts import find_cases
from bts.scoring import tables
from bts.storage import Store
from jobs import evaluate, preprocess, segment
from jobs.driver.outcome import Outcome
from tests import builders
from tests.faults import inputs

pytestmark = pytest.mark.slow

NAMES = (
    "empty file", "an error page", "gzip cut short", "gzip checksum wrong", "text after the gzip stream",
    "NIfTI-2 header cut short", "bomb behind a sound image", "bomb that its header admits", "claims 100 GB",
    "claims 4 GB", "4D", "RGB", "affine with NaN", "quaternion longer than one", "a voxel not a number",
    "a voxel beyond float32", "all zero", "no t1ce", "another origin", "truth at another place", "label 5",
    "half a label", "truth cut short", "labels of no known convention", "in two folders", "a modality twice",
    "control character", "newline", "a name that is no text", "MSD of three channels", "empty slice",
    "tumour type not a number", "image from /etc/passwd", "patient number that climbs", "one number twice",
)  # fmt: skip
GOOD = ("BraTS-GLI-00501-000", "BraTS-GLI-00502-000")
SLICE = "figshare-N1"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[str, dict[str, inputs.Bad]]:
    """(folder of two good cases, a good slice and the bad ones; the bad ones by their ids)."""
    folder, bad = tmp_path_factory.mktemp("inputs"), {}
    for n, case in enumerate(GOOD, 501):
        inputs.write(folder, builders.case_files(case, seed=n))
    inputs.write(folder, {"999.mat": inputs.slice_file("N1")})
    for n, name in enumerate(NAMES, 1):
        case, files = inputs.BAD[name].make(n)
        bad[case] = inputs.BAD[name]
        inputs.write(folder, files)
    return str(folder), bad


@pytest.fixture(scope="module")
def segmented(ray_local, made, model, tmp_path_factory) -> tuple[str, Outcome]:
    labelmaps = str(tmp_path_factory.mktemp("labelmaps"))
    return labelmaps, segment.main(segment.Settings(made[0], labelmaps, (model,)))


def by_id(failed: list[dict], bad: dict[str, inputs.Bad]) -> dict[str, dict]:
    """The failures by the ids of the bad cases; an id that garbles a terminal is quoted in them."""
    plain = {repr(case): case for case in bad}
    ids = [plain.get(failure.case_id, failure.case_id) for failure in failed]
    assert len(ids) == len(set(ids)), sorted(ids)
    return dict(zip(ids, failed, strict=True))


def check_failures(failed: list[dict], due: dict[str, inputs.Bad]) -> None:
    """Each bad case is there once, with its stage and message; nothing else is."""
    found = by_id(failed, due)
    assert sorted(found) == sorted(due)
    assert [words for case, bad in due.items() for words in bad.complaints(found[case], case)] == []


def is_slice(bad: inputs.Bad) -> bool:
    return bad in inputs.BAD_SLICES.values()


def names_of(uri: str, suffix: str) -> list[str]:
    """Cases that have a result at the top of a folder."""
    keys = [entry.key for entry in Store(uri).list()]
    return sorted(key.split(".")[0] for key in keys if key.endswith(suffix) and "/" not in key)


def test_preprocess(ray_local, made, tmp_path):
    folder, bad = made
    done = preprocess.main(preprocess.Settings(folder, str(tmp_path)))
    check_failures(done.failed, bad)
    assert done.exit_code == 3
    assert done.counts["written"] == len(GOOD) + 1 and done.counts["cases"] == len(GOOD) + 1 + len(bad)
    assert names_of(str(tmp_path), ".parquet") == sorted((*GOOD, SLICE))
    again = preprocess.main(preprocess.Settings(folder, str(tmp_path)))
    check_failures(again.failed, bad)
    assert (again.exit_code, again.counts["written"], again.counts["unchanged"]) == (3, 0, len(GOOD) + 1)


def test_segment(made, segmented):
    """Truths are not looked at, and slices are not for this model."""
    labelmaps, done = segmented
    bad = {case: row for case, row in made[1].items() if not is_slice(row)}
    check_failures(done.failed, {case: row for case, row in bad.items() if not row.truth})
    truths = [case for case, row in bad.items() if row.truth]
    assert done.exit_code == 3 and done.counts["unfit"] >= 1
    assert names_of(labelmaps, ".nii.gz") == sorted((*GOOD, *truths))
    assert len(Store(labelmaps).list("_done")) == done.counts["written"] == len(GOOD) + len(truths)


def test_evaluate(made, segmented, tmp_path):
    """What has no labelmap is not scored; a truth that is bad is found here, by the labelmap's grid if not
    before.
    """
    folder, bad = made
    listed = [problem.case for problem in find_cases(Store(folder).list()).problems]
    done = evaluate.main(evaluate.Settings(labelmaps=segmented[0], cases=folder, report=str(tmp_path)))
    found = by_id(done.failed, bad)
    due = [case for case in bad if {case, repr(case)} & set(listed)]
    due += [case for case, row in bad.items() if is_slice(row) or row.truth]
    assert sorted(found) == sorted(due)
    assert done.exit_code == 3 and done.counts["scored"] == len(GOOD)
    stages = {case: failure.stage for case, failure in found.items() if bad[case].truth}
    assert set(stages.values()) <= {"read", "grid", "labels"}, stages
    page = Store(tmp_path).read("index.html").decode()
    assert all(str(escape(failure.case_id)) in page for failure in found.values())


def test_a_folder_whose_name_is_no_text_stops_nobody(ray_local, tmp_path):
    """Bytes of another alphabet: Python keeps them as lone surrogates, which Arrow does not take."""
    folder, shards = tmp_path / "cases", tmp_path / "shards"
    inputs.write(folder, {**inputs.neighbours(), "caf\udce9/7.mat": inputs.slice_file("N7")})
    done = preprocess.main(preprocess.Settings(str(folder), str(shards)))
    written = names_of(str(shards), ".parquet")
    assert set(inputs.NEIGHBOURS) <= set(written)
    assert len(written) + len(done.failed) == 3


IDS = (
    "<script>alert(1)<", "<img src=x onerror=alert(2)>", '" onload="alert(3)', "' onload='alert(4)", "]]><u>",
    "=cmd()", "+1+1", "-2", "@SUM(A1)", "a,b;c", 'say "no"', "{{ 7 * 7 }}", "{% raw %}", "&lt;u&gt;",
    "Frau Müller 脳", "%41%0a", "a' OR 1=1 --",
)  # fmt: skip
FAILS, NOBODY = "<u>fails", "<s>nobody"


class Page(HTMLParser):
    """What a browser would make of the page: its elements, their attributes, its text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def check_harmless(page: Page, html: str) -> None:
    assert not page.tags & {"iframe", "object", "embed", "link", "base", "form", "u", "s"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value for name, value in page.attributes if name == "src"]
    assert sources and all(value.startswith("data:image/") for value in sources)
    assert "<img src=x" not in html and f"{FAILS}<" not in html and f"{NOBODY}<" not in html


def test_names_are_text_in_page_and_tables(ray_local, tmp_path):
    cases, labelmaps, report = (Store(tmp_path / name) for name in ("cases", "labelmaps", "report"))
    _, labels = builders.voxels()
    truth, other = builders.nifti(labels), builders.nifti(np.roll(labels, 1, 0))
    for n, case in enumerate(IDS):
        cases.put(f"{case}_seg.nii.gz", truth)
        labelmaps.put(f"{case}.nii.gz", other if n < 3 else truth)  # the worst is drawn, and has a bad name
    cases.put(f"{FAILS}_seg.nii.gz", truth)
    labelmaps.put(f"{FAILS}.nii.gz", b"")
    labelmaps.put(f"{NOBODY}.nii.gz", truth)
    settings = evaluate.Settings(
        labelmaps=labelmaps.uri, cases=cases.uri, report=report.uri, labels="brats2023"
    )
    done = evaluate.main(settings)
    assert (done.exit_code, done.counts["scored"], len(done.failed)) == (3, len(IDS), 1)

    html = report.read("index.html").decode()
    page = Page(html)
    assert all(name in page.text for name in (*IDS, FAILS, NOBODY))
    assert html.count("<script") == 1, "the page's own"
    check_harmless(page, html)
    links = [unquote(value) for name, value in page.attributes if name == "href"]
    assert set(links) == {f"cases/{case}.html" for case in IDS} == {e.key for e in report.list("cases")}
    for case in IDS:
        own = report.read(f"cases/{case}.html").decode()
        assert case in Page(own).text and "<script" not in own
        check_harmless(Page(own), own)

    rows = pq.read_table(io.BytesIO(report.read("scores.parquet"))).to_pylist()
    assert {row["case_id"] for row in rows} == set(IDS)
    table = list(csv.DictReader(io.StringIO(report.read("scores.csv").decode())))
    assert [row["case_id"] for row in table] == [tables.plain(row["case_id"]) for row in rows]
    cells = {cell for row in table for name, cell in row.items() if name != "value"}
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert {"'=cmd()", "'+1+1", "'-2", "'@SUM(A1)"} <= cells
