"""Scores as tables for pandas, R and spreadsheets: long form, a row a case, region and metric."""

import csv
import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from bts.report import Scored

TEXTS = ("case_id", "group", "dataset", "region", "metric")  # columns before `value`


def write(scored: Sequence[Scored]) -> dict[str, bytes]:
    """scores.parquet and scores.csv, sorted; the names of cases are no formulas to a spreadsheet."""
    rows = sorted(
        (one.case_id, one.group, one.dataset, region, metric, value)
        for one in scored
        for region, of in one.scores.items()
        for metric, value in of.items()
    )
    schema = pa.schema([*((name, pa.string()) for name in TEXTS), ("value", pa.float64())])
    table = pa.table(list(zip(*rows, strict=True)) or [[]] * len(schema), schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(schema.names)
    writer.writerows((*map(plain, row[:-1]), row[-1]) for row in rows)
    return {"scores.parquet": sink.getvalue().to_pybytes(), "scores.csv": text.getvalue().encode()}


def plain(cell: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
