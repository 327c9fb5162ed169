"""What was tried to make it faster, each beside what the project does: `python -m benchmarks.tried [NAME …]`.

On one case, predicted with the network of `fast` on single slices and random weights, unless said otherwise.
"""

import argparse
import gzip
import io
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import torch
from isal import igzip

from benchmarks.material import make_cases
from benchmarks.table import peer, timed
from bts.cases.case import CaseVolume
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.inference.postprocess import postprocess, postprocess_box
from bts.inference.segmenter import Segmenter
from bts.model import device
from bts.model.file import BOX, Model
from bts.model.nets import build
from bts.model.nets.instance_norm import InstanceNorm3d
from bts.model.normalise import constants, normalise
from bts.presets import FAST, FAST3D
from bts.settings import Layers, Sampling
from bts.shards.format import table_of
from bts.storage import Store
from bts.training.state import start
from bts.training.step import train_step

RUNS = 5
FLAT = replace(FAST, sampling=Sampling())  # single slices
BASIC = replace(FLAT, layers=Layers(widths=(32, 64, 128, 256, 512), norm="batch"))  # 7.8 million parameters


def seconds(work: Callable[[], object]) -> float:
    """Median of some runs after one that warms up."""
    work()
    return statistics.median(timed(work) for _ in range(RUNS))


def segmenter(preset=FLAT, **options) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter([Model(build(preset), preset, {}, "")], **options)


