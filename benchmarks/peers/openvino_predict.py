"""OpenVINO: batches of slices through the network of MODEL as PyTorch runs it, and as OpenVINO does, also in
int8. MODEL BATCHES.npy (float32, normalised, batches of slices) → by name [seconds a batch, share of the
answers (pixels, regions) that are PyTorch's]."""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import torch

from bts.model.device import autocast
from bts.model.file import load_model
from bts.model.nets.folding import folded


def main() -> None:
    torch.set_num_threads(os.cpu_count())
    model = load_model(Path(sys.argv[1]).read_bytes(), sys.argv[1])
    batches = list(np.load(sys.argv[2]))
    network = folded(model.network).to(memory_format=torch.channels_last)
    converted = ov.convert_model(network, example_input=torch.from_numpy(batches[0]))
    small = nncf.quantize(converted, nncf.Dataset(batches), subset_size=len(batches))
    found = {"PyTorch": timed(lambda batch: by_torch(network, batch), batches)}
    for name, each in (("OpenVINO", converted), ("OpenVINO, int8", small)):
        compiled = ov.Core().compile_model(each, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        found[name] = timed(lambda batch, compiled=compiled: compiled(batch)[0], batches)
    truth = found["PyTorch"][1]
    print(json.dumps({name: [took, float((signs == truth).mean())] for name, (took, signs) in found.items()}))


@torch.inference_mode()
def by_torch(network: torch.nn.Module, batch: np.ndarray) -> np.ndarray:
    with autocast(torch.device("cpu")):
        return network(torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)).float().numpy()


def timed(predict, batches: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """(median seconds of a batch after the first, which logits of all batches are above 0)."""
    seconds, signs = [], []
    for batch in batches:
        started = time.perf_counter()
        logits = predict(batch)
        seconds.append(time.perf_counter() - started)
        signs.append(logits > 0)
    return statistics.median(seconds[1:]), np.array(signs)


if __name__ == "__main__":
    main()
