"""The slices of shards that an epoch needs, as tables: one a case."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bts.images.grid import Grid
from bts.settings import Preset
from bts.shards.catalogue import blame, open_shard
from bts.shards.format import STATISTICS, read_grid
from bts.storage import Store
from bts.training.draw import needed

COLUMNS = ("case_id", "z", "height", "width", "y0", "x0", "mask", "dtype", "brain_px", "tumour_px")


def read_rows(
    items: pa.Table, store: Store, preset: Preset, turns: Mapping[str, int], whole: bool
) -> pa.Table:
    """Rows (epoch, key) → the slices of these shards that this epoch needs, or all if `whole`.

    turns: of each key, what the split `leaking_by_slice` holds out (splits.turns); empty by patient.
    Raises UsageError where a shard cannot be read, RunError where the store fails.
    """
    return pa.concat_tables(
        _read_case(row, store, preset, turns.get(row["key"]), whole) for row in items.to_pylist()
    )


def by_case(rows: pa.Table) -> list[pa.Table]:
    """A table for each case that has slices among those of `read_rows`, in their order."""
    cases = rows["case_id"].to_numpy(zero_copy_only=False)
    ends = [0, *(np.flatnonzero(cases[1:] != cases[:-1]) + 1), len(cases)]
    return [rows.slice(start, end - start) for start, end in pairwise(ends)]


def _read_case(item: dict, store: Store, preset: Preset, turn: int | None, whole: bool) -> pa.Table:
    columns = [*COLUMNS, *preset.modalities, *STATISTICS]
    first = whole or item["epoch"] == 0  # checksums take as long as reading does; kept shards are read once
    try:
        with open_shard(store, item["key"]) as file:
            rows = pq.read_table(file, columns=columns, page_checksum_verification=first)
    except Exception as error:  # each store raises its own classes
        raise blame(store, item["key"], error) from error
    rows = with_grid(rows, read_grid(rows.schema)).replace_schema_metadata(None)
    return rows if whole else needed(rows, preset, item["epoch"], turn)


def with_grid(rows: pa.Table, grid: Grid) -> pa.Table:
    """The rows with columns of the source's slices in canonical orientation: full_height and full_width in
    pixels, row_mm and column_mm of a pixel.
    """
    sides: dict[str, float] = dict(zip(("full_height", "full_width"), grid.shape[1:], strict=True))
    sides |= zip(("row_mm", "column_mm"), grid.zooms[1:], strict=True)
    for name, value in sides.items():
        rows = rows.append_column(name, pa.array([value] * len(rows)))
    return rows
