"""A model of another tool → one model file of ours, which jobs.segment runs over a bucket.

Done once, by whoever trusts the source. The weights become tensors of one .safetensors file, all else a
checked description in its header; nothing of the source is executed (but see --trust). The file's digest is
the model's identity, and it is registered in MLflow where one is there.

    python -m jobs.adopt nnUNet_results/Dataset137_BraTS21/nnUNetTrainer__nnUNetPlans__3d_fullres \\
        --models data/models --name brats21
    ray job submit --working-dir . -- python -m jobs.segment --cases s3://b/cases \\
        --model s3://b/models/brats21.safetensors --labelmaps s3://b/labelmaps
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from bts import tracking
from bts.errors import UsageError
from bts.labels import can_be_written, spelt
from bts.modalities import MODALITIES
from bts.storage import Store
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.plans import check_name
from jobs.driver.progress import say


@dataclass(frozen=True)
class Settings:
    """Flags of jobs.adopt."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder, zip or file of the model."""
    models: str
    """Folder or s3://bucket/prefix for the model file, NAME.safetensors."""
    name: str
    """Name of the model."""
    channels: tuple[str, ...] = ()
    """t1, t1ce, t2, flair in the order of the model's channels, where its own description does not tell."""
    labels: str = ""
    """What its label values mean, where its own description does not tell: pairs as jobs.preprocess --labels
    takes them, such as 1=ED,2=NCR,3=ET."""
    configuration: str = ""
    """Which of several trained configurations a source holds, such as 3d_fullres of nnU-Net."""
    trust: bool = False
    """SOURCE is a program (TorchScript, torch.export), which may do anything on being loaded: run it here,
    once, and keep the ONNX graph of its network. Only for what you or somebody whom you trust made."""
    overwrite: bool = False
    """Replace another model of this name."""


def main(settings: Settings) -> Outcome:
    from bts.inference import foreign  # with torch, which --help does without
    from bts.inference.foreign.source import Asked, Source
    from bts.inference.predictor import How
    from bts.model.adopted import load_adopted
    from bts.model.device import pick_device

    check(settings)
    output, key = Store(settings.models), f"{settings.name}.safetensors"
    labels = spelt(settings.labels) if settings.labels else ""
    asked = Asked(
        name=settings.name,
        channels=settings.channels,
        labels=labels,
        configuration=settings.configuration,
        trust=settings.trust,
    )
    kind, data = foreign.convert(Source(settings.source), asked)
    adopted = load_adopted(data, key)
    foreign.predictor(adopted, How(device=pick_device("cpu")))  # refuses now what segment would refuse later
    there = output.keys()
    if key in there and output.read(key) != data and not settings.overwrite:
        raise UsageError(f"{output.uri}/{key}: another model has this name; give --name or --overwrite")
    output.put(key, data)
    card = adopted.card
    say(f"{settings.name}: {kind}, channels {', '.join(card.modalities)}, predicts {card.predicts}")
    counts = {
        "model": f"{output.uri}/{key}",
        "digest": card.digest,
        "kind": kind,
        "modalities": card.modalities,
        "targets": card.predicts.targets,
        "version": register(settings.name, data, card),
    }
    return Outcome(None, counts)


def check(settings: Settings) -> None:
    """Raise UsageError for values that make no sense."""
    check_name(settings.name)
    if unknown := [name for name in settings.channels if name not in MODALITIES]:
        raise UsageError(f"--channels {unknown[0]}: give {', '.join(MODALITIES)}, in the model's order")
    if len(set(settings.channels)) != len(settings.channels):
        raise UsageError(f"--channels {' '.join(settings.channels)}: a modality is given twice")
    if settings.labels and not (spelt(settings.labels) != "auto" and can_be_written(spelt(settings.labels))):
        raise UsageError(f"--labels {settings.labels}: say which value is NCR, which ED and which ET")


def register(name: str, data: bytes, card) -> str:
    """Version in the model registry, empty where there is no MLflow."""
    if not tracking.is_there():
        return ""
    tracker = tracking.Tracker()
    run = tracker.start(f"adopt {name}", card.digest, {"kind": "adopted"}, {})
    version = tracker.register(run, name, data, card.digest, modalities=card.modalities)
    tracker.finish(run)
    return version


if __name__ == "__main__":
    run_job("adopt", Settings, main)
