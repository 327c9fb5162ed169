"""The tags of all files of a listing of scans: from the kept index, and from those files that are new.

Not a command: intake runs it. The index is kept in `_index/` of the cases, where deliver, status and view
read it.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict

from bts.errors import Failure
from bts.intake.headers import Header
from bts.intake.identity import Identity
from bts.intake.index import index_key, kept_rows, write_index
from bts.intake.rules import Rules
from bts.storage import Entry, Store
from jobs.driver.here import UseRay, in_tasks
from jobs.driver.progress import counted, say
from jobs.workers.intake import ReadTags

FILES_A_TASK = 256


def read_tags(
    maybe: Iterable[Entry],
    source: Store,
    output: Store,
    there: set[str],
    identity: Identity,
    rules: Rules,
    ray: UseRay = "auto",
    *,
    keep: bool = True,
) -> tuple[dict[str, Entry], list[Header], list[Header], list[Failure]]:
    """(entries by what stands for their keys, a row each, the rows of earlier runs, failures) of files that
    may be DICOM."""
    entries = {identity.opaque(entry.key): entry for entry in maybe}
    if not entries:
        return {}, [], [], []
    key = index_key(entries, identity, rules)
    indexes = kept_rows(output, {key} if key in there else there, identity, rules)
    kept = {file: row for rows in indexes.values() for file, row in rows.items()}
    rows = [kept[file, e.version] for file, e in entries.items() if (file, e.version) in kept]
    new = [entry for file, entry in entries.items() if (file, entry.version) not in kept]
    made, failed = _read(new, source, identity, rules, ray)
    rows += made
    if keep and (made or key not in there):  # files that failed have no row, and are read again
        output.put(key, write_index(rows))
        for older, of in indexes.items():  # one that shares no file is of another folder of scans
            if older != key and (not of or any(file in entries for file, _ in of)):
                output.delete(older)
    return entries, rows, [*kept.values()], failed


def _read(
    entries: list[Entry], source: Store, identity: Identity, rules: Rules, ray: UseRay
) -> tuple[list[Header], list[Failure]]:
    """Open the files in parallel."""
    if not entries:
        return [], []
    say(f"{source.uri}: reading the tags of {counted(len(entries), 'file')}")
    parts = [entries[n : n + FILES_A_TASK] for n in range(0, len(entries), FILES_A_TASK)]
    rows = [{"entries": json.dumps([asdict(entry) for entry in part])} for part in parts]
    tags = ReadTags(source, identity, rules)
    results = list(in_tasks(rows, tags, ray, "reading the tags of scans"))
    headers = [Header(**row) for result in results for row in json.loads(result["rows"])]
    return headers, [Failure(**one) for result in results for one in json.loads(result["failures"])]
