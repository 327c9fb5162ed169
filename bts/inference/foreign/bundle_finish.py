"""Postprocessing of a MONAI bundle → the activation of an adopted model's recipe and what its outputs are."""

import re
from collections.abc import Mapping

from bts.errors import UsageError
from bts.inference.foreign.bundle_config import BundleConfig, Component, arguments_of
from bts.inference.foreign.bundle_prepare import NOTHING, PLACES, check_nothing, transforms_of

POSTPROCESSING = ("postprocessing", "postprocess", "post_transforms")
FINISHING = ("Activationsd", "Invertd", "AsDiscreted", "Lambdad", "SaveImaged")
BINARY = ("Activationsd", "AsDiscreted", "Lambdad", "SaveImaged")
"""In the one order in which they make a labelmap."""
OF_INVERSION = (
    "transform", "orig_keys", "meta_keys", "orig_meta_keys", "meta_key_postfix", "to_tensor", "device",
)  # fmt: skip
LABEL = {1: "TC", 2: "WT", 3: "ET", 4: "ET"}
"""Region that a label paints where it is written over the wider ones: BraTS's 4 or 3 for ET."""
WHERE = re.compile(r"torch\.where\(x\[\[(\d)\]\]>0,(\d),(.*)\)")


def read_postprocessing(config: BundleConfig, steps: list[dict]) -> tuple[str, tuple[str, ...] | None]:
    """(sigmoid or softmax; the region of each output channel, where its labelmap is painted by a function).

    Changes the resampling among `steps` to what Invertd does on the way back.
    """
    transforms = transforms_of(config, *POSTPROCESSING)
    by_name = {}
    for one in transforms:
        if one.name in NOTHING:
            check_nothing(one, config)
            continue
        if one.name not in FINISHING or one.name in by_name:
            again = " a second time" if one.name in by_name else ""
            raise UsageError(
                f"{config.name}: {one.where}: the step {one.name}{again} is not supported; supported are "
                f"{', '.join((*FINISHING, *NOTHING))}"
            )
        by_name[one.name] = one
    if [name for name in by_name if name in BINARY] != [name for name in BINARY if name in by_name]:
        raise UsageError(
            f"{config.name}: postprocessing: {', '.join(by_name)} is an order that is not supported"
        )
    check_inversion(by_name, config, steps)
    painted = painted_by(by_name["Lambdad"], config) if "Lambdad" in by_name else None
    return activation_of(by_name, config), painted


def activation_of(by_name: Mapping[str, Component], config: BundleConfig) -> str:
    """sigmoid, for outputs at a threshold of 0.5, or softmax, for the likeliest one."""
    told: dict[str, object] = {}
    for name, known in (("Activationsd", ("sigmoid", "softmax")), ("AsDiscreted", ("threshold", "argmax"))):
        if name in by_name:
            told |= arguments_of(by_name[name], config, known, PLACES)
    said = {key: value for key, value in told.items() if value not in (None, False)}
    if said == {"sigmoid": True, "threshold": 0.5}:
        return "sigmoid"
    if said in ({"softmax": True, "argmax": True}, {"argmax": True}):
        return "softmax"
    raise UsageError(
        f"{config.name}: postprocessing: {said or 'no activation'} is not supported; supported are sigmoid "
        "with threshold 0.5, and softmax with argmax"
    )


def check_inversion(by_name: Mapping[str, Component], config: BundleConfig, steps: list[dict]) -> None:
    """Raise UsageError where labels do not come back to the grid of the file as probabilities of ours do."""
    order, spatial = list(by_name), [one for one in steps if one["step"] in ("orient", "resample")]
    if "Invertd" not in by_name:
        if spatial:
            raise UsageError(
                f"{config.name}: postprocessing has no Invertd, so its labelmaps would lie on another grid "
                "than the images; add it, as MONAI's bundles have it"
            )
        return
    told = arguments_of(by_name["Invertd"], config, ("nearest_interp",), (*PLACES, *OF_INVERSION))
    nearest = told.get("nearest_interp", True)
    resampled = [one for one in steps if one["step"] == "resample"]
    bare = "Activationsd" not in by_name
    early = not bare and order.index("Invertd") < order.index("Activationsd")
    late = "AsDiscreted" in by_name and order.index("AsDiscreted") < order.index("Invertd")
    if resampled and not nearest and (bare or early or late):
        where = "before Activationsd" if early else "after AsDiscreted"
        where = "without Activationsd before it and" if bare else where
        raise UsageError(
            f"{config.name}: Invertd {where} without nearest_interp is not supported; put it between"
        )
    for one in resampled:
        one["nearest"] = nearest


def painted_by(component: Component, config: BundleConfig) -> tuple[str, ...]:
    """Region of each output channel, from a function that paints labels one over another.

    Such as `$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, …, 0))`, which is read as a text
    of this form and not run.
    """
    told = component.arguments.get("func")
    if odd := set(component.arguments) - {*PLACES, "func", "inv_func", "track_meta", "overwrite"}:
        raise UsageError(f"{config.name}: {component.where}: Lambdad's {sorted(odd)[0]} is not supported")
    layers = _layers(told) if isinstance(told, str) and len(told) < 500 else []
    regions = [LABEL.get(label) for _, label in layers]
    if regions != ["ET", "TC", "WT"] or sorted(channel for channel, _ in layers) != [0, 1, 2]:
        raise config.refusal(str(told), f"{component.where}::func")
    return tuple(region for _, region in sorted((channel, LABEL[label]) for channel, label in layers))


def _layers(told: str) -> list[tuple[int, int]]:
    """(channel, label) of each torch.where, the outermost first; none for a text of another form."""
    rest, found = re.sub(r"\s", "", told), []
    if not rest.startswith("$lambdax:"):
        return []
    rest = rest.removeprefix("$lambdax:")
    while whole := WHERE.fullmatch(rest):
        found.append((int(whole[1]), int(whole[2])))
        rest = whole[3]
    return found if rest == "0" else []
