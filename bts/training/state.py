"""Where a training stands: weights, counters and figures; how to begin it and how to resume it."""

import contextlib
import copy
import io
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from bts.errors import UsageError
from bts.inference.segmenter import Segmenter
from bts.model.device import in_channels_last
from bts.model.file import Model, save_model
from bts.model.nets import build
from bts.model.nets.encoder_unet import EncoderUNet, load_encoder
from bts.settings import Optimiser, Preset
from bts.settings_json import to_dict
from bts.training.log import best_epoch
from bts.training.muon import Muon

COUNTERS = (
    "epoch", "step", "seconds", "lr", "losses", "rates", "metrics", "validations",
    "best_score", "best", "since_best", "flat", "falls", "cooling",
)  # fmt: skip
"""What a checkpoint keeps besides the weights."""
BROKEN = (RuntimeError, ValueError, EOFError, pickle.UnpicklingError)
"""What `torch.load` raises for a part of a file."""


@dataclass(kw_only=True)
class Part:
    """What is done of an epoch that is not over."""

    world: int
    parts: int
    """Batches of a step, of all ranks together."""
    steps: int = 0
    loss: torch.Tensor | float = 0.0
    """Sum over this rank's batches."""
    batches: int = 0

    def add(self, losses: list[torch.Tensor]) -> None:
        """A step, of these batches."""
        self.steps += 1
        self.loss = sum(losses, self.loss)
        self.batches += len(losses)


@dataclass(kw_only=True)
class Progress:
    """Where a training stands: weights and counters; what `on_epoch` gets and `state` keeps."""

    preset: Preset
    network: nn.Module
    average: nn.Module
    """Running average of the weights (the network itself where none is wanted): validated and saved."""
    optimiser: torch.optim.Optimizer
    epoch: int = 0
    """Epochs done; the last one of a run on minutes may be cut short."""
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Wall-clock seconds of training, over all resumes together."""
    share: float = 0.0
    """Of the budget that is spent, at most 1."""
    lr: float = 0.0
    """Learning rate of the last step."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch."""
    rates: list[float] = field(default_factory=list)
    """Learning rate at the end of each epoch."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last epoch: loss, lr, samples_per_second, wait_share; the validation's figures when it ran."""
    validations: dict[int, dict[str, float]] = field(default_factory=dict)
    """Figures of each validation, by epochs done."""
    best_score: float | None = None
    """Mean Dice of the best validation so far."""
    best: dict[str, torch.Tensor] | None = None
    """Averaged weights of the best validation so far."""
    since_best: int = 0
    """Validations since the best one."""
    flat: int = 0
    """Validations without gain that count towards the plateau schedule's next fall."""
    falls: int = 0
    """Falls of the learning rate by the plateau schedule."""
    cooling: int = 0
    """Validations that do not count yet, after a fall."""
    part: Part | None = None
    """Of the epoch under way."""
    done: bool = False
    """The budget is spent, or there was no gain for too long: this was the last epoch."""

    @property
    def stalled(self) -> bool:
        """No gain for as many validations as the budget's patience."""
        patience = self.preset.budget.patience
        return patience is not None and self.since_best >= patience

    def begin_epoch(self, world: int, parts: int) -> Part:
        """What is done of this epoch: nothing, or what a resumed run had done with as many ranks."""
        if self.part is None or (self.part.world, self.part.parts) != (world, parts):
            self.part = Part(world=world, parts=parts)
        return self.part

    @property
    def begun(self) -> Part:
        """`part`, within an epoch."""
        assert self.part is not None
        return self.part

    def end_epoch(self, figures: dict[str, float]) -> None:
        """Take in the epoch under way."""
        self.losses.append(float(self.begun.loss) / max(1, self.begun.batches))
        self.rates.append(self.lr)
        self.metrics = {"loss": self.losses[-1], "lr": self.lr, **figures}
        self.epoch, self.part = self.epoch + 1, None

    def judge(self, score: float) -> None:
        """Take in a validation's score: keep the weights if none was better, count what stands still."""
        settings, better = self.preset.optimiser, self.best_score is None or score > self.best_score
        self.since_best = 0 if better else self.since_best + 1
        self.flat = 0 if better or self.cooling else self.flat + 1
        self.cooling = max(0, self.cooling - 1)
        if settings.schedule == "plateau" and self.flat >= settings.patience:
            self.falls, self.flat, self.cooling = self.falls + 1, 0, settings.cooldown
        if self.best_score is None or score >= self.best_score:
            self.best_score = score
            weights = self.average.state_dict()
            self.best = {key: value.detach().cpu().clone() for key, value in weights.items()}

    def state(self) -> bytes:
        """Everything that resuming needs, as bytes that `torch.load(weights_only=True)` reads."""
        kept = {name: getattr(self, name) for name in COUNTERS}
        modules = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimiser")}
        part = vars(self.part) if self.part else None
        buffer = io.BytesIO()
        torch.save({"preset": to_dict(self.preset), "part": part, **kept, **modules}, buffer)
        return buffer.getvalue()

    def restore(self, state: bytes) -> None:
        """Go on from the bytes of `state`. Raises UsageError when another preset, or another version of this
        program, wrote them."""
        values = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        if missing := {"preset", "part", "network", "average", "optimiser", *COUNTERS} - values.keys():
            problem = f"the checkpoint is of another version of this program (it lacks {sorted(missing)[0]})"
            raise UsageError(f"{problem}; delete it to begin anew")
        if _identity(values["preset"]) != _identity(to_dict(self.preset)):
            raise UsageError("the checkpoint is of a training with other settings; name this one otherwise")
        for name in COUNTERS:
            setattr(self, name, values[name])
        self.part = Part(**values["part"]) if values["part"] else None
        for name in ("network", "average", "optimiser"):
            getattr(self, name).load_state_dict(values[name])

    def segmenter(self) -> Segmenter:
        """Segments with the averaged weights as they are now."""
        device = next(self.average.parameters()).device
        return Segmenter([Model(self.average, self.preset, {}, "")], device=device)

    def model_file(self, meta: dict) -> bytes:
        """The model with the best validated weights, or the last where nothing was validated."""
        network = copy.deepcopy(self.average)
        if self.best is not None:
            network.load_state_dict(self.best)
        return save_model(network, self.preset, meta)


