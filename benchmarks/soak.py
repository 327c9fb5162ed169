"""A night that goes wrong: `python -m benchmarks.soak [--cases 200] [--every 4]`, in about five minutes.

Small phantom cases in a bucket of this machine are segmented by one run, while one case kills every worker
that predicts it, every few seconds a random worker of the job gets SIGKILL, and the store fails twice: once
every reading is refused (503) and once nobody answers at all. The run must end by itself, with a labelmap of
every other case, equal to that of a calm run, and with one named failure.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.memory import make_cases, make_model
from bts.errors import LOST
from tests import servers
from tests.clusters import workers_below
from tests.faults.proxy import Faults

# Those at work. Not Ray's own actors: a run ends without them; not those that start, or none would ever work.
WORKERS = ("ray::MapWorker", "ray::MapBatches(")
FAILS_S = 8  # of each of the store's failures; within the patience of its clients
BUCKET = "night"


class Bucket:
    """An S3 server over a folder, behind a proxy that can refuse, and be gone."""

    def __init__(self, folder: Path):
        self.port, self.door = servers.free_port(), servers.free_port()
        self.server = servers.start_s3(folder, self.port, "--log-level", "ERROR")
        self.open()
        os.environ |= servers.s3_environment(self.door)
        if not servers.is_open(self.port, self.server):
            raise SystemExit("the S3 server did not start")

    def open(self) -> None:
        command = [sys.executable, "-m", "tests.faults.proxy", str(self.door), str(self.port)]
        self.proxy = subprocess.Popen(
            command, stderr=subprocess.DEVNULL
        )  # resets, of workers that are killed
        if not servers.is_open(self.door, self.proxy):
            raise SystemExit("the proxy did not start")

    def refuse(self) -> int:
        """Every reading, for FAILS_S; how many there were."""
        with Faults(self.door).inject("503", times=0) as refused:
            time.sleep(FAILS_S)
            return refused()

    def be_gone(self) -> None:
        """Nobody answers, for FAILS_S."""
        self.proxy.kill()
        self.proxy.wait()
        time.sleep(FAILS_S)
        self.open()

    def close(self) -> None:
        for process in (self.proxy, self.server):
            process.kill()
            process.wait()


def start(place: Path, module: str, *more: str, labelmaps: str, log: Path | None = None) -> psutil.Popen:
    command = [sys.executable, "-m", module, *more, "--cases", f"s3://{BUCKET}/cases"]
    command += ["--model", f"{place}/tiny.safetensors", "--labelmaps", labelmaps, "--ray", "yes"]
    said = open(log, "wb") if log else subprocess.DEVNULL  # noqa: SIM115
    return psutil.Popen(command, stdout=said, stderr=subprocess.STDOUT)


def kill_one(job: psutil.Popen, rng: random.Random) -> bool:
    """SIGKILL a random worker of the job."""
    workers = sorted(workers_below(job.pid, WORKERS), key=lambda worker: worker.pid)
    if workers:
        rng.choice(workers).kill()
    return bool(workers)


def torment(job: psutil.Popen, results: Path, every: float, bucket: Bucket, cases: int) -> Counter:
    """Kill workers until the job ends; the store fails early, for reading runs ahead, and half-way."""
    rng, did, struck = random.Random(0), Counter(), time.monotonic()

    def refuse() -> None:
        did["readings refused"] += bucket.refuse()

    failures = [(cases // 2, bucket.be_gone), (cases // 20, refuse)]
    under_way, seen = None, 0
    while job.poll() is None:
        written = len(list(results.glob("*.nii.gz")))
        if failures and written >= failures[-1][0] and not (under_way and under_way.is_alive()):
            under_way = threading.Thread(target=failures.pop()[1])
            under_way.start()
            did["failures of the store"] += 1
        # On a slow machine a new worker needs its time, or the run would stand still.
        if written > seen and time.monotonic() - struck > every and kill_one(job, rng):
            did["workers killed"] += 1
            struck, seen = time.monotonic(), written
        time.sleep(0.1)
    if under_way:
        under_way.join()
    return did


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--every", type=float, default=4, help="seconds between kills")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_cases(place / "s3" / BUCKET / "cases", arguments.cases)
        make_model(place / "tiny.safetensors")
        bucket = Bucket(place / "s3")
        try:
            return soak(place, bucket, arguments.cases, arguments.every)
        finally:
            bucket.close()


def soak(place: Path, bucket: Bucket, cases: int, every: float) -> int:
    began = time.monotonic()
    start(place, "jobs.segment", labelmaps=f"{place}/calm").wait()
    calm = time.monotonic() - began
    poison = sorted(path.name for path in (place / "s3" / BUCKET / "cases").iterdir())[cases // 2]
    results, log = place / "s3" / BUCKET / "labelmaps", place / "soak.log"
    began = time.monotonic()
    job = start(place, "benchmarks.poison", poison, labelmaps=f"s3://{BUCKET}/labelmaps", log=log)
    did = torment(job, results, every, bucket, cases)
    took = time.monotonic() - began
    voxels = gzip.decompress(next((place / "calm").glob("*.nii.gz")).read_bytes())
    whole = sum(gzip.decompress(path.read_bytes()) == voxels for path in results.glob("*.nii.gz"))
    records = len(list((results / "_done").iterdir()))
    print(log.read_text(errors="replace"), file=sys.stderr)
    reports = [json.loads(path.read_bytes()) for path in (results / "_runs").glob("*.json")]
    failed = [(f["case_id"], f["stage"], f.get("kind")) for one in reports for f in one["failed_cases"]]
    print(f"{cases} cases, one a poison; {', '.join(f'{count} {what}' for what, count in did.items())}")
    print(
        f"one run of {took:.0f} s (calm: {calm:.0f} s), exit {job.returncode}: {whole} labelmaps whole, "
        f"{records} result records; failed: {failed}"
    )
    happened = did["failures of the store"] == 2 and did["readings refused"] and did["workers killed"]
    right = (whole, records, failed) == (cases - 1, cases - 1, [(poison, "predict", LOST)])
    return int(not (happened and right))


if __name__ == "__main__":
    sys.exit(main())
