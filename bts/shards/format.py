"""The Parquet schema of a shard, and one case written to it and read back.

One file a case, a row per axial slice of the brain's crop, sorted by z, row groups of 32 slices. A row is
self-contained: pandas, DuckDB or Spark can use a shard without this project. Pixels are row-major,
little-endian bytes of height × width values of `dtype`, lossless.
"""

import base64
import importlib.metadata
import io
import json
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bts.cases.case import STATISTICS, CaseVolume
from bts.images.grid import Grid
from bts.modalities import MODALITIES
from bts.parquet import check_plain
from bts.plain_json import parse

PIXELS = (*MODALITIES, "mask")  # columns
FORMAT = 1  # raised when a shard's content changes for the same input; part of every fingerprint
ROW_GROUP = 32  # slices: the unit that a reader fetches

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("case_id", "patient_id", "dataset", "group")]
    + [(name, pa.int16()) for name in ("z", "height", "width", "y0", "x0")]
    + [(name, pa.binary()) for name in PIXELS]
    + [("dtype", pa.string())]
    + [(name, pa.list_(pa.float32())) for name in STATISTICS]
    + [(name, pa.int32()) for name in ("brain_px", "tumour_px")]
)


def write_shard(volume: CaseVolume, inputs: dict[str, str]) -> bytes:
    """Encode one case. `inputs` (role → ETag or size+mtime) goes to the file's metadata."""
    table = table_of(volume).replace_schema_metadata({"bts": json.dumps(_metadata(volume, inputs))})
    sink = io.BytesIO()
    plain = [name for name in SCHEMA.names if name not in PIXELS]
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression="zstd",
        compression_level=1,
        use_dictionary=["case_id", "patient_id", "dataset", "group", "dtype"],
        write_statistics=plain,  # min and max of pixel bytes would be as large as the pixels
        write_page_checksum=True,  # zstd alone takes many a damaged pixel for a sound one
    )
    return sink.getvalue()


def read_metadata(data: bytes) -> dict:
    """The `bts` JSON of a shard. Raises ValueError if it is not a shard of ours."""
    return metadata_of(pq.ParquetFile(io.BytesIO(data)).schema_arrow)


def metadata_of(schema: pa.Schema) -> dict:
    """The same, of a schema that is read already; by it nothing of the shard can run code."""
    check_plain(schema)
    raw = (schema.metadata or {}).get(b"bts")
    if raw is None:
        raise ValueError("not a shard of this project (no `bts` metadata)")
    meta = parse(raw)
    if meta["format"] > FORMAT:
        raise ValueError(f"written by a newer version (shard format {meta['format']}, known {FORMAT})")
    return meta


def read_volume(data: bytes, modalities: tuple[str, ...] = MODALITIES) -> CaseVolume:
    """Decode one shard: the CaseVolume that was written, with `modalities` of it in that order.

    Raises ValueError if it is not a shard of ours, or lacks a modality.
    """
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    meta = metadata_of(file.schema_arrow)
    if missing := [m for m in modalities if m not in meta["modalities"]]:
        raise ValueError(f"the shard has no {', '.join(missing)} (it has {', '.join(meta['modalities'])})")
    table = file.read([name for name in SCHEMA.names if name not in MODALITIES or name in modalities])
    first = {name: table[name][0].as_py() for name in SCHEMA.names if name not in PIXELS}
    shape = (table.num_rows, first["height"], first["width"])
    dtype = np.dtype(first["dtype"]).newbyteorder("<")
    rows = [MODALITIES.index(m) for m in modalities]
    mask = None if table["mask"].null_count else pixels(table["mask"], np.dtype(np.uint8)).reshape(shape)
    return CaseVolume(
        case_id=first["case_id"],
        patient_id=first["patient_id"],
        dataset=first["dataset"],
        group=first["group"] or "",
        labels=meta["labels"],
        modalities=tuple(modalities),
        images=np.stack([pixels(table[m], dtype).reshape(shape) for m in modalities]),
        mask=mask,
        origin=(first["z"], first["y0"], first["x0"]),
        grid=Grid(base64.b64decode(meta["header"])),
        background=_background(meta, modalities),
        **{name: np.array(first[name], np.float32)[rows] for name in STATISTICS},
    )


