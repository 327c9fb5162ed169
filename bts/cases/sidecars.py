"""What a set says of itself in files beside its cases: nnU-Net's dataset.json, BIDS's dseg.tsv.

nnU-Net names its channels and labels, BIDS its labels. Such a file is about the very values in the files
beside it, so it counts more than the name of a case: nnU-Net's users often give a known set other values.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bts.cases.keys import with_slashes
from bts.cases.names import role_of_channel
from bts.labels import named_as
from bts.storage import Entry, Store

SAYS, FIRST = ("dataset.json", "dseg.tsv"), "_0000."  # in the keys that the two below are about
CHANNELS = re.compile(r"^(?:(?P<top>.*)/)?images(?:Tr|Ts)/[^/]+_0000\.[^/]+$", re.DOTALL)
# Of a whole set, not of one subject: 100,000 subjects' would be 100,000 requests before anything is done.
TABLE = re.compile(r"^(?:(?P<top>.*)/)?(?!sub-)(?:[^/]*_)?dseg\.tsv$", re.DOTALL)
MOST_BYTES = 64 << 20  # a dataset.json that lists a million cases has as much
# What comes of JSON or a table that means nothing, is nested without end, or holds no sane number.
NONSENSE = (ValueError, AttributeError, TypeError, LookupError, OverflowError, RecursionError, csv.Error)
REGIONS = {"whole": "WT", "wt": "WT", "core": "TC", "tc": "TC", "enhancing": "ET", "et": "ET"}


@dataclass(frozen=True, slots=True)
class Sidecars:
    """What these files say."""

    channels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Folder of nnU-Net → number of a channel (0000) → role, empty of another kind of image."""
    conventions: Mapping[str, str] = field(default_factory=dict)
    """Folder → label convention of the truths below it."""

    def convention(self, key: str) -> str:
        """Label convention of a truth, as the nearest folder above it says; empty where none does."""
        folder = key if self.conventions else ""
        while folder:
            folder = folder.rpartition("/")[0]
            if found := self.conventions.get(folder):
                return found
        return ""


def read_sidecars(source: Store, entries: Iterable[Entry]) -> Sidecars:
    """Of a listing. A file that cannot be read, or says nothing that is known, says nothing."""
    said: dict[str, Entry] = {}
    tops: set[str] = set()
    for entry in entries:  # a look at a key's end costs a tenth of a match, and nearly all have neither
        if entry.key.endswith(SAYS):
            said[with_slashes(entry.key)] = entry
        elif FIRST in entry.key and (found := CHANNELS.match(with_slashes(entry.key))):
            tops.add(found["top"] or "")
    channels, conventions = {}, {}
    for top in sorted(tops):
        if (key := f"{top}/dataset.json".lstrip("/")) in said:
            data = _read(source, said[key])
            channels[top], conventions[top] = channels_of(data), labels_of(data)
    for key in sorted(said):
        if (found := TABLE.match(key)) and not re.search(r"(^|/)sub-", key):
            conventions[found["top"] or ""] = labels_of_table(_read(source, said[key]))
    return Sidecars(channels, conventions)


def _read(source: Store, entry: Entry) -> bytes:
    try:
        return source.read(entry.key) if entry.size <= MOST_BYTES else b""
    except OSError:
        return b""


def channels_of(data: bytes) -> dict[str, str]:
    """Number of a channel → role, empty of another kind of image; of a dataset.json of nnU-Net 1 or 2."""
    try:
        said = json.loads(data)
        names = said.get("channel_names") or said.get("modality") or {}
        return {f"{int(number):04}": role_of_channel(str(name)) for number, name in names.items()}
    except NONSENSE:
        return {}


def labels_of(data: bytes) -> str:
    """Label convention that a dataset.json names (nnU-Net 2: name → value, or values of a region; nnU-Net 1
    and the Decathlon: value → name); empty where it does not, or not every name is known."""
    try:
        said = json.loads(data).get("labels") or {}
        if any(isinstance(values, list) for values in said.values()):
            return named_as(_of_regions(said))
        first = all(name.isdecimal() for name in said)
        named = {int(name if first else value): str(value if first else name) for name, value in said.items()}
        return named_as({value: name for value, name in named.items() if value})
    except NONSENSE:
        return ""


def _of_regions(named: Mapping[str, Any]) -> dict[int, str]:
    """Value → structure, of nested regions (whole tumour, core, enhancing); empty where they are others."""
    found: dict[str, set[int]] = {}
    for name, values in named.items():
        words = re.findall(r"[a-z]+", str(name).lower())
        region = next((REGIONS[word] for word in words if word in REGIONS), "")
        of = {int(v) for v in (values if isinstance(values, list) else [values])} - {0}
        if of:
            found[region] = of
    if found.keys() != {"WT", "TC", "ET"} or not found["WT"] > found["TC"] > found["ET"]:
        return {}
    tissue = {value: "ED" for value in found["WT"]}
    return tissue | dict.fromkeys(found["TC"], "NCR") | dict.fromkeys(found["ET"], "ET")


def labels_of_table(data: bytes) -> str:
    """Label convention that a BIDS table names, its columns index and name; empty where it does not."""
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig")), delimiter="\t"))
        return named_as({int(row["index"]): row["name"] for row in rows if int(row["index"])})
    except NONSENSE:
        return ""
