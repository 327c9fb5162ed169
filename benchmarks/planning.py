"""What planning a large bucket costs: `python -m benchmarks.planning [--cases 100000]`.

Folders of empty files with the names of BraTS cases, five a case; `jobs.preprocess --dry-run` lists and plans
them all. Prints seconds and peak memory of the whole command, for a quarter, a half and all of the cases.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

MODALITIES = ("t1n", "t1c", "t2w", "t2f", "seg")


def make_cases(folder: Path, start: int, stop: int) -> None:
    for n in range(start, stop):
        case = f"BraTS-GLI-{n:06d}-000"
        (folder / case).mkdir(parents=True)
        for modality in MODALITIES:
            (folder / case / f"{case}-{modality}.nii.gz").touch()


def measure(command: list[str]) -> tuple[float, float, dict]:
    """(seconds, peak GiB, last line) of a command."""
    began, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as out:
        job = psutil.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        while job.poll() is None:
            try:
                peak = max(peak, sum(p.memory_info().rss for p in (job, *job.children(recursive=True))))
            except psutil.NoSuchProcess:
                continue
            time.sleep(0.05)
        seconds = time.monotonic() - began
        out.seek(0)
        return seconds, peak / 2**30, json.loads(out.read().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    wanted = parser.parse_args().cases
    print(f"{'cases':>9}{'objects':>9}{'seconds':>9}{'peak GiB':>10}")
    with tempfile.TemporaryDirectory() as place:
        made = 0
        for count in (wanted // 4, wanted // 2, wanted):
            make_cases(Path(place, "cases"), made, count)
            made = count
            command = [sys.executable, "-m", "jobs.preprocess", "--dry-run"]
            command += ["--cases", f"{place}/cases", "--shards", f"{place}/shards"]
            seconds, peak, line = measure(command)
            assert line["todo"] == count, line
            print(f"{count:9}{5 * count:9}{seconds:9.1f}{peak:10.2f}", flush=True)


if __name__ == "__main__":
    main()
