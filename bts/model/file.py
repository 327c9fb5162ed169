"""One file = one model: `.safetensors`, weights and in its header all that is needed to run them.

The header's metadata has one key, `bts`, with JSON: format, preset, modalities, normalisation, targets (the
labels of each), provenance. The digest of the file's bytes is the model's identity. Never a pickle.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from bts import tracking
from bts.errors import UsageError
from bts.labels import TARGETS
from bts.model.card import ModelCard, Predicts
from bts.model.device import in_channels_last
from bts.model.header import FORMAT, KEY, digest, read_header, read_metadata
from bts.model.nets import build
from bts.settings import Preset
from bts.settings_json import from_dict, to_dict
from bts.storage import read_file

BUNDLED = "box"
"""The name of the model that comes with the project."""
WEIGHTS = Path(__file__).parents[1] / "weights"  # README.md there is their card
BOX = (WEIGHTS / "fast.safetensors", WEIGHTS / "fast3d.safetensors")
"""Its files, whose probabilities are averaged: networks in 2.5D and in 3D are wrong in different places."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A network with its weights, the preset that made it, its provenance and the digest of its file."""

    network: torch.nn.Module
    preset: Preset
    meta: dict
    digest: str

    @property
    def card(self) -> ModelCard:
        """What is known of it without running it."""
        return _card(self.preset, self.meta, self.digest)


def save_model(network: torch.nn.Module, preset: Preset, meta: dict) -> bytes:
    """The model as bytes; equal weights, preset and meta (JSON values) give equal bytes."""
    header = {
        "format": FORMAT,
        "preset": to_dict(preset),
        "modalities": preset.modalities,
        "normalisation": to_dict(preset)["normalisation"],
        "targets": TARGETS[preset.targets],
        "provenance": meta,
    }
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    return safetensors.torch.save(weights, metadata={KEY: json.dumps(header, sort_keys=True)})


def load_model(data: bytes, name: str) -> Model:
    """The model of a file's bytes, in eval mode on the CPU; `name` is for messages.

    Raises UsageError for a file that is damaged, not a model of this project, or made by a newer version.
    """
    data = bytes(data)
    header = read_header(data, name)
    try:
        preset = from_dict(header["preset"])
        weights = read_weights(data, name)
        _refuse_other_shapes(preset, weights)
        network = build(preset)
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise UsageError(f"{name}: weights and preset do not match ({why}); train it again") from None
    in_channels_last(network.eval(), 3 if preset.volumetric else 2)
    return Model(network, preset, header.get("provenance", {}), digest(data))


def read_weights(data: bytes, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a model file. Raises UsageError where they are damaged, or no numbers."""
    try:
        weights = safetensors.torch.load(data)
    except SafetensorError as error:
        raise UsageError(f"{name}: damaged or truncated ({error}); copy the model file again") from None
    if broken := [key for key, value in weights.items() if not torch.isfinite(value).all()]:
        raise UsageError(f"{name}: {broken[0]} holds values that are no numbers; make the model again")
    return weights


def _refuse_other_shapes(preset: Preset, weights: dict[str, torch.Tensor]) -> None:
    """Raise ValueError where the preset's network has other weights, before memory is asked for them."""
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in build(preset).state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    for key in [*wanted, *found]:
        if wanted.get(key) != found.get(key):
            raise ValueError(f"{key} is to have the shape {wanted.get(key)} and has {found.get(key)}")


def read_models(name: str) -> list[bytes]:
    """The model files that a name tells: the two of "box", or one: models:/NAME@ALIAS, a path or a URI.

    Raises UsageError where there is none, RunError where a store or the registry fails.
    """
    if name == BUNDLED:
        return [file.read_bytes() for file in BOX]
    return [tracking.open_registry(name).read(name) if name.startswith("models:/") else read_file(name)]


def halved(data: bytes) -> bytes:
    """The model file with its weights in half precision; `load_model` gives single precision back."""
    weights = safetensors.torch.load(data)
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    return safetensors.torch.save(half, metadata=read_metadata(data, "the model"))


def card_of(header: dict, digest: str, name: str) -> ModelCard:
    """The card that a header of this project's own models gives. Raises UsageError."""
    try:
        preset = from_dict(header["preset"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        why = " ".join(str(error).split())[:300]
        raise UsageError(f"{name}: its preset is not known here ({why}); train it again") from None
    return _card(preset, header.get("provenance", {}), digest)


def _card(preset: Preset, meta: dict, digest: str) -> ModelCard:
    patients = meta.get("training_patients")
    return ModelCard(
        name=preset.name,
        digest=digest,
        modalities=preset.modalities,
        predicts=Predicts(preset.targets, preset.output),
        inference=preset.inference,
        validation=meta.get("validation", {}),
        inputs=meta.get("inputs", {}),
        training_patients=None if patients is None else tuple(patients),
        validation_patients=_choosers(preset, meta),
    )


def _choosers(preset: Preset, meta: dict) -> tuple[str, ...]:
    """The held-out patients, unless the training validated once, at its end, and was of no sweep."""
    once = meta.get("epochs", 0) <= preset.budget.validate_every and "sweep" not in meta
    return () if once else tuple(meta.get("held_out_patients") or ())
