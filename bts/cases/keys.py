"""Which keys of a listing are data: neither what a system hides beside data, nor what marks a folder."""

import re
from collections.abc import Iterable, Iterator

from bts.storage import Entry

# What a system keeps beside data: .AppleDouble, .Trash-1000, the bins of Windows and of network drives.
HIDDEN = re.compile(r"(^|/)(\.[^./][^/]*|\$RECYCLE\.BIN|#recycle|@Recycle|@eaDir)/", re.IGNORECASE)
FOLDER_MARKER = re.compile(r"(^|/|_\$folder\$)$")  # some tools put an empty object where a folder shall be


def with_slashes(key: str) -> str:
    """The key as it would be without Windows: its zips, unpacked elsewhere, leave backslashes."""
    return key.replace("\\", "/")


def data_of(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
    """The entries that are data, each with its key in slashes.

    An empty object is a folder's marker where its name ends as one, or where others lie below it.
    """
    keyed = [(entry, with_slashes(entry.key)) for entry in entries]
    above = _folders(key for _, key in keyed) if any(not entry.size for entry, _ in keyed) else set()
    for entry, key in keyed:
        marker = not entry.size and (FOLDER_MARKER.search(key) or key in above)
        sign = key[:1] in ".$#@" or "/." in key or "/$" in key or "/#" in key or "/@" in key  # a fast look
        hidden = sign and HIDDEN.search(key)
        if not (marker or hidden):
            yield entry, key


def _folders(keys: Iterable[str]) -> set[str]:
    """Every folder that some key lies in, and those above it."""
    found: set[str] = set()
    for key in keys:
        folder = key.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found
