"""A trained folder of nnU-Net v2, or the zip that it exports → one model file.

Checkpoints are read as weights alone: nothing that a pickle may call is called.
"""

import io
import json
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar

from bts.errors import UsageError
from bts.inference.foreign.checks import mapping
from bts.inference.foreign.nnunet.network import our_weights
from bts.inference.foreign.nnunet.plan import read_plan
from bts.inference.foreign.nnunet.plans_json import configuration_of, describe, outputs_of
from bts.inference.foreign.source import Asked, Source
from bts.inference.foreign.words import modalities_of
from bts.model.adopted import save_adopted
from bts.model.targets import LABELS, REGIONAL

CHECKPOINT = "checkpoint_final.pth"
PLANS = re.compile(r"(?P<folder>(?:.+/)?)plans\.json")
FOLD = re.compile(r"fold_(\d+|all)/" + re.escape(CHECKPOINT))
UNFINISHED = re.compile(r"(fold_\d+)/checkpoint_\w+\.pth")
# Of NumPy, what figures of a training are pickled as; the last by its name of before NumPy 2.
HARMLESS: list[Any] = [scalar, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]
HARMLESS += [(scalar, "numpy.core.multiarray.scalar")]


def recognises(source: Source) -> bool:
    """Whether there is a plans.json and a dataset.json beside it."""
    return bool(_folders(source))


def convert(source: Source, asked: Asked) -> bytes:
    """The model file. Raises UsageError that names what is refused."""
    folder = _folder(source, asked.configuration)
    where = f"{source.uri}/{folder}"
    found = sorted(name for name in source.names if FOLD.fullmatch(name.removeprefix(folder)))
    # That of all cases counts where there is no other, as in nnU-Net.
    folds = [name for name in found if "fold_all" not in name] or found
    if not folds:
        raise UsageError(
            f"{where}: has no fold_N/{CHECKPOINT}; train it to its end, or give the whole folder"
        )
    of_folds = (UNFINISHED.fullmatch(name.removeprefix(folder)) for name in source.names)
    unfinished = sorted({one[1] for one in of_folds if one} - {name.split("/")[-2] for name in folds})
    if unfinished and "fold_all" not in folds[0]:
        raise UsageError(
            f"{where}: {unfinished[0]} has no {CHECKPOINT}; train it to its end, or take it out of the folder"
        )
    plans, dataset = (_json(source, folder + name) for name in ("plans.json", "dataset.json"))
    checkpoints = (_checkpoint(source, name) for name in folds)
    try:
        return _converted(asked, plans, dataset, checkpoints, folds)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UsageError(f"{where}: {_reason(error)}; no nnU-Net that can be adopted") from None
    except UsageError as error:
        said = str(error)
        raise UsageError(said if said.startswith(source.uri) else f"{where}: {said}") from None


def _converted(
    asked: Asked, plans: Mapping, dataset: Mapping, checkpoints: Iterable[Mapping], folds: Sequence[str]
) -> bytes:
    weights: dict[str, torch.Tensor] = {}
    first: dict[str, Any] = {}
    for number, found in enumerate(checkpoints):
        first = first or {key: found.get(key) for key in found if key != "network_weights"}
        if _way(found) != _way(first):
            raise UsageError(
                f"{folds[number]} was trained otherwise than {folds[0]} (configuration, trainer or "
                "mirroring); take one of them out of the folder"
            )
        for key, value in our_weights(mapping(found.get("network_weights"), "network_weights")).items():
            weights[f"{number}.{key}"] = value.float()
    name = first["init_args"]["configuration"]
    configuration = configuration_of(plans, name)
    names: Any = dataset.get("channel_names") or dataset.get("modality")
    modalities = modalities_of([str(names[key]) for key in sorted(names, key=int)], asked)
    outputs = outputs_of(dataset, asked)
    description = {
        **describe(
            plans, configuration, first, len(modalities), len(outputs["regions"] or outputs["labels"])
        ),
        **outputs,
        "folds": len(folds),
    }
    read_plan(description, len(modalities))
    provenance = {
        "tool": "nnU-Net v2",
        "dataset": str(plans.get("dataset_name", "")),
        "plans": str(plans.get("plans_name", "")),
        "configuration": name,
        "trainer": str(first.get("trainer_name", "")),
        "folds": [fold.split("/")[-2] for fold in folds],
    }
    predicts = REGIONAL if outputs["regions"] else LABELS
    return save_adopted("nnunet", asked.name, modalities, predicts, description, weights, provenance)


def _way(checkpoint: Mapping) -> tuple:
    """What the folds of one ensemble have in common."""
    mirrored = checkpoint.get("inference_allowed_mirroring_axes") or ()
    return checkpoint["init_args"].get("configuration"), checkpoint.get("trainer_name"), tuple(mirrored)


def _folders(source: Source) -> list[str]:
    found = (PLANS.fullmatch(name) for name in source.names)
    return [one["folder"] for one in found if one and f"{one['folder']}dataset.json" in source.names]


def _folder(source: Source, configuration: str) -> str:
    """The one trained folder that is meant."""
    found = [one for one in _folders(source) if any(n.startswith(f"{one}fold_") for n in source.names)]
    found = found or _folders(source)
    if configuration:
        found = [one for one in found if one.rstrip("/").rpartition("/")[2].endswith(f"__{configuration}")]
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise UsageError(f"{source.uri}: say which of its trained folders by --configuration: {names}")
    return found[0]


def _json(source: Source, name: str) -> Mapping:
    try:
        return mapping(json.loads(source.read(name)), name)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source.uri}/{name}: no JSON of nnU-Net ({_reason(error)})") from None


def _checkpoint(source: Source, name: str) -> Mapping:
    """A checkpoint's values. Raises UsageError where it is damaged, or would call anything."""
    where = f"{source.uri}/{name}"
    try:
        with torch.serialization.safe_globals(HARMLESS):
            found = torch.load(io.BytesIO(source.read(name)), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        called = re.search(r"(?:GLOBAL|global) ['\"]?([\w.]+)", str(error))
        what = f"would call {called[1]}" if called else "is damaged, or holds more than weights"
        raise UsageError(f"{where}: {what}; it is refused") from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"{where}: no checkpoint of nnU-Net, or damaged ({_reason(error)})") from None
    if not isinstance(found, dict) or not isinstance(found.get("init_args"), dict):
        raise UsageError(f"{where}: no checkpoint of nnU-Net v2")
    return found


def _reason(error: Exception) -> str:
    said = str(error).splitlines()[0] if str(error) else ""
    return f"it does not tell {said}" if isinstance(error, KeyError) else said or type(error).__name__
