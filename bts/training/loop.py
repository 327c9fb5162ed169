"""The training loop: one process or DDP, no Ray inside.

The caller feeds batches and validates; the loop owns the network, its average, the optimiser and the clock.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
import torch.distributed as dist
from torch import nn

from bts.errors import CaseError, RunError
from bts.inference.segmenter import Segmenter
from bts.model.device import pick_device
from bts.settings import Preset
from bts.training.clock import Clock
from bts.training.draw import batches_a_step
from bts.training.log import mean_dice
from bts.training.prefetch import ahead
from bts.training.state import Progress, start
from bts.training.step import BATCH, train_step

CHECK_EVERY = 16
"""Steps between looks at the loss: each look makes the CPU wait for a GPU."""
TELL_S = 30
"""Seconds between two calls of `on_progress`."""


def train(
    preset: Preset,
    *,
    batches: Callable[[int], Iterable[dict]],
    on_epoch: Callable[[Progress], None],
    on_part: Callable[[Progress], None] = lambda progress: None,
    on_progress: Callable[[Progress, dict], None] = lambda progress, figures: None,
    validate: Callable[[Segmenter], dict[str, float]] | None = None,
    checkpoint: bytes | None = None,
    encoder: bytes | None = None,
    device: str | torch.device | None = None,
    rank: int = 0,
    world: int = 1,
    parts: int | None = None,
) -> Progress:
    """Train until the budget is spent.

    batches(epoch): this rank's batches of one epoch, dicts of arrays or tensors as `batches.collate` makes
      them: images, mask, constants. Ranks may have uneven numbers: a rank that has none left waits for the
      others' last.
    parts: batches of a step, of all ranks together, whose gradients are averaged; None: one a rank. With
      fewer ranks than parts some take several, so that a step stays what it was when ranks come and go.
    validate(segmenter) → figures; those named "dice/…" judge the weights, the higher the better. Rank 0's
      count, others may pass None.
    on_epoch(progress): called by every rank after every epoch.
    on_part(progress): likewise within an epoch, every `budget.checkpoint_minutes` of it.
    on_progress(progress, figures): within an epoch, every TELL_S by this rank's own clock: loss, steps (of
      the epoch), samples_per_second, seconds (as in `Progress`), minutes_left (None before that can be told).
    encoder: pretrained weights of encoder_unet's encoder, the bytes of a .safetensors file.
    checkpoint: `Progress.state()` to go on from. With world > 1 torch.distributed must be initialised.
    Equal seeds and batches give equal losses. Raises RunError when the loss is not finite.
    """
    progress = start(preset, pick_device(device), checkpoint, encoder)
    clock, parts = Clock(progress, rank, world), parts or world
    stepper = replicated(progress, parts) if world > 1 else progress.network
    progress.done = clock.share(clock.agree(0)[1]) >= 1 or progress.stalled
    while not progress.done:  # asked once an epoch: the one that ends the budget is validated
        run_epoch(progress, stepper, batches(progress.epoch), clock, parts, on_part, on_progress)
        progress.share = min(1.0, clock.share(clock.agree(0)[1]))
        progress.done = progress.share >= 1
        if progress.done or progress.epoch % preset.budget.validate_every == 0:
            _validate(progress, validate, world)
        progress.done |= progress.stalled
        progress.seconds = clock.seconds()
        on_epoch(progress)
    return progress


def replicated(progress: Progress, parts: int) -> nn.Module:
    """The network as one of several ranks that average their gradients.

    On GPUs batch normalisation is over the batches of all ranks, where each takes one a step: with ranks that
    take several in turn it stays a rank's own, for one would wait for another's. PyTorch has none for CPUs.
    """
    on_gpu = next(progress.network.parameters()).is_cuda
    if on_gpu and parts == dist.get_world_size():
        progress.network = with_shared_norms(progress.network)
    return nn.parallel.DistributedDataParallel(progress.network)


def with_shared_norms(network: nn.Module) -> nn.Module:
    """The network with SyncBatchNorm for batch norms. Not for classes derived from them: those of timm's
    encoders hold the activation too, which PyTorch's own conversion of the whole network would drop.
    """
    for block in list(network.modules()):
        for name, child in list(block.named_children()):
            if type(child) in (nn.BatchNorm2d, nn.BatchNorm3d):
                setattr(block, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
    return network


def run_epoch(
    progress: Progress,
    stepper: nn.Module,
    batches: Iterable[dict],
    clock: Clock,
    parts: int,
    on_part: Callable[[Progress], None],
    on_progress: Callable[[Progress, dict], None],
) -> None:
    """One pass over the batches, or what of it the budget allows (at least a step); updates the progress."""
    part = progress.begin_epoch(clock.world, parts)
    clock.kept = None  # the end of an epoch is kept anyway
    mine = batches_a_step(parts, clock.world)[clock.rank]
    device = next(progress.network.parameters()).device
    batches, last = iter(pinned(batches) if device.type == "cuda" else batches), []
    for batch in islice(batches, part.steps * mine):  # done before this epoch was broken off
        last = [batch]
    stepper.train()
    generator, latest = torch.Generator(device), []
    samples, waited, began = 0, 0.0, time.perf_counter()
    looked = began
    while True:
        asked = time.perf_counter()
        step = list(islice(batches, mine))
        waited += time.perf_counter() - asked
        total, seconds = clock.agree(len(step))
        share = clock.share(seconds)
        if not total or (part.steps and share >= 1):
            break
        last = step[-1:] or last
        if not last:
            raise RunError(f"{_no_batch(progress)} for worker {clock.rank}; give more cases, fewer --workers")
        generator.manual_seed(_seed(progress, part.steps, clock.rank))
        torch.manual_seed(generator.initial_seed())  # of dropout
        weight = clock.world / total if step else 0.0
        losses = train_step(progress, stepper, step or last, share, generator, weight)
        part.add(losses if step else [])
        latest += [(progress.step, loss) for loss in losses]
        samples += sum(len(batch["mask"]) for batch in step)
        if part.steps % CHECK_EVERY == 0:
            _check(latest, progress)
            latest = []
        if (now := time.perf_counter()) - looked >= TELL_S:
            looked = now
            on_progress(progress, _seen(progress, clock, samples / (now - began)))
        if clock.is_due(seconds):
            progress.seconds = clock.seconds()
            on_part(progress)
    if not part.steps:
        raise RunError(f"{_no_batch(progress)}; give more cases or a smaller --batch")
    _check(latest, progress)
    took = time.perf_counter() - began
    progress.end_epoch({"samples_per_second": samples / took, "wait_share": waited / took})


def _seen(progress: Progress, clock: Clock, samples_per_second: float) -> dict:
    """What `on_progress` gets."""
    part = progress.begun
    return {
        "loss": float(part.loss) / max(1, part.batches),
        "steps": part.steps,
        "samples_per_second": samples_per_second,
        "seconds": clock.seconds(),
        "minutes_left": clock.minutes_left(),
    }


def _validate(progress: Progress, validate: Callable | None, world: int) -> None:
    """Figures of the averaged weights on held-out patients: rank 0's, shared with all."""
    if world > 1:  # a rank's norms are its own; rank 0's are those that are kept
        for buffer in progress.average.buffers():
            dist.broadcast(buffer, 0)
    try:
        figures = validate(progress.segmenter()) if validate else None
    except CaseError as error:  # the last step may break the weights after a finite loss
        raise RunError(f"epoch {progress.epoch}: {error}; try a lower --optimiser.lr") from None
    if world > 1:
        shared = [figures]
        dist.broadcast_object_list(shared, src=0)
        figures = shared[0]
    if not figures:
        return
    progress.validations[progress.epoch] = figures
    progress.metrics.update(figures)
    progress.judge(mean_dice(figures))


def _check(losses: list[tuple[int, torch.Tensor]], progress: Progress) -> None:
    """Raise RunError that names the first of the latest losses, each with its step, that is not finite."""
    values = torch.stack([loss for _, loss in losses]).tolist() if losses else []
    for (step, _), value in zip(losses, values, strict=True):
        if not math.isfinite(value):
            raise RunError(
                f"the loss became {value} in epoch {progress.epoch + 1} at step {step}; "
                "try a lower --optimiser.lr"
            )


def _seed(progress: Progress, step: int, rank: int) -> int:
    """Of each step's own: a resumed run draws what an undisturbed one would have drawn."""
    seed = (progress.preset.seed * 1_000_003 + progress.epoch) * 1_000_003 + step
    return (seed * 1009 + rank) % 2**63


def _no_batch(progress: Progress) -> str:
    return f"epoch {progress.epoch + 1} has no batch"


def pinned(batches: Iterable[dict]) -> Iterator[dict]:
    """The same batches in pinned memory, from which a GPU takes them while both go on."""
    return ahead(({key: torch.as_tensor(batch[key]).pin_memory() for key in BATCH} for batch in batches), 2)
