"""What a folder of shards holds: case, patient, group and number of slices of each, read from the footers."""

import math
from collections.abc import Collection, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.parquet as pq

from bts.cases.case import STATISTICS, CaseVolume
from bts.cases.worklist import NOTE
from bts.errors import RunError, UsageError, first_line
from bts.modalities import MODALITIES
from bts.shards.format import metadata_of, read_volume
from bts.shards.holds import in_force
from bts.storage import Store

READERS = 16  # threads; each waits for a few small ranged reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard as its footer, first row group and counts of voxels describe it."""

    key: str
    case: str
    patient: str
    dataset: str = ""
    """As the shard has it; "other" where the case's name told none."""
    group: str
    """Tumour type or grade where known, else the data set: what splits are stratified by."""
    slices: int
    labelled: bool
    """Has a truth."""
    outdated: bool = False
    """Its case failed when it was last preprocessed: the shard is of older files."""
    modalities: tuple[str, ...]
    labels: str
    """Label convention of its truth, as Case has it."""
    voxels: int
    """Of the source's whole grid."""
    brain: int
    """Voxels that are not zero in some modality."""
    tumour: int
    """Labelled voxels; 0 without a truth."""
    zooms: tuple[float, float, float]
    """mm along D, H, W."""
    bytes: int
    """Of its slices, uncompressed."""
    mean: tuple[float, ...]
    """Of each modality over the brain, in the order of `modalities`."""
    std: tuple[float, ...]
    p01: tuple[float, ...]
    p99: tuple[float, ...]

    @property
    def images(self) -> tuple:
        """Equal of two shards only where their images are: all statistics, and the size of the brain."""
        return (self.modalities, self.brain, self.mean, self.std, self.p01, self.p99)


def read_catalogue(store: Store, only: Collection[str] = ()) -> list[Shard]:
    """Every shard below the store's root, sorted by key; without those that are superseded, and kept for
    a training that reads them.

    only: these alone, as they were when a training began: none of them is outdated.

    Raises UsageError where there is none, where one cannot be read, and where a case has two: a crash came
    between writing a new shard and deleting the one it replaces.
    """
    there = [entry.key for entry in store.list()]
    keys = [key for key in there if key.endswith(".parquet") and not key.startswith("_")]
    failed: dict[str, set[str]] = {}
    for note in filter(None, map(NOTE.fullmatch, there)):
        failed.setdefault(note["case"], set()).add(note["mark"])
    if only:
        if gone := sorted({*only} - {*keys}):
            problem = f"{len(gone)} shards that the training began with are gone, {gone[0]} for one"
            raise UsageError(f"{store.uri}: {problem}; start anew with those of now (--fresh)")
        keys, failed = sorted(only), {}
    else:
        keys = in_force(keys, there)
    if not keys:
        raise UsageError(f"{store.uri}: no shards there; make them with python -m jobs.preprocess")
    with ThreadPoolExecutor(READERS) as threads:
        shards = list(threads.map(lambda key: _describe(store, key, failed), keys))
    seen: dict[str, str] = {}
    for shard in shards:
        if shard.case in seen:
            apart = shard.key.rpartition("/")[0] != seen[shard.case].rpartition("/")[0]
            mend = "run jobs.preprocess again, which removes the outdated one"
            raise UsageError(
                f"{store.uri}: case {shard.case} has two shards, {seen[shard.case]} and {shard.key}; "
                + ("give a folder that holds one of them" if apart else mend)
            )
        seen[shard.case] = shard.key
    return shards


def open_shard(store: Store, key: str):
    """A shard as a file for pyarrow, read range by range: s3fs would read 50 MB ahead for a footer."""
    return store.fs.open(store.path(key), "rb", cache_type="none")


def read_shard(store: Store, key: str, modalities: tuple[str, ...]) -> CaseVolume:
    """The case of one shard. Raises UsageError where it cannot be read, RunError where the store fails."""
    try:
        return read_volume(store.read(key), modalities)
    except Exception as error:
        raise blame(store, key, error) from error


def blame(store: Store, key: str, error: Exception) -> Exception:
    """The store, if it does not give the shard at all; else the shard."""
    try:
        store.read(key)
    except OSError as refused:
        return RunError(f"{store.uri}/{key}: cannot be read: {refused}")
    problem = "".join(filter(str.isprintable, first_line(error)))
    mend = "delete it and run jobs.preprocess again"
    return UsageError(f"{store.uri}/{key}: not a shard of this project, or damaged ({problem}); {mend}")


def _describe(store: Store, key: str, failed: Mapping[str, Set[str]]) -> Shard:
    """`failed`: fingerprints under which each case failed; under its shard's own it has been done since."""
    try:
        with open_shard(store, key) as raw:
            file = pq.ParquetFile(raw, pre_buffer=True)
            meta = metadata_of(file.schema_arrow)
            first = file.read_row_group(0, columns=["case_id", "patient_id", "dataset", "group", *STATISTICS])
            counts = file.read(columns=["brain_px", "tumour_px"])
    except Exception as error:  # each store raises its own classes
        raise blame(store, key, error) from error
    row = {name: first[name][0].as_py() for name in first.column_names}
    places = [MODALITIES.index(m) for m in meta["modalities"]]
    return Shard(
        key=key,
        case=row["case_id"],
        patient=row["patient_id"],
        dataset=row["dataset"] or "",
        group=row["group"] or row["dataset"] or "",
        slices=file.metadata.num_rows,
        labelled=counts["tumour_px"].null_count == 0,
        outdated=bool(failed.get(row["case_id"], set()) - {key.split(".")[-2]}),
        modalities=tuple(meta["modalities"]),
        labels=meta["labels"],
        voxels=math.prod(meta["source_shape"]),
        zooms=tuple(meta["zooms"]),
        brain=pc.sum(counts["brain_px"]).as_py(),
        tumour=pc.sum(counts["tumour_px"]).as_py() or 0,
        bytes=sum(file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups)),
        **{name: tuple(row[name][place] for place in places) for name in STATISTICS},
    )
