"""The HTML page and its pictures, as a browser and a reader see them."""

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bts.colours import LABEL_COLOURS, colours_of
from bts.errors import Failure
from bts.labels import REGIONS
from bts.report import charts, page, slices
from bts.report.page import Contents, Picture
from bts.scoring import metrics, scores
from bts.scoring.scores import Scored
from bts.scoring.statistics import compare

PNG = b"\x89PNG"
EVIL = '<script>alert("x")</script>&'


def scored(case_id: str, dice: float, **more: float) -> Scored:
    scores = {region: dict.fromkeys(metrics.METRICS, dice) for region in REGIONS}
    scores |= {region: dict.fromkeys(metrics.METRICS, value) for region, value in more.items()}
    return Scored(case_id, "", "brats2021", scores)


def html_of(**contents) -> str:
    nothing = {"scored": [], "failed": [], "without_labelmap": [], "without_truth": [], "pictures": []}
    texts = {"title": "Scores", "when": "today", "labelmaps": "s3://b/l", "cases": "s3://b/c"}
    return page.render(Contents(**{**texts, **nothing, **contents}))


def tumour() -> np.ndarray:
    """(D, H, W) labels with most tumour at z 2."""
    labels = np.zeros((4, 20, 30), np.uint8)
    labels[1:3, 5:10, 5:10] = 2
    labels[2, 6:9, 10:14] = 3
    return labels


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


class Tags(HTMLParser):
    """Every start tag with its attributes; whether they nest."""

    def __init__(self, html: str):
        super().__init__()
        self.found, self.open = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def runs_its_own_script_alone(html: str) -> bool:
    """One script, and the page's policy lets a browser run no other."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
    tags = [attrs for tag, attrs in Tags(html).found if tag == "script"]
    return tags == [{}] and len(scripts) == 1 and f"{policy}'sha256-{digest}'" in html


def test_page_is_whole_and_loads_nothing():
    one = scored("A", 0.5)
    picture = Picture("Only case", one, 2, slices.draw(tumour()[2], tumour()[2], {}, (1, 1)))
    html = html_of(scored=[one], pictures=[picture])
    tags = Tags(html)
    assert tags.open == []
    assert not {tag for tag, _ in tags.found} & {"link", "iframe", "object"}
    assert runs_its_own_script_alone(html)
    sources = [attrs["src"] for tag, attrs in tags.found if tag == "img"]
    assert len(sources) == 2 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert base64.b64decode(sources[0].split(",")[1]) == picture.panels["Ground truth"]
    assert not re.search(r"https?://|url\(|@import", html)


def test_everything_from_outside_is_escaped():
    one = Scored(EVIL, EVIL, EVIL, scored("", 1).scores)
    failure = Failure(case_id=EVIL, stage=EVIL, file=EVIL, error=EVIL, mend=EVIL)
    drawn = Picture(EVIL, one, 0, {EVIL: PNG}, PNG)
    names = {
        "without_labelmap": [EVIL],
        "without_truth": [EVIL],
        "labelmaps": EVIL,
        "cases": EVIL,
        "title": EVIL,
    }
    worst = [(one, PNG)]
    html = html_of(scored=[one], failed=[failure], pictures=[drawn], worst=worst, when=EVIL, **names)
    assert runs_its_own_script_alone(html)
    assert html.count("&lt;script&gt;") >= 20 and "cases/%3Cscript%3E" in html


def test_cases_are_sorted_by_mean_dice_and_the_failed_are_named():
    failure = Failure(case_id="D", stage="grid", file="D.nii.gz", error="is askew", mend="straighten it")
    html = html_of(scored=[scored("A", 0.5), scored("B", 0.125), scored("C", 1.0)], failed=[failure])
    table = html[html.index("All cases") :]
    assert table.index(">B<") < table.index(">A<") < table.index(">C<")
    assert "0.125" in table and "--v: 12.5%" in table and 'href="cases/B.html"' in table
    assert all(text in html for text in (">D<", ">grid<", "is askew", "straighten it", "D.nii.gz"))


def test_every_row_of_a_table_is_headed_by_what_it_is_of():
    """Screen readers say it before each cell: the case, not its mean Dice."""
    failure = Failure(case_id="D", stage="grid", file="D.nii.gz", error="is askew", mend="straighten it")
    html = html_of(scored=[scored("A", 0.5)], failed=[failure])
    rows = re.findall(r"<tr[^>]*>(<t.*?)</tr>", html[html.index("<tbody>") :], re.DOTALL)
    rows = [row for row in rows if "<td" in row]
    assert all(row.startswith('<th scope="row"') and row.count("<th") == 1 for row in rows)
    assert len(rows) == 3 + 1 + 1 + 1, "regions, the failed case, the scored one, what made them"


def test_summary():
    some = [scored("A", 0.5), scored("B", 0.7), scored("C", 0.9, RC=0.25)]
    html = html_of(scored=some)
    assert "0.700 ± 0.200" in html and "resection cavity" in html
    assert "0.250 ± –" in html, "one case has no deviation"
    assert "resection cavity" not in html_of(scored=some[:2])


def test_a_reader_who_has_never_seen_a_report_finds_every_word():
    two = [scored("A", 0.5, NETC=0.3, SNFH=0.4), scored("B", 0.7)]
    html = html_of(scored=two)
    said = (
        "WT whole tumour, TC tumour core, ET enhancing tumour, NETC non-enhancing tumour core, SNFH surround"
    )
    assert said in " ".join(html.split()) and "(field colours)" not in html
    assert "<figcaption>Dice by region: a point is a case, the box holds" in html
    one = scored("A", 0.5)
    drawn = Picture("Only case", one, 2, {"Prediction": PNG})
    target = Scored("B", "", "brats2024-men-rt", {"GTV": one.scores["WT"]})
    of_target = Picture("Only case", target, 2, {"Prediction": PNG})
    for picture in (drawn, of_target):
        html = " ".join(html_of(scored=[picture.scored], pictures=[picture]).split())
        assert "axial slice 2 (counted from 0), the one with most tumour; R is the patient’s right" in html
    assert "GTV gross tumour volume" in html


def test_a_metric_of_fewer_cases_has_an_n_of_its_own():
    """Of one case of two years' rules: nsd05 is of 2024."""
    some = [scored("A", 0.5), scored("B", 0.7)]
    for one in some:
        one.scores["WT"] |= {"hd95": 3.0}
    assert "<small>n" not in html_of(scored=some)
    some[0].scores["WT"]["nsd05"] = 0.9
    assert html_of(scored=some).count("<small>n 1</small>") == 1


