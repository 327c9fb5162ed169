"""A model of another tool, as one file: weights as tensors, all else as a checked description in the header.

The header's metadata has one key, `adopted`, with JSON: format, kind (which reader understands it), name,
modalities in the order of its channels, targets and output, provenance, and the kind's own description.
No code, never a pickle; the digest of the file's bytes is the model's identity, as of our own models.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import safetensors.torch
import torch

from bts.errors import UsageError
from bts.modalities import MODALITIES
from bts.model.card import ModelCard, Predicts
from bts.model.file import read_weights
from bts.model.header import digest, parse_header, read_metadata
from bts.model.targets import LABELS, REGIONAL

FORMAT, KEY = 1, "adopted"


@dataclass(frozen=True, slots=True, eq=False)
class Adopted:
    """What the file of an adopted model holds."""

    kind: str
    card: ModelCard
    description: dict
    """The kind's own, as its converter wrote it: read it with care, the file may come from anybody."""
    weights: dict[str, torch.Tensor]


def save_adopted(
    kind: str,
    name: str,
    modalities: Sequence[str],
    predicts: Predicts,
    description: Mapping[str, object],
    weights: Mapping[str, torch.Tensor],
    provenance: Mapping[str, object],
) -> bytes:
    """The model as bytes; equal parts give equal bytes.

    modalities: of ours, in the order of the model's channels. predicts: LABELS or REGIONAL of
    bts.model.targets. description, provenance: JSON values.
    """
    header = {
        "format": FORMAT,
        "kind": kind,
        "name": name,
        "modalities": list(modalities),
        "targets": predicts.targets,
        "output": predicts.output,
        "description": description,
        "provenance": provenance,
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    return safetensors.torch.save(tensors, metadata={KEY: json.dumps(header, sort_keys=True)})


def load_adopted(data: bytes, name: str) -> Adopted:
    """The adopted model of a file's bytes; `name` is for messages. Raises UsageError."""
    header = read_adopted(data, name)
    card = card_of(header, digest(data), name)
    return Adopted(header["kind"], card, header["description"], read_weights(bytes(data), name))


def is_adopted(data: bytes, name: str) -> bool:
    """Whether a model file is of another tool. Raises UsageError for what is no model file."""
    return KEY in read_metadata(data, name)


def read_adopted(data: bytes, name: str) -> dict:
    """The header of an adopted model. Raises UsageError."""
    return parse_header(read_metadata(data, name), KEY, FORMAT, name)


def card_of(header: dict, digest: str, name: str) -> ModelCard:
    """The card that the header of an adopted model gives. Raises UsageError where it makes no sense."""
    texts = [header.get(key) for key in ("kind", "name", "targets", "output")]
    modalities, patients = header.get("modalities"), header.get("training_patients")
    predicts = Predicts(header.get("targets", ""), header.get("output", ""))
    sound = all(isinstance(text, str) for text in texts) and isinstance(header.get("description"), dict)
    if not sound or predicts not in (LABELS, REGIONAL):
        raise UsageError(f"{name}: its header does not say what the model predicts; adopt it again")
    if not isinstance(modalities, list) or not modalities or not all(m in MODALITIES for m in modalities):
        raise UsageError(f"{name}: its header names no modalities of ours; adopt it again")
    if not isinstance(patients, (list, type(None))):
        raise UsageError(f"{name}: its header does not list its training_patients; adopt it again")
    return ModelCard(
        name=header["name"],
        digest=digest,
        modalities=tuple(modalities),
        predicts=predicts,
        brain_only=False,
        training_patients=None if patients is None else tuple(map(str, patients)),
    )