def _identity(preset: dict) -> dict:
    """A preset without what may change between two runs of one training."""
    return {key: value for key, value in preset.items() if key not in ("budget", "inference", "summary")}


def start(
    preset: Preset, device: torch.device, checkpoint: bytes | None = None, encoder: bytes | None = None
) -> Progress:
    """Fresh weights by the preset's seed (pretrained ones in the encoder, if given), or a checkpoint's."""
    with torch.random.fork_rng():
        torch.manual_seed(preset.seed)
        network = build(preset)
    if encoder and not checkpoint:
        assert isinstance(network, EncoderUNet), "Preset refuses layers.weights of others"
        load_encoder(network, encoder)
    in_channels_last(network.to(device), 3 if preset.volumetric else 2)
    average = copy.deepcopy(network) if preset.optimiser.ema else network
    optimiser = make_optimiser(network, preset.optimiser)
    progress = Progress(preset=preset, network=network, average=average, optimiser=optimiser)
    if checkpoint is not None:
        progress.restore(checkpoint)
    return progress


def furthest(states: Iterable[bytes | None]) -> bytes | None:
    """Of checkpoints of one training the one that got furthest; one that was cut off in writing is none."""
    kept, most = None, (-1, -1)
    for state in filter(None, states):
        with contextlib.suppress(*BROKEN):
            values = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
            if (values["epoch"], values["step"]) > most:
                kept, most = state, (values["epoch"], values["step"])
    return kept


def outcome(progress: Progress) -> dict:
    """What a model's header says of its training."""
    best = best_epoch(progress.validations)
    return {"epochs": progress.epoch, "best_epoch": best, "validation": progress.validations[best]}


def make_optimiser(network: nn.Module, settings: Optimiser) -> torch.optim.Optimizer:
    """Over all parameters of the network."""
    lr, momentum, decay = settings.lr, settings.momentum, settings.weight_decay
    if settings.kind == "muon":
        return Muon(network, lr=lr, momentum=momentum, weight_decay=decay)
    parameters = network.parameters()
    if settings.kind == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return kind(parameters, lr=lr, betas=(momentum, 0.999), weight_decay=decay, fused=True)