def test_the_farthest_point_is_on_the_chart(monkeypatch):
    """Before radiotherapy a missed tumour counts the diagonal of the grid: 745 of 512 × 512 × 176 voxels."""
    monkeypatch.setattr(charts, "_svg", lambda figure: figure.axes[0].get_ylim())
    for farthest in (3.0, 374.0, 745.0):
        drawn = charts.draw_spread({"GTV": np.array([1.0, farthest])}, "HD95, mm", share=False)
        assert drawn[1] == pytest.approx(1.2 * max(374, farthest))


def test_groups_are_compared_where_there_are_two():
    def tumour(group: str, dice: float) -> Scored:
        return Scored(f"{group} {dice}", group, "figshare", {"tumour": dict.fromkeys(metrics.METRICS, dice)})

    one, two = [tumour("glioma", 0.5), tumour("glioma", 0.7)], [tumour("pituitary", 0.25)]
    html = html_of(scored=one + two)
    assert "0.600 ± 0.141" in html and "n 2" in html and "By tumour" not in html_of(scored=one)
    assert [name for name, _ in page.legend_of(one)] == ["tumour"]
    assert "Cases by group" in page.draw_charts(one + two)


def test_the_interval_is_shown_from_six_cases_on():
    six = [scored(f"C{n}", dice) for n, dice in enumerate((0.9, 0.2, 1.0, 0.3, 0.95, 0.1))]
    low, high = scores.interval(six, "WT", "dice")
    html = html_of(scored=six)
    assert f"95 % {low:.3f} to {high:.3f}" in html, "the page"
    assert f"{low:.4f}–{high:.4f}" in scores.table(six), "and the terminal say the same"
    assert "<small>95 %" not in html_of(scored=six[1:])


def test_datasets_are_compared_where_there_are_two():
    two = [scored("A", 0.5), Scored("B", "", "msd", scored("B", 0.7).scores)]
    assert "By dataset" in html_of(scored=two) and "By dataset" not in html_of(scored=two[:1])


