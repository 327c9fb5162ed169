"""jobs.train with two workers on one GPU: `python -m benchmarks.gpu.two_ranks PRESET [flags of jobs.train]`.

The command itself gives each worker a GPU of its own, and NCCL takes one rank a GPU. Here each gets half of
one, and gloo carries the gradients: all else is what two GPUs would run. Without a GPU they share the CPU.
"""

import sys
from functools import partial

import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig

from jobs import train
from jobs.driver import training

WORKERS = 2


def halves(settings: training.Asked) -> ScalingConfig:
    """Half a GPU for each worker."""
    gpu = torch.cuda.is_available()
    each = {"CPU": 1.0, **({"GPU": 1 / WORKERS} if gpu else {})}
    return ScalingConfig(num_workers=WORKERS, use_gpu=gpu, resources_per_worker=each)


if __name__ == "__main__":
    training.scaling = halves
    training.Trainer = partial(training.Trainer, torch_config=TorchConfig(backend="gloo"))
    sys.exit(train.cli([*sys.argv[1:], "--workers", str(WORKERS)]))
