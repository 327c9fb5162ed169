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
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.storage import Store

CASES = 68  # each of the 17 real ones four times
PEER_CASES, LIMIT_CASES = 17, 34  # the same mixture
RUNS = 2


def rows(place: Path) -> Iterator[Row]:
    cases, few, enough = (make_cases(place, count) for count in (CASES, PEER_CASES, LIMIT_CASES))
    steady = []

    def ours() -> float:
        return run(cases, place / "made")[0]

    def by_ray(cores: str = "") -> float:
        whole, going = run(cases, place / "by-ray", cores, ray="yes")
        steady.append(going)
        return whole

    def monai() -> float:
        return peer("monai_preprocess.py", str(few), str(place / "monai"))["seconds"]

    def floor() -> float:
        return python("-m", "benchmarks.preprocess", "limit", str(enough))["seconds"]

    def row(
        against: str, theirs: list[float], target: float | None, mine: list[float], what: str = ""
    ) -> Row:
        return Row(
            what=f"preprocess{what}", unit="s/case", ours=mine, against=against, theirs=theirs, target=target,
            binds="the start, then Parquet, checks and crop: docs/results/performance.md",
        )  # fmt: skip

    mine, with_ray, chain, limits = in_turn(RUNS, ours, by_ray, monai, floor)
    yield row("MONAI chain", chain, 2.8, mine)
    yield row("gunzip + zstd on all cores", limits, 0.8, mine)
    yield row("gunzip + zstd on all cores", limits, 0.8, with_ray, ", by Ray")
    yield row("gunzip + zstd on all cores", limits, 0.85, steady[:], ", once Ray is up")
    own, fingerprint = nnunet(few, make_cases(place, 2), place / "nnunet")
    yield row("nnU-Net", [own], 4, mine[-1:])
    yield row("nnU-Net with fingerprint", [own + fingerprint], 14, mine[-1:])
    by_ray("0")
    *_, all_cores, one_core = steady
    yield row("one core", [one_core], 1.8 * (os.cpu_count() or 2) / 2, [all_cores], ", all cores")
    yield size_row(cases, place / "made")


def run(cases: Path, shards: Path, cores: str = "", ray: str = "auto") -> tuple[float, float]:
    """(seconds a case of the whole job, between its first and its last shard)."""
    shutil.rmtree(shards, ignore_errors=True)
    started = time.perf_counter()
    folders = ["--cases", str(cases), "--shards", str(shards)]
    python("-m", "jobs.preprocess", *folders, "--ray", ray, cores=cores)
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
