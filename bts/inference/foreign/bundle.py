"""MONAI bundles: configs/inference.json, configs/metadata.json and models/model.pt, as in the model zoo.

Nothing of the bundle is run: its config is read by `bundle_config`, its steps are recognised one by one, its
weights come without a pickle's code, and its network is MONAI's own class of that name.
"""

import io
import pickle
import posixpath
import re
from contextlib import suppress
from typing import Any

import torch

from bts.errors import UsageError
from bts.inference.engine import Compiled
from bts.inference.foreign import monai_networks
from bts.inference.foreign.bundle_config import BundleConfig, arguments_of
from bts.inference.foreign.bundle_finish import POSTPROCESSING, read_postprocessing
from bts.inference.foreign.bundle_prepare import PREPROCESSING, read_inferer, read_preprocessing
from bts.inference.foreign.checks import shown
from bts.inference.foreign.recipe import BACKGROUND, RecipePredictor, check_outputs, read_recipe
from bts.inference.foreign.source import Asked, Source
from bts.inference.foreign.words import labels_of, modalities_of
from bts.inference.predictor import How, Predictor
from bts.labels import REGIONS, TARGETS
from bts.model.adopted import Adopted, save_adopted

CONFIG, WEIGHTS, METADATA = "configs/inference.json", "models/model.pt", "configs/metadata.json"
NAMES = {"WT": r"wt|whole.*", "TC": r"tc|tumou?r ?core", "ET": r"et|enhanc.*|gd.*"}
"""What metadata.json may call a region, in small letters."""
USES = (
    ("evaluator", "network", ("network", "network_def")),
    ("evaluator", "inferer", ("inferer",)),
    ("evaluator", "postprocessing", POSTPROCESSING),
    ("dataset", "transform", PREPROCESSING),
)
"""(who, its argument, what of the config it must be)."""
FILE = re.compile(r"[\w.-]+\.(?:pth?|ts)\b")
IN_NETWORK = re.compile(r"\$\s*@(\w+)\.to\(@device\)")


def recognises(source: Source) -> bool:
    """Whether there is a config for inference."""
    return any(name == CONFIG or name.endswith(f"/{CONFIG}") for name in source.names)


def convert(source: Source, asked: Asked) -> bytes:
    """The bundle as one model file. Raises UsageError for what it refuses, naming it."""
    root = next(name for name in source.names if name.endswith(CONFIG)).removesuffix(CONFIG)
    config = BundleConfig(source.read(root + CONFIG), CONFIG)
    metadata = (
        BundleConfig(source.read(root + METADATA), METADATA) if root + METADATA in source.names else None
    )
    check_uses(config)
    name, arguments = read_network(config)
    steps = read_preprocessing(config)
    activation, painted = read_postprocessing(config, steps)
    outputs = outputs_of(metadata, painted, asked)
    recipe = {
        "steps": steps,
        "window": read_inferer(config),
        "outputs": outputs,
        "activation": activation,
        "half_counts": True,
    }
    modalities = channels_of(metadata, asked)
    if root + WEIGHTS not in source.names:
        raise UsageError(f"{source.uri}: has no {WEIGHTS}; download the whole bundle")
    weights = read_checkpoint(source.read(root + WEIGHTS), WEIGHTS, loaded_by(config))
    description = {
        "network": {"name": name, "arguments": arguments},
        "recipe": recipe,
        "amp": amp_of(config),
    }
    version = metadata.tree.get("version", "") if metadata else ""
    made = {"source": source.uri, "version": str(version)[:80]}
    predicts = read_recipe(recipe, asked.name).predicts
    return save_adopted("monai", asked.name, modalities, predicts, description, weights, made)


def check_uses(config: BundleConfig) -> None:
    """Raise UsageError where its evaluator or data set uses something else than what is read here."""
    for place, key, names in USES:
        user = config.tree.get(place)
        told = user.get(key) if isinstance(user, dict) else None
        there = [f"@{name}" for name in names if name in config.tree]
        # Of steps the first that is there is read; network_def is within network.
        if told is not None and told not in (there if key == "network" else there[:1]):
            raise UsageError(
                f"{config.name}: {place}::{key} is {shown(told)}, and @{names[0]} is what is read; make them "
                "one"
            )


def read_network(config: BundleConfig) -> tuple[str, dict]:
    """Its name and its arguments. Raises UsageError for one that is not on the list."""
    place = config.first("network_def", "network")
    told = config.tree[place]
    if isinstance(told, str) and (within := IN_NETWORK.fullmatch(told)):
        told = f"@{within[1]}"
    network = config.component(told, place)
    if network is None:
        raise UsageError(f"{config.name}: {place} is switched off")
    monai_networks.check_network(network.name, {}, f"{config.name}: {place}")
    known = monai_networks.NETWORKS[network.name]
    arguments = arguments_of(network, config, known, monai_networks.FORGOTTEN)
    monai_networks.check_network(network.name, arguments, f"{config.name}: {place}")
    return network.name, arguments


def amp_of(config: BundleConfig) -> bool:
    """Whether its evaluator computes in half precision on a GPU."""
    evaluator = config.tree.get("evaluator")
    told = evaluator.get("amp", False) if isinstance(evaluator, dict) else False
    return config.value(told, "evaluator::amp") is True


