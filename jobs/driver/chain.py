"""What became of raw scans, for jobs.status: studies → cases → … → results, by listings and records alone.

No scan is opened: of DICOM files the index of jobs.intake tells the studies, of NIfTI files their names.
"""

import json
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from bts.cases.worklist import NOTE
from bts.errors import Failure
from bts.intake.identity import case_id, keeps_ids, read_identity
from bts.intake.index import INDEX, indexed
from bts.intake.studies import nifti_cases, sort_entries
from bts.plain_json import parse
from bts.results.layout import MARKER, held, labelmap_key, marked_cases
from bts.storage import Store
from jobs.driver.incremental import READERS

RUN = "_runs/"  # their names begin with their time


def scanned(scans: Store, cases: Store, there: Set[str]) -> tuple[set[str], int]:
    """(ids of the cases that the studies would be, files that the index does not know yet). there: the keys
    of the cases."""
    niftis, maybe, _ = sort_entries(scans.list())
    rows = indexed(cases, filter(INDEX.fullmatch, there))
    identity, _ = read_identity(keeps_ids(marked_cases(there)))
    files = [(identity.opaque(entry.key), entry.version) for entry in maybe]
    new = sum(file not in rows for file in files)
    known = (rows[file] for file in files if file in rows)
    studies = {case_id(row.patient, row.visit) for row in known if row.study}
    return studies | nifti_cases(niftis, identity), new


def taken_in(there: Iterable[str]) -> tuple[set[str], set[str]]:
    """(cases that jobs.intake has made, those of them that wait for review), of the keys of the cases."""
    keys = set(there)
    made = marked_cases(keys)
    waiting = {key.split("/")[1] for key in keys if key.startswith(held("Scan-"))}
    return made, made & waiting


def last_failures(store: Store, there: Iterable[str]) -> Iterator[str]:
    """What the last run of a job in this folder could not do, a line each."""
    reports = sorted(key for key in there if key.startswith(RUN) and key.endswith(".json"))
    try:
        found = parse(store.read(reports[-1]))["failed_cases"] if reports else []
        yield from (Failure.from_json(json.dumps(one)).message for one in found)
    except (OSError, ValueError, KeyError, TypeError):
        yield f"its run report {reports[-1]} cannot be read"


def delivered(there: Iterable[str]) -> tuple[set[str], set[str]]:
    """(cases that jobs.deliver has delivered, those that failed), of the keys of the results."""
    keys = set(there)
    return marked_cases(keys), {named["case"] for named in map(NOTE.fullmatch, keys) if named}


def outdated(results: Store, there: Iterable[str], labelmaps: Store) -> set[str]:
    """Cases whose labelmap is another one now than jobs.deliver has delivered."""
    now = {entry.key: entry.version for entry in labelmaps.list()}
    named = [(marker["case"], key) for key in sorted(there) if (marker := MARKER.fullmatch(key))]
    known = [(case, key, now[labelmap_key(case)]) for case, key in named if labelmap_key(case) in now]

    def older(case: str, key: str, version: str) -> str:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return "" if parse(results.read(key))["inputs"]["labelmap"] == version else case
        return case

    with ThreadPoolExecutor(READERS) as threads:
        return set(filter(None, threads.map(older, *zip(*known, strict=True)))) if known else set()