def test_comparisons_and_ranking():
    of = compare(np.linspace(0.5, 0.9, 8), np.linspace(0.4, 0.8, 8))
    found = {EVIL: {("WT", "dice"): of, ("WT", "iou"): of}}
    html = html_of(scored=[scored("A", 0.5)], comparisons=found, ranking={"ours": 1.25, EVIL: 1.75})
    assert Tags(html).open == [] and runs_its_own_script_alone(html)
    assert "+0.100" in html and "8 / 0" in html and "0.0078" in html and ">1.25<" in html
    assert html.count("+0.100 to +0.100") == 1, "Dice alone of the two; all are in comparison.csv"
    assert "Against" not in html_of(scored=[scored("A", 0.5)])


@pytest.mark.slow
def test_charts_of_many_cases():
    """As SVG, whose points are one picture: as large for two thousand cases as for two hundred."""
    rng, sizes = np.random.default_rng(0), {}
    for count in (1, 200, 2000):
        some = [scored(f"C{n}", value) for n, value in enumerate(rng.uniform(0, 1, count))]
        some = [replace(one, truth_ml={"WT": 30 * n + 1.0, "ET": 0.0}) for n, one in enumerate(some)]
        for one in some:
            one.scores["WT"]["hd95"] = 374.0
        charts = page.draw_charts(some)
        sizes[count] = {caption: len(svg) for caption, svg in charts.items()}
        assert charts == page.draw_charts(some), "equal scores, equal bytes"
    assert sizes[1] == {} and list(sizes[200]) == [
        "Dice by region",
        "HD95, mm by region",
        "Dice against volume",
    ]
    assert all(sizes[2000][caption] < 3 * size for caption, size in sizes[200].items())


def test_flags_and_makers_are_told():
    one = replace(scored("A", 0.5), flags=["empty: no tumour found", EVIL], maker="0123456789ab flips")
    html = html_of(scored=[one, scored("B", 0.25)])
    assert "empty: no tumour found; &lt;script" in html and "flagged alone" in html
    assert html.count("data-flagged") == 1 and "0123456789ab flips" in html and "another tool" in html
    assert "Flags" not in html_of(scored=[scored("B", 0.25)])


def test_the_worst_cases_are_shown_small():
    many = [scored(f"C{n:02}", n / 20) for n in range(20)]
    assert [one.case_id for one in page.worst(many)] == [f"C{n:02}" for n in range(page.WORST)]
    html = html_of(scored=many, worst=[(many[0], PNG)])
    assert "Worst cases" in html and html.count('<a href="cases/C00.html">') == 2


def test_page_of_nothing():
    assert ">0</b>cases scored" in html_of()


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ([], {}),
        ([0.3], {"Only case": 0.3}),
        ([0.3, 0.6], {"Best case": 0.6, "Worst case": 0.3}),
        ([0.9, 0.1, 0.4], {"Best case": 0.9, "Median case": 0.4, "Worst case": 0.1}),
        ([0.9, 0.1, 0.4, 0.7], {"Best case": 0.9, "Median case": 0.4, "Worst case": 0.1}),
    ],
)
def test_choose(dice, expected):
    chosen = page.choose([scored(f"C{i}", value) for i, value in enumerate(dice)])
    assert {title: metrics.mean_dice(one.scores) for title, one in chosen.items()} == pytest.approx(expected)


def test_of_equal_cases_the_worst_is_the_first_of_the_worst():
    equal = [scored(f"C{n}", value) for n, value in enumerate((1.0, 0.0, 0.0, 1.0))]
    assert page.choose(equal)["Worst case"] == page.worst(equal)[0] == equal[1]


def test_fullest_slice():
    labels = tumour()
    assert slices.fullest_slice(labels, np.zeros_like(labels)) == 2
    assert slices.fullest_slice(np.zeros_like(labels), np.roll(labels, 1, axis=0)) == 3