def channels_of(metadata: BundleConfig | None, asked: Asked) -> tuple[str, ...]:
    """Modality of ours of each input channel, as metadata.json names them or --channels says."""
    named = _channel_def(metadata, "inputs", "image")
    return asked.channels if asked.channels and not named else modalities_of(named, asked)


def outputs_of(
    metadata: BundleConfig | None, painted: tuple[str, ...] | None, asked: Asked
) -> tuple[str, ...]:
    """What each output channel is: as its labels are painted, as metadata.json names them, or --labels."""
    named = _channel_def(metadata, "outputs", "pred")
    if painted:
        for n, (name, region) in enumerate(zip(named, painted, strict=False)):
            if _region(name) in REGIONS and _region(name) != region:
                raise UsageError(
                    f"{METADATA} calls output {n} {name}, and the Lambdad of {CONFIG} paints {region} by it; "
                    "correct the wrong one"
                )
        return painted
    empty = [one.lower() in ("background", "bg") for one in named]
    if not any(empty):
        return check_outputs([_region(name) for name in named], METADATA)
    labels = labels_of({name: n for n, name in enumerate(named) if not empty[n]}, asked)
    names = {label: name for name, (label,) in TARGETS["labels"].items()}
    return check_outputs([BACKGROUND if empty[n] else names[labels[n]] for n in range(len(named))], METADATA)


def _region(name: str) -> str:
    """The region that a name means; the name where it means none."""
    return next((region for region, like in NAMES.items() if re.fullmatch(like, name.lower())), name)


def _channel_def(metadata: BundleConfig | None, side: str, item: str) -> list[str]:
    """Names of the channels of an item in their order; empty where metadata.json has none."""
    if metadata is None:
        return []
    try:
        told = metadata.tree["network_data_format"][side][item]["channel_def"]
        return [str(told[str(n)]) for n in range(len(told))]
    except (AttributeError, KeyError, TypeError):
        return []


def loaded_by(config: BundleConfig) -> str:
    """Under which key of its checkpoint the bundle looks for the network, "model" where it does not tell.
    Raises UsageError where it loads another file than WEIGHTS."""
    handlers = config.tree.get("handlers")
    for n, one in enumerate(handlers if isinstance(handlers, list) else []):
        if not isinstance(one, dict) or not str(one.get("_target_")).endswith("CheckpointLoader"):
            continue
        where, path = f"handlers::{n}", str(one.get("load_path"))
        with suppress(UsageError):  # of an expression that is not followed, the name of the file is enough
            path = str(config.value(path, where))
        if (files := FILE.findall(path)) and files[-1] != posixpath.basename(WEIGHTS):
            raise UsageError(
                f"{config.name}: {where}: loads {path!r}, and {WEIGHTS} alone is read; put it there"
            )
        said = one.get("load_dict")
        return next(iter(said), "model") if isinstance(said, dict) else "model"
    return "model"


def read_checkpoint(data: bytes, name: str, loaded: str = "model") -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint of torch.save, in float32: those under `loaded` where it has several.
    Raises UsageError for one that holds more."""
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError
    ) as error:  # fmt: skip
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"{name}: no plain weights, and nothing else is loaded ({reason})") from None
    for key in (loaded, "model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(_is_weight(*one) for one in found.items()):
        raise UsageError(f"{name}: holds no state dict of a network")
    return {key: value.clone() for key, value in found.items()}  # DynUNet has some under two names


def _is_weight(key: object, value: object) -> bool:
    """Whether it is a tensor by its name, with all its numbers: not sparse, quantised, or a shape alone."""
    return (
        isinstance(key, str)
        and isinstance(value, torch.Tensor)
        and (value.layout, value.device.type, value.is_quantized) == (torch.strided, "cpu", False)
    )


def predictor(model: Adopted, how: How) -> Predictor:
    """The adopted bundle, ready. Raises UsageError where its description makes no sense."""
    return BundlePredictor(model, how)


class BundlePredictor(RecipePredictor):
    """MONAI's network within its bundle's steps."""

    def __init__(self, model: Adopted, how: How):
        super().__init__(model, how)
        told, name = model.description, model.card.name
        network = told.get("network")
        network = network if isinstance(network, dict) else {}
        arguments: Any = network.get("arguments")
        monai_networks.check_network(network.get("name"), arguments, name)
        self.recipe.check(model.card, arguments.get("in_channels"), arguments.get("out_channels"))
        built = monai_networks.build(network["name"], arguments, model.weights, name).to(how.device)
        self.network = _compiled(built, name) if how.engine == "openvino" else built
        self.half = told.get("amp") is True and how.device.type == "cuda"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.how.device.type, torch.float16, enabled=self.half):
            return self.network(images)


def _compiled(network: Any, name: str) -> Compiled:
    """In OpenVINO. SegResNet's window may be the whole volume: it is followed on a few voxels.

    Raises UsageError for SwinUNETR: what OpenVINO makes of it fails at some sizes.
    """
    kind = type(network).__name__
    if kind == "SwinUNETR":
        raise UsageError(f"{name}: OpenVINO does not run a SwinUNETR; give --engine torch")
    if kind != "SegResNet":
        return Compiled(network)
    return Compiled(network, torch.zeros(1, network.in_channels, *[2 ** len(network.blocks_down)] * 3))
