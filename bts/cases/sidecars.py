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
from bts.errors import UsageError
from bts.labels import UNKNOWN, named_as, values_of
from bts.storage import Entry, Store

NNUNET = "dataset.json"
SAYS, FIRST, TRUTHS = (NNUNET, "dseg.tsv"), "_0000.", "labelsT"  # in the keys that the two below are about
# Images may be left out: the ground truths alone are enough to be scored against.
TOP = re.compile(r"^(?:(?P<top>.*)/)?(?:images(?:Tr|Ts)/[^/]+_0000\.|labels(?:Tr|Ts)/)[^/]+$", re.DOTALL)
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
    """Folder → label convention of the truths below it; UNKNOWN where the names of its labels are not known:
    what the name of a case tells would be a guess there."""
    unclear: tuple[str, ...] = ()
    """Keys of the files that name labels which are not known."""

    def convention(self, key: str) -> str | None:
        """Label convention of a truth, as the nearest folder above it says; None where none does."""
        folder = key if self.conventions else ""
        while folder:
            folder = folder.rpartition("/")[0]
            if (found := self.conventions.get(folder)) is not None:
                return found
        return None


def read_sidecars(source: Store, entries: Iterable[Entry]) -> Sidecars:
    """Of a listing. A file that cannot be read, or says nothing that is known, says nothing."""
    said: dict[str, Entry] = {}
    tops: set[str] = set()
    for entry in entries:  # a look at a key's end costs a tenth of a match, and nearly all have neither
        if entry.key.endswith(SAYS):
            said[with_slashes(entry.key)] = entry
        elif (FIRST in entry.key or TRUTHS in entry.key) and (found := TOP.match(with_slashes(entry.key))):
            tops.add(found["top"] or "")
    channels: dict[str, dict[str, str]] = {}
    conventions: dict[str, str] = {}
    unclear = []
    for top in sorted(tops):
        if (key := f"{top}/{NNUNET}".lstrip("/")) in said:
            data = _read(source, said[key])
            channels[top], told = channels_of(data), labels_of(data)
            if told is not None:
                conventions[top] = told
                unclear += [key] if told == UNKNOWN else []
    for key in sorted(said):
        if (found := TABLE.match(key)) and not re.search(r"(^|/)sub-", key):
            top, told = found["top"] or "", labels_of_table(_read(source, said[key]))
            if told or (told is not None and top not in conventions):
                conventions[top] = told
            unclear += [key] if told == UNKNOWN else []
    return Sidecars(channels, conventions, tuple(unclear))


def told_beside(labelmaps: Store, entries: Iterable[Entry], asked: str) -> str:
    """Label convention of the labelmaps at a folder's top, as a dataset.json there names it: nnU-Net leaves
    its own beside what it predicts. Empty where none does, and where --labels (`asked`) tells it. Raises
    UsageError where its names are not known.
    """
    said = next((entry for entry in entries if entry.key == NNUNET and asked == "auto"), None)
    data = _read(labelmaps, said) if said else b""
    told = labels_of(data)
    if told and not _paints(data, values_of(told)):
        raise UsageError(
            f"{labelmaps.uri}/{NNUNET}: its regions_class_order paints other values than its labels name, so "
            "the labelmaps beside it would be guessed at; say --labels as they hold them"
        )
    if told == UNKNOWN:
        raise UsageError(
            f"{labelmaps.uri}/{NNUNET}: names labels that are not known, so the labelmaps beside it "
            "would be guessed at; name them background, NCR, ED and ET there, or say --labels"
        )
    return told or ""


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


def labels_of(data: bytes) -> str | None:
    """Label convention that a dataset.json names (nnU-Net 2: name → value, or values of a region; nnU-Net 1
    and the Decathlon: value → name); UNKNOWN where not every name is known, None where it names none."""
    try:
        said = json.loads(data).get("labels") or {}
        if not said.keys() - {"background", "0"}:
            return None
        if any(isinstance(values, list) for values in said.values()):
            return named_as(_of_regions(said))
        first = all(name.isdecimal() for name in said)
        named = {int(name if first else value): str(value if first else name) for name, value in said.items()}
        return named_as({value: name for value, name in named.items() if value})
    except NONSENSE:
        return None


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


def _paints(data: bytes, label_of: Mapping[int, int]) -> bool:
    """Whether nnU-Net paints each region of a dataset.json with the value of the tissue that it alone has:
    whole tumour as oedema, core over it as necrosis, enhancing tumour last. True of labels without regions.

    label_of: value → label of the project, as `labels_of` names them.
    """
    said = json.loads(data)
    order, named = said.get("regions_class_order"), said["labels"].values()
    sizes = [len({*values}) if isinstance(values, list) else 1 for values in named if values not in (0, [0])]
    if not isinstance(order, list) or max(sizes) == 1:
        return True
    painted = [label_of.get(value) for value in order if isinstance(value, int)]
    return sizes == sorted(sizes, reverse=True) and painted == [2, 1, 3]


def labels_of_table(data: bytes) -> str | None:
    """Label convention that a BIDS table names, its columns index and name; UNKNOWN where not every name is
    known, None where it names none."""
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig")), delimiter="\t"))
        named = {int(row["index"]): row["name"] for row in rows if int(row["index"])}
        return named_as(named) if named else None
    except NONSENSE:
        return None
