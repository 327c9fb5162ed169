"""figshare's numbered slices → one case a patient: the patient's number is inside the files only.

Not a command: preprocess, segment and evaluate run it, and keep the index in `_index/` of their own output,
so that the files are opened again only when the listing has changed.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from bts.cases import figshare
from bts.cases.figshare import IndexRow
from bts.cases.layouts import Listing, unsafe_key
from bts.cases.read import fetch
from bts.errors import CaseError, Failure
from bts.fingerprint import fingerprint
from bts.parquet import check_plain
from bts.storage import Entry, Store
from jobs.driver.cluster import start_ray
from jobs.driver.here import UseRay, fits_here
from jobs.driver.progress import counted, say
from jobs.workers.tries import tried, worker_deaths

SLICES_A_CASE = 64  # that take as long to read as one case of BraTS
FORMAT = 2  # raised when IndexRow changes; part of the index's name


def index_figshare(
    listing: Listing, source: Store, output: Store, ray: UseRay = "auto", *, keep: bool = True
) -> list[Failure]:
    """Add the patients of the listing's slices to its cases; the slices that cannot be read, as failures.

    keep: write the index to `output`, for the next run.
    """
    if not listing.slices:
        return []
    unsafe = {e.key: found for e in listing.slices if (found := unsafe_key(e.key, repr(e.key)))}
    slices = [entry for entry in listing.slices if entry.key not in unsafe]
    rows, failed = read_index(slices, source, output, ray, keep)
    patients, twins = figshare.refuse_twins(figshare.cases_of(rows))
    listing.cases += patients
    listing.problems += [*unsafe.values(), *twins]
    refuse_shared_ids(listing)
    say(f"{source.uri}: {counted(len(patients), 'figshare patient')}")
    return failed


def refuse_shared_ids(listing: Listing) -> None:
    """A NIfTI case may be named as a patient of figshare is: one result would overwrite the other."""
    times = Counter(case.id for case in listing.cases)
    listing.cases = [case for case in listing.cases if times[case.id] == 1]
    for case_id in (case_id for case_id, n in times.items() if n > 1):
        problem = "a patient of figshare and another case have this name"
        listing.problems.append(CaseError(problem, mend="rename the other case", case=case_id, stage="list"))


def read_index(
    slices: list[Entry], source: Store, output: Store, ray: UseRay, keep: bool
) -> tuple[list[IndexRow], list[Failure]]:
    """(rows, failures) of the slices: read from the kept index, else from every file, in parallel."""
    mark = fingerprint({e.key: e.version for e in slices}, options={}, version=FORMAT)
    key = f"_index/{mark}.parquet"
    try:
        table = pq.read_table(pa.BufferReader(output.read(key)))
        check_plain(table.schema)
        return [IndexRow(**row) for row in table.to_pylist()], []
    except (OSError, ValueError, TypeError):  # ValueError: pyarrow's own too
        pass  # there is none, or a spoilt one: it is made again
    say(f"{source.uri}: reading the patients of {counted(len(slices), 'figshare slice')}")
    results = list(_read_rows(slices, IndexSlice(source), ray))
    failed = [Failure.from_json(r["failure"]) for r in results if r["failure"]]
    rows = [r["row"] for r in results if not r["failure"]]
    if keep and not failed:  # an index without the failed ones would hide them from the next run
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        output.put(key, sink.getvalue().to_pybytes())
    return [IndexRow(**row) for row in rows], failed


def _read_rows(slices: list[Entry], task: "IndexSlice", ray: UseRay) -> Iterable[dict]:
    rows = [asdict(entry) for entry in slices]
    if fits_here(ray, len(rows) // SLICES_A_CASE):
        return map(task, rows)
    from ray.data import from_items

    start_ray()
    with worker_deaths("reading the patients of figshare slices"):
        return tried(from_items(rows).map, task.__call__).take_all()


class IndexSlice:
    """One figshare file → its row of the index."""

    def __init__(self, source: Store):
        self.source = source

    def __call__(self, row: dict) -> dict:
        entry = Entry(**row)
        try:
            found = figshare.read_index_row(fetch(entry.key, self.source, entry.size), entry)
        except CaseError as error:
            return {"row": None, "failure": Failure.of(error, entry.key, "index").to_json()}
        return {"row": asdict(found), "failure": ""}
