"""Does memory grow with the number of cases? `python -m benchmarks.memory [--cases 2000]`.

Thousands of small cases through jobs.preprocess and jobs.segment. Prints the peak memory of the driver and of
all its processes together (proportional set size, so that shared pages count once) while the first and while
the second half of the results is written, and their ratio.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from bts.model.file import save_model
from bts.model.nets import build
from bts.phantom.case import write_case
from bts.settings import Budget, Layers, Loss, Preset
from bts.storage import Store


def make_cases(folder: Path, count: int) -> None:
    """One phantom under many names: links, so that the disk holds it once."""
    first = write_case(0, 0, (48, 48, 32))
    for key, data in first.items():
        Store(str(folder)).put(key, data)
    (own,) = {key.split("/")[0] for key in first}
    for n in range(1, count):
        case = f"BraTS-PHANTOM-{n + 10000:05d}-000"
        (folder / case).mkdir()
        for key in first:
            os.link(folder / key, folder / key.replace(own, case))


def make_model(path: Path) -> None:
    layers = Layers(widths=(8, 16))
    preset = Preset(name="tiny", size=(32, 32), layers=layers, loss=Loss(bce=1), budget=Budget(epochs=1))
    torch.manual_seed(0)
    path.write_bytes(save_model(build(preset), preset, {}))


def watch(command: list[str], results: Path, suffix: str, cases: int) -> tuple[list[float], list[float]]:
    """Peak GiB (of the driver, of all processes) in the first and the second half of the results."""
    driver, everyone = [0.0, 0.0], [0.0, 0.0]
    job = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while job.poll() is None:
        half = int(sum(1 for name in os.listdir(results) if name.endswith(suffix)) >= cases // 2)
        used = []
        for process in (job, *job.children(recursive=True)):
            try:
                used.append(process.memory_full_info().pss / 2**30)
            except psutil.Error:
                continue
        if used:
            driver[half] = max(driver[half], used[0])
            everyone[half] = max(everyone[half], sum(used))
        time.sleep(0.5)
    if job.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {job.returncode}")
    return driver, everyone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    cases = parser.parse_args().cases
    print(f"{'job':12}{'whose':10}{'first half, GiB':>17}{'second half':>13}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_cases(place / "cases", cases)
        make_model(place / "tiny.safetensors")
        jobs = {
            "preprocess": (["--shards", f"{place}/preprocess"], place / "preprocess", ".parquet"),
            "segment": (
                ["--model", f"{place}/tiny.safetensors", "--labelmaps", f"{place}/segment"],
                place / "segment",
                ".nii.gz",
            ),
        }
        for name, (flags, results, suffix) in jobs.items():
            results.mkdir()
            command = [sys.executable, "-m", f"jobs.{name}", "--cases", f"{place}/cases", *flags]
            for whose, (first, second) in zip(
                ("driver", "all"), watch(command, results, suffix, cases), strict=True
            ):
                print(f"{name:12}{whose:10}{first:17.2f}{second:13.2f}{second / first:8.3f}", flush=True)


if __name__ == "__main__":
    main()
