"""How fast each preset trains on this machine's GPU, or CPU: steps and pixels a second, peak memory.

    python -m benchmarks.gpu.speed --shards DIR [--seconds 5] [PRESET …]

Batches are drawn from real shards beforehand and used again and again: the figure is that of network, loss,
augmentation and optimiser, not of reading. One line of JSON a preset, as soon as it is known. On a CPU the
peak is that of the whole process: give one preset.
"""

import argparse
import json
import resource
import time
from itertools import islice
from math import prod

import torch

from benchmarks.accuracy.alone import batches_of
from bts.model.device import pick_device
from bts.presets import PRESETS
from bts.shards.catalogue import read_catalogue
from bts.storage import Store
from bts.training import step
from bts.training.plan import make_plan
from bts.training.state import start

WARM_UP = {"cuda": 5, "cpu": 1}  # steps that choose kernels and fill caches


def measure(name: str, shards: str, seconds: float) -> dict:
    """Steps of one preset for some seconds."""
    store, device = Store(shards), pick_device()
    plan = make_plan(read_catalogue(store)[:10], PRESETS[name], 0)
    batches = list(islice(batches_of(plan, store)(0), 8))
    progress, generator = start(plan.preset, device), torch.Generator(device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()  # of the preset before
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    steps, began = -WARM_UP[device.type], 0.0
    while steps < 1 or time.perf_counter() - began < seconds:
        if steps == 0:
            wait()
            began = time.perf_counter()
        step.train_step(progress, progress.network, [batches[steps % len(batches)]], 0.0, generator)
        steps += 1
        if steps % 8 == 0:
            wait()
    wait()
    rate = steps / (time.perf_counter() - began)
    pixels = prod(plan.preset.size) * plan.preset.batch
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10  # KiB, on Linux
    peak = torch.cuda.max_memory_allocated() if on_gpu else used
    figures = {"steps_per_second": round(rate, 2), "megapixels_per_second": round(rate * pixels / 1e6, 1)}
    machine = torch.cuda.get_device_name() if on_gpu else "CPU"
    return {
        "preset": name,
        "batch": plan.preset.batch,
        **figures,
        "peak_GiB": round(peak / 2**30, 2),
        "on": machine,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list(PRESETS))
    parser.add_argument("--shards", required=True, help="folder that holds brats/ and figshare/")
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    for name in given.presets:
        of = "figshare" if name.startswith("figshare") else "brats"
        print(json.dumps(measure(name, f"{given.shards}/{of}", given.seconds)), flush=True)


if __name__ == "__main__":
    main()
