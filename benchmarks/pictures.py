"""The pictures of the documents, of phantoms: `make demo`, then `python -m benchmarks.pictures demo-bucket`.

Writes docs/pictures: the report, a case's page, the viewer and the training's curves in MLflow as Chromium
shows them, and a rotating head. MLflow's are of MLFLOW_TRACKING_URI, or of mlflow.db in this folder.
"""

import base64
import io
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image

from benchmarks.table import ROOT
from bts.cases.layouts import find_cases
from bts.report.viewer import CaseIndex, Server
from bts.storage import Store
from bts.tracking import EXPERIMENT, Tracker
from jobs.view import read_dice
from tests.browser import Browser
from tests.servers import free_port, is_open

FOLDER = ROOT / "docs" / "pictures"
WIDTH = 1160  # pixels of a page
SEARCH, CLOSE = "input[role=searchbox]", "button[aria-label=Close]"  # of MLflow's page
CURVES = "^(loss|lr|samples_per_second)$"  # of all metrics, those of every epoch


def resize(browser: Browser, high: int) -> None:
    """Lay pages out as wide as the pictures are, and as many pixels high."""
    size = {"width": WIDTH, "height": high, "deviceScaleFactor": 1, "mobile": False}
    browser("Emulation.setDeviceMetricsOverride", **size)


def save(browser: Browser, name: str) -> None:
    shot = Image.open(io.BytesIO(base64.b64decode(browser("Page.captureScreenshot", format="png")["data"])))
    shot.convert("RGB").quantize(method=Image.Quantize.FASTOCTREE).save(FOLDER / name, optimize=True)


def shoot(browser: Browser, page: Path, name: str, high: int, heading: str) -> None:
    """A page from a heading on."""
    resize(browser, high)
    browser.open(page.resolve().as_uri())
    browser.wait(f"location.pathname.endsWith('{page.name}') && document.readyState === 'complete'")
    headings = "[...document.querySelectorAll('h1, h2')]"
    browser.run(f"{headings}.find(one => one.textContent === '{heading}').scrollIntoView()")
    save(browser, name)


def shoot_viewer(browser: Browser, bucket: Path, case: str) -> None:
    """The viewer with a case of the demo."""
    cases, labelmaps = Store(str(bucket / "unseen")), Store(str(bucket / "labelmaps"))
    dice = read_dice(str(bucket / "reports" / "demo"))
    resize(browser, 900)
    with Server(CaseIndex(find_cases(cases.list()).cases, cases, labelmaps, dice)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"{server.url}?case={case}")
        browser.wait(f"document.body?.dataset.shown === '{case}'")
        save(browser, "viewer.png")
        server.shutdown()


def shoot_curves(browser: Browser) -> None:
    """The newest training's curves, as MLflow's own page shows them."""
    tracker, port = Tracker(), free_port()
    experiment = tracker.client.get_experiment_by_name(EXPERIMENT).experiment_id
    run = tracker.client.search_runs([experiment], max_results=1)[0].info.run_id
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", tracker.uri, "--workers", "1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert is_open(port, server, seconds=90)
        resize(browser, 640)
        browser.open(f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs/{run}/model-metrics")
        browser.wait(f"!!document.querySelector('{CLOSE}') && !!document.querySelector('{SEARCH}')")
        browser.run(f"document.querySelector('{CLOSE}').click()")  # of the assistant, which opens by itself
        browser.run(f"document.querySelector('{SEARCH}').focus()")
        browser("Input.insertText", text=CURVES)
        drawn = (
            "[...document.querySelectorAll('.js-plotly-plot')].filter(e => e.querySelector('path.js-line'))"
        )
        browser.wait(f"{drawn}.length === 3 && !document.querySelector('{CLOSE}')")
        browser.run(
            "document.head.append(Object.assign(document.createElement('style'), {textContent: "
            "'.modebar { display: none }'}))"
        )
        save(browser, "mlflow.png")
    finally:
        server.terminate()
        server.wait(20)


def main() -> None:
    report = Path(sys.argv[1]) / "reports" / "demo"
    html = (report / "index.html").read_text("utf-8")
    FOLDER.mkdir(parents=True, exist_ok=True)
    gif = re.search(r"data:image/gif;base64,([^\"]+)", html)[1]
    (FOLDER / "turning.gif").write_bytes(base64.b64decode(gif))
    with tempfile.TemporaryDirectory() as place, Browser(Path(place)) as browser:
        shoot(browser, report / "index.html", "report.png", 1300, "Charts")
        case = sorted((report / "cases").iterdir())[-1]
        shoot(browser, case, "case.png", 1300, case.stem)
        shoot_viewer(browser, Path(sys.argv[1]), case.stem)
        shoot_curves(browser)
    for file in sorted(FOLDER.glob("*.*")):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
