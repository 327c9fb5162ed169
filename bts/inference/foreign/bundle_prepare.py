"""Preprocessing and the inferer of a MONAI bundle → steps and window of an adopted model's recipe.

Each transform is recognised by its name and arguments; one that is not on the lists here is refused by name,
for a step left out would change every labelmap without a word.
"""

from collections.abc import Callable, Mapping

from bts.errors import UsageError
from bts.inference.foreign.bundle_config import BundleConfig, Component, arguments_of

PREPROCESSING = ("preprocessing", "preprocess", "pre_transforms")
NOTHING = ("EnsureTyped", "ToTensord", "ToDeviced", "CastToTyped", "EnsureChannelFirstd", "SelectItemsd")
"""Transforms that change no voxel of what LoadImaged gives: float32, channels first."""
PLACES = ("keys", "allow_missing_keys")
WINDOW = ("roi_size", "overlap", "sw_batch_size", "mode", "sigma_scale", "padding_mode", "cval")
WHERE_ONLY = ("device", "sw_device", "progress", "cache_roi_weight_map", "cpu_thresh")


def transforms_of(config: BundleConfig, *names: str) -> list[Component]:
    """The transforms of a Compose, in their order, without those that are switched off."""
    name = config.first(*names)
    compose = config.component(config.tree[name], name)
    if compose is None or compose.name != "Compose":
        raise UsageError(f"{config.name}: {name}: {compose and compose.name} where Compose is due")
    told = arguments_of_compose(compose, config)
    found = [config.component(one, f"{name}::transforms::{n}") for n, one in enumerate(told)]
    return [one for one in found if one is not None]


def arguments_of_compose(compose: Component, config: BundleConfig) -> list:
    """Its transforms as they stand in the config."""
    told = compose.arguments.get("transforms")
    if odd := set(compose.arguments) - {"transforms", "map_items", "unpack_items", "log_stats"}:
        raise UsageError(f"{config.name}: {compose.where}: Compose's {sorted(odd)[0]} is not supported")
    if not isinstance(told, list):
        raise UsageError(f"{config.name}: {compose.where}: transforms are no list")
    return told


def read_preprocessing(config: BundleConfig) -> list[dict]:
    """The recipe's steps, in their order."""
    transforms = transforms_of(config, *PREPROCESSING)
    if not transforms or transforms[0].name != "LoadImaged":
        raise UsageError(
            f"{config.name}: preprocessing does not begin with LoadImaged, which is not supported"
        )
    image = keys_of(transforms[0], config)[_of_image(transforms[0], config)]
    steps = []
    for one in transforms:
        if image not in keys_of(one, config):
            continue  # of the ground truth
        if one.name not in PREPARING and one.name not in NOTHING:
            raise UsageError(
                f"{config.name}: {one.where}: the step {one.name} is not supported; supported are "
                f"{', '.join((*PREPARING, *NOTHING))}"
            )
        if one.name in NOTHING:
            check_nothing(one, config)
        elif step := PREPARING[one.name](one, config):
            steps.append(step)
    return steps


def check_nothing(one: Component, config: BundleConfig) -> None:
    """Raise UsageError where a transform of NOTHING changes voxels after all."""
    ignored = (*PLACES, "device", "track_meta", "data_type", "wrap_sequence", "strict_check")
    if (told := arguments_of(one, config, ("dtype",), ignored)) not in ({}, {"dtype": "float32"}):
        raise UsageError(f"{config.name}: {one.where}: {one.name} to {told['dtype']} is not supported")


def keys_of(component: Component, config: BundleConfig) -> list[str]:
    """Items that a transform works on."""
    found = config.value(component.arguments.get("keys"), f"{component.where}::keys")
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise UsageError(f"{config.name}: {component.where}: {component.name} without keys")
    return found


def _of_image(component: Component, config: BundleConfig) -> int:
    """Which of its items is the image: that of this name, as MONAI's evaluator has it, else the first."""
    keys = keys_of(component, config)
    return keys.index("image") if "image" in keys else 0


def _load(one: Component, config: BundleConfig) -> None:
    told = arguments_of(one, config, ("reader", "dtype"), (*PLACES, "image_only", "ensure_channel_first"))
    if len(keys_of(one, config)) > 1 and "label" not in keys_of(one, config):
        raise UsageError(
            f"{config.name}: {one.where}: an item a modality is not supported; load all as one image"
        )
    reader, dtype = told.get("reader"), told.get("dtype")
    if str(reader).rpartition(".")[2] not in ("None", "NibabelReader") or dtype not in (None, "float32"):
        raise UsageError(f"{config.name}: {one.where}: reader {reader}, dtype {dtype} is not supported")


def _normalise(one: Component, config: BundleConfig) -> dict:
    told = arguments_of(one, config, ("nonzero", "channel_wise"), PLACES)
    return {"step": "zscore", **told}


def _rescale(one: Component, config: BundleConfig) -> dict:
    told = arguments_of(one, config, ("a_min", "a_max", "b_min", "b_max", "clip"), PLACES)
    if {"b_min", "b_max"} & told.keys() not in (set(), {"b_min", "b_max"}):
        raise UsageError(
            f"{config.name}: {one.where}: ScaleIntensityRanged with one of b_min and b_max is not supported"
        )
    names = {"a_min": "low", "a_max": "high", "b_min": "to_low", "b_max": "to_high", "clip": "clip"}
    return {"step": "rescale", **{names[key]: value for key, value in told.items()}}


def _orient(one: Component, config: BundleConfig) -> dict:
    told = arguments_of(one, config, ("axcodes",), PLACES)
    return {"step": "orient", "axes": told.get("axcodes")}


def _space(one: Component, config: BundleConfig) -> dict:
    told = arguments_of(one, config, ("pixdim", "mode", "padding_mode", "diagonal", "align_corners"), PLACES)
    plain = {"mode": "bilinear", "padding_mode": "border", "diagonal": False, "align_corners": False}
    for key, value in plain.items():
        given = told.get(key, value)
        of_each = given if isinstance(given, list) else [given]
        if of_each[min(_of_image(one, config), len(of_each) - 1) :][:1] != [value]:
            where = f"{config.name}: {one.where}: Spacingd's {key}"
            raise UsageError(f"{where} {given!r} is not supported; {value!r} is")
    return {"step": "resample", "mm": triple(told.get("pixdim"))}


PREPARING: Mapping[str, Callable[[Component, BundleConfig], dict | None]] = {
    "LoadImaged": _load,
    "NormalizeIntensityd": _normalise,
    "ScaleIntensityRanged": _rescale,
    "Orientationd": _orient,
    "Spacingd": _space,
}


def triple(value: object) -> object:
    """A number for all three axes, or what is given of each."""
    return [value] * 3 if isinstance(value, int | float) else value


def read_inferer(config: BundleConfig) -> dict:
    """The recipe's window."""
    name = config.first("inferer")
    inferer = config.component(config.tree[name], name)
    if inferer is not None and inferer.name == "SimpleInferer":
        return {"roi_size": [-1, -1, -1]}
    if inferer is None or inferer.name != "SlidingWindowInferer":
        found = inferer and inferer.name
        raise UsageError(f"{config.name}: the inferer {found} is not supported; SlidingWindowInferer is")
    told = arguments_of(inferer, config, WINDOW, WHERE_ONLY)
    wide = {key: triple(told[key]) for key in ("roi_size", "overlap") if key in told}
    return {**told, **wide}
