"""Cases, truths and labelmaps in a browser: a server on this machine's loopback, with one page that draws.

The page, templates/viewer.html, asks for a volume by case id and role; keys of the store never travel, and
what the listing does not know is not served. Each volume is decoded and checked here, as the jobs do it, and
sent as plain NIfTI on the canonical grid, labels as the project's own: every convention has the same colours.
Nothing is written. NiiVue (BSD-2-Clause) draws; its code comes from the package
ipyniivue, which is not imported.
"""

import importlib.util
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nibabel as nib
import numpy as np

from bts.cases.case import Case
from bts.cases.read import reader_of
from bts.cases.sidecars import told_beside
from bts.colours import LABEL_COLOURS
from bts.errors import CaseError, UsageError
from bts.images.grid import Volume
from bts.results.layout import held
from bts.results.marker import Marker
from bts.results.match import Matched, Pair, match, read_prediction, read_truth, refuse_older
from bts.storage import Entry, Store

PAGE = Path(__file__).parent / "templates" / "viewer.html"
READERS = 16  # threads that read markers
SENT = ("uint8", "int16", "uint16", "float32")  # of voxels; others go as float32
INSTALL = "install it with: pip install --no-deps -r requirements-viewer.txt"
HEADERS = {
    "Cache-Control": "no-store",  # scans of patients do not belong on a disk of the browser's
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# NiiVue's own font and material are images inside its code (data:); nothing else is loaded.
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """One case as the page lists it."""

    case: Case
    pair: Pair | None
    """Its labelmap, if there is one."""
    note: str = ""
    """Why there is none, or what is special about it."""
    marker: Marker = field(default_factory=Marker)
    """What jobs.segment left about it: volumes_ml, flags; empty for another tool's."""
    dice: Mapping[str, float] = field(default_factory=dict)

    @property
    def roles(self) -> tuple[str, ...]:
        """Volumes that can be asked for."""
        labels = (("truth", reader_of(self.case).has_truth(self.case)), ("prediction", self.pair is not None))
        return *reader_of(self.case).modalities(self.case), *(role for role, there in labels if there)

    def to_json(self) -> dict:
        marked = {"volumes": self.marker.volumes_ml or {}, "flags": self.marker.flags}
        named = {"id": self.case.id, "dataset": self.case.dataset, "group": self.case.group}
        return {**named, "roles": self.roles, "note": self.note, "dice": dict(self.dice), **marked}


class CaseIndex:
    """The cases that are shown, by id, and where their volumes come from."""

    space = ""
    """The modality on whose native grid all is shown; empty where cases are shown as they are."""

    def __init__(
        self,
        cases: Sequence[Case],
        source: Store,
        labelmaps: Store,
        dice: Mapping[str, Mapping[str, float]],
        labels: str = "auto",
    ):
        """dice: of regions, by case; empty where nothing has been scored. labels: as --labels says them.
        Raises RunError, and UsageError where nnU-Net's dataset.json beside the labelmaps is not understood.
        """
        self.source, self.labelmaps = source, labelmaps
        entries = labelmaps.list()
        matched = match(cases, entries, truths=False, labels=told_beside(labelmaps, entries, labels))
        waiting = _waiting(cases, entries)
        pairs = {pair.case.id: pair for pair in (*waiting.pairs, *matched.pairs)}
        notes = {problem.case: str(problem) for problem in (*waiting.problems, *matched.problems)}
        with ThreadPoolExecutor(READERS) as threads:
            markers = dict(zip(pairs, threads.map(self._marker, pairs.values()), strict=True))
        for case_id, marker in markers.items():
            try:
                refuse_older(pairs[case_id], [marker], source)
            except CaseError as error:
                notes[case_id] = str(error)
                del pairs[case_id]
        self.shown = {}
        for case in cases:
            pair = pairs.get(case.id)
            note = notes.get(case.id) or _note(case, pair)
            marker = markers[case.id] if pair else Marker()
            self.shown[case.id] = Shown(case, pair, note, marker, dice.get(case.id, {}))

    def volume(self, case_id: str, role: str) -> bytes:
        """A .nii file. Raises KeyError for what there is not, CaseError for what cannot be shown."""
        shown = self.shown[case_id]
        if role not in shown.roles:
            raise KeyError(role)
        try:
            return to_nifti(self.read(shown, role))
        except CaseError as error:
            error.case = case_id
            raise

    def read(self, shown: Shown, role: str) -> Volume:
        """One of its `roles`, labels as the project's own. Raises CaseError."""
        if role == "truth":
            return read_truth(shown.case, self.source)
        if role == "prediction":
            assert shown.pair is not None, "else it has no such role"
            return read_prediction(shown.pair, self.labelmaps)
        return reader_of(shown.case).read_modality(shown.case, self.source, role)

    def _marker(self, pair: Pair) -> Marker:
        with suppress(OSError, ValueError, IndexError):
            return Marker.from_json(self.labelmaps.read(pair.markers[0]))
        return Marker()


class Server(ThreadingHTTPServer):
    """Serves an index of cases on 127.0.0.1 until `serve_forever` is interrupted."""

    daemon_threads = True

    def __init__(self, index: CaseIndex, port: int = 0):
        """port: 0 for any that is free. Raises UsageError."""
        self.page, self.niivue = PAGE.read_text("utf-8"), read_niivue()
        cases = [one.to_json() for one in index.shown.values()]
        listing = {"cases": cases, "legend": _legend(), "space": index.space}
        self.index, self.listing = index, json.dumps(listing).encode()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"--port {port}: cannot listen there: {error}; 0 takes a free one") from None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # A page from elsewhere may point its own name at 127.0.0.1; its requests then carry that name.
        port = self.server.server_port
        if self.headers["Host"] not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return self._say(421, f"open {self.server.url}")
        match [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]:
            case [""]:
                nonce = secrets.token_urlsafe(16)
                page = self.server.page.replace("NONCE", nonce).encode()
                self._answer(200, "text/html; charset=utf-8", page, nonce)
            case ["niivue.js"]:
                self._answer(200, "text/javascript; charset=utf-8", self.server.niivue)
            case ["cases.json"]:
                self._answer(200, "application/json", self.server.listing)
            case ["volumes", case_id, name] if name.endswith(".nii"):
                self._volume(case_id, name.removesuffix(".nii"))
            case _:
                self._say(404, "there is no such page")

    def _volume(self, case_id: str, role: str) -> None:
        try:
            self._answer(200, "application/octet-stream", self.server.index.volume(case_id, role))
        except KeyError:
            self._say(404, "there is no such volume")
        except CaseError as error:
            self._say(422, str(error))

    def _say(self, code: int, line: str) -> None:
        self._answer(code, "text/plain; charset=utf-8", line.encode(errors="backslashreplace"))

    def _answer(self, code: int, kind: str, body: bytes, nonce: str = "") -> None:
        with suppress(ConnectionError):  # the page was closed, or went on to another case
            self.send_response(code)
            sent = {"Content-Type": kind, "Content-Length": len(body)}
            sent["Content-Security-Policy"] = POLICY.format(nonce=nonce or secrets.token_urlsafe(16))
            for name, value in (HEADERS | sent).items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Quiet: a line a request helps nobody."""


def to_nifti(volume: Volume) -> bytes:
    """A .nii file of a (D, H, W) volume on the canonical grid, every voxel at its place in mm.

    Without the intent "label", by which NiiVue would choose colours of its own.
    """
    voxels = volume.voxels if volume.voxels.dtype.name in SENT else volume.voxels.astype(np.float32)
    image = nib.Nifti1Image(voxels.T, volume.grid.canonical_affine)
    image.header.set_xyzt_units("mm")
    if (brain := voxels[voxels != 0]).size:  # the window of the report's pictures
        image.header["cal_min"], image.header["cal_max"] = np.percentile(brain, (1, 99))
    return image.to_bytes()


def read_niivue() -> bytes:
    """NiiVue as a JavaScript module that exports the class `Niivue`. Raises UsageError."""
    package = importlib.util.find_spec("ipyniivue")
    if package is None or not package.submodule_search_locations:
        raise UsageError(f"NiiVue, which draws the page, is not installed; {INSTALL}")
    script = Path(package.submodule_search_locations[0], "static", "widget.js").read_bytes()
    # A widget for notebooks, which exports only that; NiiVue's class is what the widget makes one of.
    made = re.search(rb'"Creating new Niivue instance"\);.{1,200}?=new (\w+)\(', script)
    if made is None:
        raise UsageError(f"the installed ipyniivue is not the version that the viewer needs; {INSTALL}")
    return script + b"\nexport{%s as Niivue};\n" % made[1]


def _waiting(cases: Sequence[Case], entries: Sequence[Entry]) -> Matched:
    """The labelmaps that jobs.segment holds for review."""
    aside = held("")
    there = [entry for entry in entries if entry.key.startswith((aside, "_done/", "_failed/"))]
    there = [replace(entry, key=entry.key.removeprefix(aside)) for entry in there]
    found = match(cases, there, truths=False)
    return replace(found, pairs=[replace(pair, labelmap=held(pair.labelmap)) for pair in found.pairs])


def _note(case: Case, pair: Pair | None) -> str:
    if pair is None:
        return f"no labelmap: images {'and ground truth ' * reader_of(case).has_truth(case)}only"
    return "held for review" if pair.labelmap.startswith(held("")) else ""


def _legend() -> list[dict]:
    return [{"label": label, "name": name, "rgb": rgb} for label, (name, rgb) in LABEL_COLOURS.items()]
