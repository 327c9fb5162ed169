"""jobs.preprocess end to end beside a MONAI chain, nnU-Net and the physical limit of this machine.

`python -m benchmarks.preprocess limit CASES` measures the limit alone.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
from isal import igzip

from benchmarks.material import make_cases
from benchmarks.table import Row, in_turn, peer, python
from bts.cases import find_cases
from bts.preprocess import load_case
from bts.storage import Store

CASES = 68
PEER_CASES = 17
RUNS = 2


def rows(place: Path) -> Iterator[Row]:
    cases, few = make_cases(place, CASES), make_cases(place, PEER_CASES)
    whole, steady = {}, {}

    def ours(cores: str = "") -> float:
        whole[cores], steady[cores] = run(cases, place / "made", cores)
        return whole[cores]

    def monai() -> float:
        return peer("monai_preprocess.py", str(few), str(place / "monai"))["seconds"]

    mine, theirs = in_turn(RUNS, ours, monai)
    yield Row(what="preprocess", unit="s/case", ours=mine, against="MONAI chain", theirs=theirs, target=2.8)
    own, fingerprint = nnunet(few, make_cases(place, 2), place / "nnunet")
    both = own + fingerprint
    last = [mine[-1]]
    yield Row(what="preprocess", unit="s/case", ours=last, against="nnU-Net", theirs=[own], target=4)
    yield Row(
        what="preprocess",
        unit="s/case",
        ours=last,
        against="nnU-Net with fingerprint",
        theirs=[both],
        target=14,
    )
    mine, limits, going = [], [], []
    for _ in range(RUNS):
        mine.append(ours())
        going.append(steady[""])
        limits.append(python("-m", "benchmarks.preprocess", "limit", str(few))["seconds"])
    against = "gunzip + zstd on all cores"
    yield Row(what="preprocess", unit="s/case", ours=mine, against=against, theirs=limits, target=0.7)
    yield Row(what="preprocess, once Ray is up", unit="s/case", ours=going, against=against, theirs=limits)
    ours("0")
    yield Row(
        what="preprocess, all cores", unit="s/case", ours=[steady[""]], against="one core",
        theirs=[steady["0"]], target=1.8 * (os.cpu_count() or 2) / 2,
    )  # fmt: skip
    yield size_row(cases, place / "made")


def run(cases: Path, shards: Path, cores: str) -> tuple[float, float]:
    """(seconds a case of the whole job, between its first and its last shard)."""
    shutil.rmtree(shards, ignore_errors=True)
    started = time.perf_counter()
    python("-m", "jobs.preprocess", "--cases", str(cases), "--shards", str(shards), cores=cores)
    took = time.perf_counter() - started
    written = sorted(file.stat().st_mtime for file in shards.glob("*.parquet"))
    # The first shards come one a core, together.
    skip = os.cpu_count() or 1
    return took / len(written), (written[-1] - written[skip - 1]) / (len(written) - skip)


def nnunet(many: Path, few: Path, place: Path) -> tuple[float, float]:
    """Seconds a case of nnU-Net's (preprocessing, fingerprint), without the start of its workers."""
    found = []
    for cases in (many, few):
        shutil.rmtree(place, ignore_errors=True)
        found.append(peer("nnunet_preprocess.py", str(cases), str(place)))
    cases = found[0]["cases"] - found[1]["cases"]
    return tuple((found[0][step] - found[1][step]) / cases for step in ("preprocess", "fingerprint"))


def size_row(cases: Path, shards: Path) -> Row:
    source = sum(file.stat().st_size for file in cases.rglob("*.nii.gz")) / 2**30
    made = sum(file.stat().st_size for file in shards.glob("*.parquet")) / 2**30
    return Row(
        what="size of the shards", unit="GiB", ours=[made], against="their .nii.gz", theirs=[source], target=1
    )


def limit(folder: Path) -> float:
    """Seconds a case to gunzip its files and zstd its cropped pixels, on all cores at once."""
    cases = sorted(folder.iterdir())
    with get_context("spawn").Pool(os.cpu_count(), initializer=_load, initargs=(folder,)) as pool:
        pool.map(_pack, cases, chunksize=1)  # warm
        started = time.perf_counter()
        pool.map(_pack, cases, chunksize=1)
        return (time.perf_counter() - started) / len(cases)


PIXELS: dict[str, bytes] = {}


def _load(folder: Path) -> None:
    """What the limit does not count: the pixels that it encodes."""
    store = Store(str(folder))
    for case in find_cases(store.list(), "auto").cases:
        PIXELS[case.id] = load_case(case, store).images.tobytes()


def _pack(case: Path) -> None:
    for file in case.iterdir():
        igzip.decompress(file.read_bytes())
    pa.Codec("zstd", 1).compress(PIXELS[case.name])


if __name__ == "__main__":
    print(json.dumps({"seconds": limit(Path(sys.argv[2]))}))