def test_every_plane_stands_upright():
    """A block high up, at the patient's left, in front."""
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[15:18, 3:6, 32:36] = 2
    flair = np.random.default_rng(0).integers(1, 100, labels.shape, np.int16)
    planes = slices.draw_planes(labels, labels * 0, {"flair": flair}, (2.0, 1.0, 1.0))
    places = {plane: at for plane, (at, _) in planes.items()}
    assert places == {"axial": 15, "coronal": 3, "sagittal": 32}
    for plane, (across, down), aspect in (
        ("axial", (34 / 40, 4.5 / 30), 30 / 40),
        ("coronal", (34 / 40, 3.5 / 20), 40 / 40),
        ("sagittal", (4.5 / 30, 3.5 / 20), 40 / 30),
    ):
        truth = pixels(planes[plane][1]["Ground truth"])
        high, wide, _ = truth.shape
        assert high / wide == pytest.approx(aspect, rel=0.02), plane
        green = (truth[..., 1] - truth[..., 0]) > 40
        row, column = (np.flatnonzero(green.any(axis=axis)).mean() for axis in (1, 0))
        assert (column / wide, row / high) == pytest.approx((across, down), abs=0.03), plane
    assert list(slices.draw_planes(labels, labels, {}, (1.0,) * 3, placed=False)) == ["slice"]


def test_truth_beside_prediction():
    labels = tumour()[2]
    both = pixels(slices.draw_pair(labels, labels * 0, {}, (1, 1)))
    assert both.shape == (slices.THUMB_PX, 2 * slices.THUMB_PX + 2, 3)
    coloured = np.ptp(both, axis=2) > 60
    assert coloured[:, : slices.THUMB_PX].any() and not coloured[:, slices.THUMB_PX + 10 :].any()


def test_colours_for_colour_blind_readers():
    assert colours_of("brats2021") == LABEL_COLOURS
    safe = colours_of("brats2021", "colour-blind")
    assert [name for name, _ in safe.values()] == [name for name, _ in LABEL_COLOURS.values()]
    assert not {of for _, of in safe.values()} & {of for _, of in LABEL_COLOURS.values()}
    assert colours_of("figshare", "colour-blind") == colours_of("figshare")


def test_panels_over_images():
    labels, ramp = tumour()[2], np.arange(1, 161, dtype=np.int16).reshape(10, 16)
    brain = np.pad(ramp, ((5, 5), (0, 14)))
    panels = slices.draw(labels, labels * 0, {"t1ce": brain[::-1], "flair": brain}, (1, 1))
    assert list(panels) == ["FLAIR", "T1ce", "Ground truth", "Prediction"]
    flair, t1ce, truth, prediction = (pixels(png) for png in panels.values())
    assert flair.shape[:2] == (round(18 / 20 * slices.PICTURE_PX), slices.PICTURE_PX), "cut to the brain"
    assert np.array_equal(prediction, flair) and not np.array_equal(truth, flair)
    assert flair[300, 200, 0] > flair[120, 200, 0] and t1ce[300, 200, 0] < t1ce[120, 200, 0]


def test_labels_keep_their_colours_and_sides():
    panels = slices.draw(tumour()[2], np.zeros((20, 30), np.uint8), {}, (1, 1))
    assert list(panels) == ["Ground truth", "Prediction"]
    truth, scale = pixels(panels["Ground truth"]), slices.PICTURE_PX / 30
    assert truth.shape == (round(20 * scale), slices.PICTURE_PX, 3)
    for label, (row, column) in {2: (7, 7), 3: (7.5, 12), 0: (2, 28)}.items():
        colour = LABEL_COLOURS[label][1] if label else (0, 0, 0)
        assert tuple(truth[int(row * scale), int(column * scale)]) == colour
    # Nothing but the letters R and L, in white, where nothing is predicted.
    empty = pixels(panels["Prediction"])
    assert np.ptp(empty, axis=2).max() == 0 and empty[:, 40:-40].max() == 0
    assert empty[:, :40].max() == 255 and empty[:, -40:].max() == 255


def test_pixels_have_their_size_in_mm():
    panels = slices.draw(tumour()[2], tumour()[2], {}, (3.0, 1.0))
    high, wide, _ = pixels(panels["Ground truth"]).shape
    assert high / wide == pytest.approx(60 / 30, rel=0.01)


def test_constant_and_empty_images_are_drawn():
    images = {"flair": np.zeros((20, 30), np.float32), "t1ce": np.full((20, 30), -3.0, np.float32)}
    assert len(slices.draw(tumour()[2], tumour()[0], images, (1, 1))) == 4
