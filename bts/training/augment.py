"""Random changes to a batch of training images, on its own device and drawn from one generator.

Axes: B batch, C channel (modality), D slices, H rows, W columns, … space: (H, W) or (D, H, W), K knots.
Background is 0 and stays 0. Geometry is in-plane: the slices of a volume move together, as so many channels.
"""

import torch
from torch.nn import functional

from bts.settings import Augmentation

KNOTS = 7
"""Random values along each side of a smooth field, as many as in TorchIO (Pérez-García et al. 2021)."""

INTENSITY = ("scale", "shift", "gamma", "bias", "blur", "noise", "drop")
"""Settings that change values, not places."""


def augment(
    images: torch.Tensor, mask: torch.Tensor, settings: Augmentation, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised float32 images (B, C, …) and labels (B, …) uint8, changed together.

    Equal states of the generator, which must be on the images' device, give equal results.
    Raises ValueError for flip_slices of slices.
    """
    moved, mask = move(images, mask, settings, generator)
    if not any(getattr(settings, name) for name in INTENSITY):
        return moved, mask
    # In place from here, on a copy of our own: fresh memory costs more than what is done to it.
    moved = images.clone() if moved is images else moved
    return jitter_(moved, settings, generator), mask


def move(images, mask, settings: Augmentation, generator: torch.Generator):
    """Mirror, turn, zoom and bend; images bilinear, labels nearest, background from outside."""
    if settings.flip_slices and mask.ndim < 4:
        raise ValueError("augmentation.flip_slices mirrors volumes; these are slices: leave it at 0")
    chances = {-1: settings.flip, -2: settings.flip_rows, -3: settings.flip_slices}
    mirrored = {axis: by_chance(len(mask), chance, generator) for axis, chance in chances.items() if chance}
    if settings.rotate or settings.zoom or settings.elastic:
        # Sampled at mirrored places, an image comes out mirrored: no pass over the pixels more.
        columns, rows = (_centres(mask, axis, mirrored.pop(axis, None)) for axis in (-1, -2))
        images, mask = _sample(images, mask, _places(columns, rows, settings, generator))
    for axis, chosen in mirrored.items():
        images, mask = _mirror(images, axis, chosen), _mirror(mask, axis, chosen)
    return images, mask


def jitter_(images, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Sharpness, contrast, brightness and noise of the brain, in place; each modality by itself."""
    brain = images.sign().abs_()
    each = (*images.shape[:2], *[1] * (images.ndim - 2))
    if settings.blur:
        _blur_(images, settings.blur, generator)
    if settings.gamma or settings.bias:
        _curve_(images, brain, settings, generator)
    if settings.scale:
        images.mul_(1 + _uniform(each, settings.scale, generator))
    if settings.shift:
        images.add_(_uniform(each, settings.shift, generator))
    if settings.noise:
        images.add_(_noise(images.shape, generator), alpha=settings.noise)
    if settings.drop:
        _drop_(brain, settings.drop, generator)
    return images.mul_(brain)


def smooth_field(shape, space, generator: torch.Generator) -> torch.Tensor:
    """Random values within ±1 that vary smoothly in space, (*shape, *space).

    Uniform values at a few knots, enlarged along one axis after the other by cubic B-splines, which never
    leave the knots' range (Rueckert et al. 1999).
    """
    field = _uniform((*shape, *[KNOTS] * len(space)), 1.0, generator)
    for side in space:
        # The axis that is enlarged goes last, so after all of them the order is as before.
        field = torch.tensordot(field, _splines(side, field.device), dims=([len(shape)], [0]))
    return field


def _splines(side: int, device: torch.device) -> torch.Tensor:
    """Weights (K, side) of the knots at each pixel; the outermost lie outside: each pixel is between four."""
    pixels = torch.linspace(1, KNOTS - 2, side, device=device)
    distance = (pixels - torch.arange(KNOTS, device=device)[:, None]).abs()
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _uniform(shape, width: float, generator: torch.Generator) -> torch.Tensor:
    """Uniform values within ± width."""
    return (2 * torch.rand(shape, generator=generator, device=generator.device) - 1) * width


def by_chance(shape, chance: float, generator: torch.Generator) -> torch.Tensor:
    """True with this probability."""
    return torch.rand(shape, generator=generator, device=generator.device) < chance


def _mirror(values, axis: int, chosen_B):
    return torch.where(chosen_B.view(-1, *[1] * (values.ndim - 1)), values.flip(axis), values)


def _centres(mask, axis: int, mirrored_B) -> torch.Tensor:
    """Pixel centres along an axis, (B, side), from -1 to 1, or the other way round where mirrored."""
    side = mask.shape[axis]
    centres = ((2 * torch.arange(side, device=mask.device) + 1) / side - 1).expand(len(mask), side)
    return centres if mirrored_B is None else torch.where(mirrored_B[:, None], -centres, centres)


def _places(columns_BW, rows_BH, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Where each pixel is fetched from, (B, H, W, 2), columns first as grid_sample has it."""
    (count, height), width = rows_BH.shape, columns_BW.shape[1]
    angle = torch.deg2rad(_uniform((count,), settings.rotate, generator))
    zoom = 1 + _uniform((count,), settings.zoom, generator)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    # Coordinates run from -1 to 1 whatever the side: unequal sides would shear.
    across = torch.stack([cos, sin * width / height], dim=1)[:, :, None, None] * columns_BW[:, None, None, :]
    down = torch.stack([-sin * height / width, cos], dim=1)[:, :, None, None] * rows_BH[:, None, :, None]
    places_B2HW = across + down
    if settings.elastic:
        pixel = places_B2HW.new_tensor([2 / width, 2 / height]).view(2, 1, 1)
        places_B2HW += settings.elastic * pixel * smooth_field((count, 2), (height, width), generator)
    return places_B2HW.permute(0, 2, 3, 1)


def _sample(images, mask, places_BHW2):
    """Images and labels at these places, the same in every slice."""
    pixels = functional.grid_sample(images.flatten(1, -3), places_BHW2, align_corners=False)
    labels = mask.reshape(len(mask), -1, *mask.shape[-2:]).float()
    labels = functional.grid_sample(labels, places_BHW2, mode="nearest", align_corners=False)
    return pixels.view(images.shape), labels.view(mask.shape).to(mask.dtype)


def _blur_(images, chance: float, generator: torch.Generator) -> None:
    """Shrink some modalities in-plane to half their resolution and enlarge them again, in place."""
    chosen = by_chance(images.shape[:2], chance, generator)
    sharp = images[chosen]
    small = functional.avg_pool2d(sharp.flatten(0, -3)[:, None], 2, ceil_mode=True)
    images[chosen] = functional.interpolate(small, size=sharp.shape[-2:], mode="bilinear").view(sharp.shape)


def _drop_(brain, chance: float, generator: torch.Generator) -> None:
    """Take some modalities' brain away, in place, but never an image's last."""
    chosen = by_chance(brain.shape[:2], chance, generator)
    brain[chosen & ~chosen.all(dim=1, keepdim=True)] = 0


def _curve_(images, brain, settings: Augmentation, generator: torch.Generator) -> None:
    """Gamma and bias field, in place: both on values above the brain's lowest, as a scanner's are above 0."""
    inside, space = brain.bool(), tuple(range(2, images.ndim))
    low = torch.where(inside, images, images.amax(space, keepdim=True)).amin(space, keepdim=True)
    high = torch.where(inside, images, images.amin(space, keepdim=True)).amax(space, keepdim=True)
    extent = (high - low).clamp(min=1e-6)
    images.sub_(low)
    if settings.gamma:
        images.div_(extent).clamp_(0, 1).pow_(1 + _uniform(low.shape, settings.gamma, generator)).mul_(extent)
    if settings.bias:
        field = smooth_field(images.shape[:2], images.shape[2:], generator)
        images.mul_(1 + settings.bias * field)
    images.add_(low)


def _noise(shape, generator: torch.Generator) -> torch.Tensor:
    """Standard normal values: each image's are a stretch of one pool, from a random start.

    Independent within an image, overlapping between images: to draw every value anew takes
    several times as long, a third of all the augmentation.
    """
    size = shape[2:].numel()
    pool = torch.randn(2 * size, generator=generator, device=generator.device)
    starts = torch.randint(size, (shape[:2].numel(),), generator=generator, device=generator.device)
    return pool.unfold(0, size, 1).index_select(0, starts).view(shape)