def _background(meta: dict, modalities: tuple[str, ...]) -> tuple[float, ...]:
    known = dict(zip(meta["modalities"], meta.get("background", ()), strict=False))
    return tuple(known[m] for m in modalities) if known else ()


def read_grid(schema: pa.Schema) -> Grid:
    """Where a shard's case lies, of the schema that reading it gives."""
    return Grid(base64.b64decode(metadata_of(schema)["header"]))


def pixels(column: pa.ChunkedArray, dtype: np.dtype) -> np.ndarray:
    """All pixels of a binary column, end to end, as one flat array: its own memory, where that is in one
    piece, and then read-only."""
    flat = [np.frombuffer(c.buffers()[2], np.uint8)[slice(*_ends(c))] for c in column.chunks]
    return (flat[0] if len(flat) == 1 else np.concatenate(flat)).view(dtype)


def _ends(chunk: pa.BinaryArray) -> tuple[int, int]:
    """First and last byte of a binary array within its data buffer."""
    offsets = np.frombuffer(chunk.buffers()[1], np.int32)
    return int(offsets[chunk.offset]), int(offsets[chunk.offset + len(chunk)])


def table_of(volume: CaseVolume) -> pa.Table:
    """A row of SCHEMA for each slice of the crop, in order of z; without the file's metadata."""
    depth, height, width = volume.images.shape[1:]
    z0, y0, x0 = volume.origin
    images = dict(zip(volume.modalities, volume.images, strict=True))
    columns = {
        "case_id": [volume.case_id] * depth,
        "patient_id": [volume.patient_id] * depth,
        "dataset": [volume.dataset] * depth,
        "group": [volume.group] * depth,
        "z": np.arange(z0, z0 + depth, dtype=np.int16),
        "height": np.full(depth, height, np.int16),
        "width": np.full(depth, width, np.int16),
        "y0": np.full(depth, y0, np.int16),
        "x0": np.full(depth, x0, np.int16),
        **{m: _binary(images.get(m), depth) for m in MODALITIES},
        "mask": _binary(volume.mask, depth),
        "dtype": [volume.images.dtype.name] * depth,
        **{name: [_in_order(getattr(volume, name), volume.modalities)] * depth for name in STATISTICS},
        "brain_px": volume.images.any(axis=0).sum(axis=(1, 2), dtype=np.int32),
        "tumour_px": pa.nulls(depth, pa.int32()),
    }
    if volume.mask is not None:
        columns["tumour_px"] = (volume.mask > 0).sum(axis=(1, 2), dtype=np.int32)
    return pa.table(columns, schema=SCHEMA)


def _in_order(statistic: np.ndarray, modalities: tuple[str, ...]) -> np.ndarray:
    """One value a modality in the schema's order; NaN for one that the case does not have."""
    values = dict(zip(modalities, statistic, strict=True))
    return np.array([values.get(m, np.nan) for m in MODALITIES], np.float32)


def _binary(slices: np.ndarray | None, depth: int) -> pa.Array:
    """(D, H, W) → one binary value a slice, without copying the pixels; nulls where there is no image."""
    if slices is None:
        return pa.nulls(depth, pa.binary())
    little = np.ascontiguousarray(slices, slices.dtype.newbyteorder("<"))
    offsets = np.arange(len(little) + 1, dtype=np.int32) * little[0].nbytes
    return pa.Array.from_buffers(
        pa.binary(), len(little), [None, pa.py_buffer(offsets), pa.py_buffer(little)]
    )


@cache
def _versions() -> dict[str, str]:
    return {p: importlib.metadata.version(p) for p in ("numpy", "pyarrow", "nibabel")}


def _metadata(volume: CaseVolume, inputs: dict[str, str]) -> dict:
    return {
        "format": FORMAT,
        "case_id": volume.case_id,
        "modalities": volume.modalities,
        "labels": volume.labels,
        "source_shape": volume.grid.source_shape,
        "affine": volume.grid.source_affine.tolist(),
        "zooms": volume.grid.zooms,
        "orientation": volume.grid.orientation,
        "header": base64.b64encode(volume.grid.header).decode(),
        "inputs": inputs,
        **({"background": volume.background} if volume.background else {}),
        "versions": _versions(),
    }
