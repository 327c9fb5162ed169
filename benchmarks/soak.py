"""Workers killed at random while cases are segmented: `python -m benchmarks.soak [--cases 300] [--every 4]`.

Every few seconds one Ray worker of the job gets SIGKILL. Prints how many were killed, how many labelmaps are
whole and equal to those of a calm run, and how many cases were computed twice.
"""

import argparse
import gzip
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.memory import make_cases, make_model

# Not Ray's own actors: a run ends without them.
WORKERS = ("ray::MapWorker", "ray::Map(", "ray::IDLE")


def start(place: Path, labelmaps: str) -> psutil.Popen:
    command = [sys.executable, "-m", "jobs.segment", "--cases", f"{place}/cases"]
    command += ["--model", f"{place}/tiny.safetensors", "--labelmaps", f"{place}/{labelmaps}"]
    return psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_one(job: psutil.Popen, rng: random.Random) -> bool:
    """SIGKILL a random worker of the job."""
    workers = []
    for process in job.children(recursive=True):
        try:
            if "".join(process.cmdline()).startswith(WORKERS):
                workers.append(process)
        except psutil.Error:
            continue
    if not workers:
        return False
    rng.choice(sorted(workers, key=lambda worker: worker.pid)).kill()
    return True


def torment(job: psutil.Popen, results: Path, every: float) -> tuple[int, int]:
    """(workers killed, labelmaps written again) until the job ends."""
    rng, killed, again = random.Random(0), 0, 0
    seen: dict[str, int] = {}
    struck = time.monotonic()
    while job.poll() is None:
        for path in results.glob("*.nii.gz"):
            written = path.stat().st_mtime_ns
            again += seen.setdefault(path.name, written) != written
            seen[path.name] = written
        if seen and time.monotonic() - struck > every:
            killed += kill_one(job, rng)
            struck = time.monotonic()
        time.sleep(0.05)
    return killed, again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--every", type=float, default=4, help="seconds between kills")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_cases(place / "cases", arguments.cases)
        make_model(place / "tiny.safetensors")
        start(place, "calm").wait()
        job, runs, killed, again = start(place, "soak"), 1, 0, 0
        while True:
            more = torment(job, place / "soak", arguments.every)
            killed, again = killed + more[0], again + more[1]
            if job.returncode == 0:
                break
            print(f"run {runs} ended with {job.returncode}; running again", flush=True)
            job, runs = start(place, "soak"), runs + 1
        voxels = gzip.decompress(next((place / "calm").glob("*.nii.gz")).read_bytes())
        found = list((place / "soak").glob("*.nii.gz"))
        whole = sum(gzip.decompress(path.read_bytes()) == voxels for path in found)
        markers = len(list((place / "soak" / "_done").iterdir()))
        print(
            f"{arguments.cases} cases, {killed} workers killed, {runs} runs: {whole} labelmaps whole, "
            f"{markers} markers, {again} labelmaps written twice"
        )
        return int(whole != arguments.cases or markers != arguments.cases)


if __name__ == "__main__":
    sys.exit(main())
