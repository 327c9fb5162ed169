"""Scores as tables for pandas, R and spreadsheets: long form, a row a case, region and metric.

Beside the columns, the file metadata `bts` of scores.parquet (JSON) says of each case the patient, the maker
of its labelmap, its flags, the volume of its truth and the year whose rules scored it. brats.csv has the rows
and columns of the BraTS challenge's own online evaluation.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bts.errors import UsageError
from bts.labels import REGIONS
from bts.parquet import check_plain
from bts.plain_json import parse
from bts.scoring import statistics
from bts.scoring.scores import Scored
from bts.storage import read_file

KNOWN = ("patient", "maker", "flags", "truth_ml", "expected", "rules")  # of a case, in the file's metadata
TEXTS = ("case_id", "group", "dataset", "region", "metric")  # columns before `value`
BRATS = {
    f"{title}_{region}": (region, metric)
    for metric, title in {
        "dice": "Dice",
        "sensitivity": "Sensitivity",
        "specificity": "Specificity",
        "hd95": "Hausdorff95",
    }.items()
    for region in ("ET", "WT", "TC")
}
BRATS_ROWS = {"Mean": "mean", "StdDev": "std", "Median": "median", "25quantile": "q25", "75quantile": "q75"}


def write(scored: Sequence[Scored]) -> dict[str, bytes]:
    """scores.parquet, scores.csv and brats.csv, sorted; the last one where there are cases of BraTS."""
    rows = sorted(
        (one.case_id, one.group, one.dataset, region, metric, value)
        for one in scored
        for region, of in one.scores.items()
        for metric, value in of.items()
    )
    made = {one.case_id: {name: getattr(one, name) for name in KNOWN} for one in scored}
    fields = [*((name, pa.string()) for name in TEXTS), ("value", pa.float64())]
    schema = pa.schema(fields, metadata={"bts": json.dumps({"cases": made})})
    table = pa.table(list(zip(*rows, strict=True)) or [()] * len(schema), schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    files = {"scores.parquet": sink.getvalue().to_pybytes(), "scores.csv": write_csv(schema.names, rows)}
    brats = sorted((one for one in scored if one.scores.keys() >= REGIONS.keys()), key=lambda s: s.case_id)
    return {**files, "brats.csv": write_brats(brats)} if brats else files


def load(report: str) -> list[Scored]:
    """The scored cases of a report's folder, or of its scores.parquet. Raises UsageError, RunError."""
    uri = report if report.endswith(".parquet") else f"{report.rstrip('/')}/scores.parquet"
    try:
        data = read_file(uri)
    except UsageError as error:
        raise UsageError(f"{error}; give the folder of a report of jobs.evaluate") from None
    return read(data, uri)


def read(data: bytes, name: str) -> list[Scored]:
    """The scored cases of a scores.parquet; `name` is for messages.

    Raises UsageError for another file, or one of an older version, which did not say who made the labelmaps.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
        check_plain(table.schema)
        cases = parse(table.schema.metadata[b"bts"])["cases"]
        rows = table.select([*TEXTS, "value"]).to_pylist()
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        raise UsageError(
            f"{name}: no scores.parquet of jobs.evaluate, or of an older version; run jobs.evaluate again"
        ) from None
    found: dict[str, Scored] = {}
    for row in rows:
        case_id = row["case_id"]
        if case_id not in found:
            known = {"rules": "2023", **cases[case_id]}  # until there were others
            found[case_id] = Scored(case_id, row["group"], row["dataset"], {}, **known)
        found[case_id].scores.setdefault(row["region"], {})[row["metric"]] = row["value"]
    return list(found.values())


def write_brats(scored: Sequence[Scored]) -> bytes:
    """A row a case, then mean, deviation, median and quartiles, as the challenge's online evaluation."""
    values_NM = np.array([[one.scores[r].get(m, np.nan) for r, m in BRATS.values()] for one in scored])
    rows = [(one.case_id, *values) for one, values in zip(scored, values_NM.tolist(), strict=True)]
    columns = [statistics.describe(values_N) for values_N in values_NM.T]
    rows += [(row, *(of[key] for of in columns)) for row, key in BRATS_ROWS.items()]
    return write_csv(["Label", *BRATS], rows)


def write_csv(names: Sequence[str], rows: Iterable[Sequence]) -> bytes:
    """Names of cases are no formulas to a spreadsheet; what is not known (NaN) is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(map(_cell, row) for row in rows)
    return text.getvalue().encode()


def plain(cell: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _cell(value: str | float) -> str | float:
    if isinstance(value, str):
        return plain(value)
    return "" if np.isnan(value) else value
