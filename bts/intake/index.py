"""The kept index of scans: what each file's tags say, so that a file is opened once in its life.

A row is a Header; a file that is no MR image has a row too, with an empty study. Rows hold no key, name,
date or text (see bts.intake.headers), for the index lies beside the cases.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from bts.errors import CaseError
from bts.fingerprint import fingerprint
from bts.intake.headers import FORMAT, Header, read_header
from bts.intake.identity import Identity
from bts.intake.rules import Rules
from bts.parquet import check_plain
from bts.storage import Entry, Store

INDEX = re.compile(r"_index/scans\.[0-9a-f]{12}\.[0-9a-f]{12}\.parquet")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("file", "version", "patient", "visit", "study", "series")]
    + [("number", pa.int64()), ("what", pa.string()), ("instance", pa.string()), ("enhanced", pa.bool_())]
    + [("te", pa.float64()), ("rows", pa.int64()), ("columns", pa.int64())]
    + [(name, pa.list_(pa.float64())) for name in ("zooms", "directions", "positions")]
)


def index_key(entries: Mapping[str, Entry], identity: Identity, rules: Rules) -> str:
    """Key of the index of just these files. Its first mark is that of how they were read."""
    listed = fingerprint({file: e.version for file, e in entries.items()}, options={}, version=FORMAT)
    return f"_index/scans.{_how(identity, rules)}.{listed}.parquet"


def _how(identity: Identity, rules: Rules) -> str:
    return fingerprint({}, options={"identity": identity.mark, "rules": rules.mark}, version=FORMAT)


def kept_rows(
    output: Store, there: Iterable[str], identity: Identity, rules: Rules
) -> dict[str, dict[tuple[str, str], Header]]:
    """Key of every kept index that was read alike → its rows by (file, version), none of a spoilt one."""
    alike = f"_index/scans.{_how(identity, rules)}."
    return {key: indexed(output, [key]) for key in there if key.startswith(alike)}


def indexed(output: Store, keys: Iterable[str]) -> dict[tuple[str, str], Header]:
    """(file, version) → row of these kept indexes. A spoilt one counts as none."""
    found: dict[tuple[str, str], Header] = {}
    for row in (row for key in keys for row in _rows(output, key)):
        if row.study or (row.file, row.version) not in found:  # indexes of format 1 missed images of buckets
            found[row.file, row.version] = row
    return found


def series_files(output: Store, there: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """(Study, Series Instance UID) → what stands for the keys of its files, by all kept indexes, whose files
    may lie there no more. Anonymised scans may have one Series Instance UID in many studies.
    """
    found: dict[tuple[str, str], dict[str, None]] = {}
    for key in there:
        for row in _rows(output, key):
            found.setdefault((row.study, row.series), {})[row.file] = None
    return {series: list(files) for series, files in found.items()}


def _rows(output: Store, key: str) -> list[Header]:
    """Of a kept index; of a spoilt one, or of what is none, nothing."""
    if not INDEX.fullmatch(key):
        return []
    try:
        table = pq.read_table(pa.BufferReader(output.read(key)))
        check_plain(table.schema)
        return [Header(**row) for row in table.to_pylist()]
    except (OSError, ValueError, TypeError):
        return []


def write_index(rows: Iterable[Header]) -> bytes:
    """The bytes of an index."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_row(entry: Entry, file: str, source: Store, identity: Identity, rules: Rules) -> Header:
    """The row of one file. Raises CaseError, which does not name its key."""

    def read(count: int | None) -> bytes:
        try:
            if count is None:
                return source.read(entry.key)
            return source.fs.cat_file(source.path(entry.key), start=0, end=min(count, entry.size))
        except Exception as error:  # each store raises its own classes
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise CaseError(f"it cannot be read ({reason})", mend="copy it again", stage="index") from None

    header = read_header(read, entry.size, file, entry.version, identity, rules)
    return header or Header(file, entry.version, "", "", "", "", 0, "", "", False, 0.0, 0, 0, [], [], [])