def batches(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    for size in (4, 8, 16, 32, 64):
        one = segmenter(batch=size)
        yield f"{size} slices at once", seconds(lambda one=one: one(volume))


def threads(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    before, one = torch.get_num_threads(), segmenter()
    for count in range(1, (os.cpu_count() or 1) + 1):
        torch.set_num_threads(count)
        yield f"{count} threads", seconds(lambda: one(volume))
    torch.set_num_threads(before)


def precision(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    images = torch.from_numpy(np.asarray(volume.images, np.float32)).transpose(0, 1)
    images = torch.nn.functional.pad(images, (0, -images.shape[3] % 16, 0, -images.shape[2] % 16))
    for name, preset in (("fast", FLAT), ("7.8 M U-Net", BASIC)):
        for kind, memory in ((k, m) for k in (torch.bfloat16, torch.float32) for m in (True, False)):
            network = build(preset).eval()
            form = torch.channels_last if memory else torch.contiguous_format
            network.to(memory_format=form)

            @torch.inference_mode()
            def work(network=network, kind=kind, form=form) -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=kind is torch.bfloat16):
                    for slices in images.split(16):
                        network(slices.contiguous(memory_format=form))

            yield f"{name}, {kind}, {'channels_last' if memory else 'channels_first'}", seconds(work)


def compiled(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    for name, preset in (("fast", FLAT), ("7.8 M U-Net", BASIC)):
        one = segmenter(preset)
        yield f"{name}, as it is", seconds(lambda one=one: one(volume))
        one.models[0].network.compile()
        yield f"{name}, torch.compile: the first case", timed(lambda one=one: one(volume))
        yield f"{name}, torch.compile: each other", seconds(lambda one=one: one(volume))


def traced(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    """Convolution and normalisation folded into one, the graph frozen (oneDNN sees what follows what)."""
    for name, preset in (("fast", FLAT), ("7.8 M U-Net", BASIC)):
        one = segmenter(preset)
        yield f"{name}, as it is", seconds(lambda one=one: one(volume))
        model = one.models[0]
        example = torch.zeros(16, 4, 160, 128).contiguous(memory_format=torch.channels_last)
        with warnings.catch_warnings(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            warnings.simplefilter("ignore")
            frozen = torch.jit.freeze(torch.jit.trace(model.network, example, check_trace=False))
        model.network = frozen
        yield f"{name}, traced and frozen", seconds(lambda one=one: one(volume))


def labelmap_gzip(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    data = volume.whole(volume.mask).tobytes()
    for name, work in {
        "isal, level 0": lambda: igzip.compress(data, 0),
        "isal, level 1": lambda: igzip.compress(data, 1),
        "isal, level 2": lambda: igzip.compress(data, 2),
        "isal, level 3": lambda: igzip.compress(data, 3),
        "zlib, level 1": lambda: gzip.compress(data, 1),
        "zlib, level 6": lambda: gzip.compress(data, 6),
        "zlib, level 9": lambda: gzip.compress(data, 9),
    }.items():
        yield f"{name}, {len(work()) / 1e3:.0f} kB", seconds(work)


def openvino(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    """The bundled 2.5D network by another runtime, on the middle of the brain."""
    known = torch.from_numpy(
        constants(volume.images.swapaxes(0, 1), volume.mean, volume.std, FAST.normalisation)
    )
    slices = normalise(torch.from_numpy(volume.images).transpose(0, 1), known)
    middle, near = len(slices) // 2, FAST.sampling.neighbours
    slices = torch.nn.functional.pad(slices, (0, 160, 0, 160))[
        middle - 32 - near : middle + 32 + near, :, :160, :128
    ]
    stacks = slices.unfold(0, 2 * near + 1, 1).movedim(-1, 2).flatten(1, 2)  # (64, C, H, W)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, stacks.unflatten(0, (4, 16)).numpy())
        found = peer("openvino_predict.py", str(BOX[0]), file.name)
    for name, (took, same) in found.items():
        yield f"{name}, 16 slices, {100 * same:.3f} % of the answers as PyTorch's", took


def volume_steps(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    """CPU time of a step of training on one volume of 128×160×128 voxels with the network of fast3d."""
    shape, few = (1, len(FAST3D.modalities), *FAST3D.size), torch.tensor([500.0, 200.0, 0.0, 1000.0])
    batch = {
        "images": torch.randint(1000, shape, dtype=torch.int16),
        "mask": torch.zeros((1, *FAST3D.size), dtype=torch.uint8),
        "constants": few.expand(*shape[:3], 4),
    }
    for norm, theirs, side in (
        ("batch", False, device.SAFE_SIDE),
        ("instance", False, device.SAFE_SIDE),
        ("instance", True, device.SAFE_SIDE),
        ("instance", True, 10**6),
    ):
        progress = start(replace(FAST3D, layers=replace(FAST3D.layers, norm=norm)), torch.device("cpu"))
        for module in progress.network.modules():
            if theirs and isinstance(module, InstanceNorm3d):
                module.__class__ = torch.nn.InstanceNorm3d
        generator = torch.Generator().manual_seed(0)
        with mock.patch.object(device, "SAFE_SIDE", side):
            name = f"{norm} norm{' of PyTorch' if theirs else ''}{', float32' if side > 1000 else ''}"
            args = (progress, progress.network, [batch], 0.0, generator)
            train_step(*args)
            before = time.process_time()
            train_step(*args)
            yield f"{name}, CPU time", time.process_time() - before


def postprocessing(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    """Rules of fast3d on the ground truth, which has the extent of a labelmap."""
    rules = FAST3D.inference
    for name, rule in (("in the tumour's box", postprocess), ("on the whole crop", postprocess_box)):
        yield f"postprocessing {name}", seconds(lambda rule=rule: rule(volume.mask, rules, 1.0))


def gunzip(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    voxels = volume.whole(volume.images[0]).tobytes()
    data, into = igzip.compress(voxels, 1), np.empty(len(voxels), np.uint8)
    for name, work in {
        "isal's reader": lambda: igzip.IGzipFile(fileobj=io.BytesIO(data)).read(len(voxels)),
        "isal's reader, into an array": lambda: igzip.IGzipFile(fileobj=io.BytesIO(data)).readinto(into),
        "isal, all in one call": lambda: igzip.decompress(data),
        "zlib, all in one call": lambda: gzip.decompress(data),
    }.items():
        yield f"{name}, a modality of {len(data) / 1e6:.1f} MB", seconds(work)


def row_groups(volume: CaseVolume) -> Iterator[tuple[str, float]]:
    table = table_of(volume)
    for size in (8, 32, 128, 1024):
        for level in (1, 3):
            sink = io.BytesIO()

            def write(sink=sink, size=size, level=level) -> None:
                sink.seek(0)
                how = {"compression": "zstd", "compression_level": level, "use_dictionary": False}
                pq.write_table(table, sink, row_group_size=size, write_statistics=False, **how)

            took, data = seconds(write), sink.getbuffer()
            name = f"{size} slices a row group, zstd {level}"
            yield f"{name}: write, {len(data) / 1e6:.1f} MB", took
            yield f"{name}: read", seconds(lambda data=data: pq.read_table(io.BytesIO(data)))


EACH = (
    batches,
    threads,
    precision,
    compiled,
    traced,
    openvino,
    volume_steps,
    postprocessing,
    gunzip,
    labelmap_gzip,
    row_groups,
)
EXPERIMENTS = {one.__name__: one for one in EACH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(EXPERIMENTS))
    given = parser.parse_args().names
    with tempfile.TemporaryDirectory() as place:
        store = Store(str(make_cases(Path(place), 1)))
        (case,) = find_cases(store.list(), "auto").cases
        volume = load_case(case, store)
    for name in given or EXPERIMENTS:
        print(f"{name} (case of {'×'.join(map(str, volume.images.shape))} voxels after the crop)")
        for what, took in EXPERIMENTS[name](volume):
            print(f"    {what:58}{1000 * took:10.1f} ms", flush=True)


if __name__ == "__main__":
    main()
