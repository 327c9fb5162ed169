"""Random changes to a batch of training slices, on its own device and drawn from one generator.

Axes: B batch, C channel (modality), H rows, W columns. Background is 0 and stays 0.
"""

import torch
from torch.nn import functional

from bts.presets import Augmentation


def augment(
    images_BCHW: torch.Tensor, mask_BHW: torch.Tensor, settings: Augmentation, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """z-scored float32 images and their labels, changed together; the same generator state gives the same."""
    images, mask = images_BCHW, mask_BHW
    if settings.rotate or settings.zoom:
        images, mask = turn(images, mask, settings, generator)
    images, mask = mirror(images, mask, settings.flip, generator)
    return jitter(images, settings, generator), mask


def turn(images_BCHW, mask_BHW, settings: Augmentation, generator: torch.Generator):
    """Rotate and zoom each slice about its middle; images bilinear, labels nearest, background outside."""
    device = images_BCHW.device
    draw = 2 * torch.rand((2, len(images_BCHW)), generator=generator, device=device) - 1
    angle, zoom = torch.deg2rad(draw[0] * settings.rotate), 1 + draw[1] * settings.zoom
    cos, sin, none = angle.cos() / zoom, angle.sin() / zoom, torch.zeros_like(angle)
    height, width = mask_BHW.shape[-2:]
    # affine_grid's axes run from -1 to 1 whatever their length: unequal sides would shear.
    rows = [
        torch.stack([cos, -sin * height / width, none], 1),
        torch.stack([sin * width / height, cos, none], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), [len(angle), 1, height, width], align_corners=False)
    images = functional.grid_sample(images_BCHW, grid, align_corners=False)
    mask = functional.grid_sample(mask_BHW[:, None].float(), grid, mode="nearest", align_corners=False)
    return images, mask[:, 0].to(mask_BHW.dtype)


def mirror(images_BCHW, mask_BHW, probability: float, generator: torch.Generator):
    """Swap left and right of some slices."""
    flip = torch.rand(len(images_BCHW), generator=generator, device=images_BCHW.device) < probability
    images = torch.where(flip[:, None, None, None], images_BCHW.flip(-1), images_BCHW)
    return images, torch.where(flip[:, None, None], mask_BHW.flip(-1), mask_BHW)


def jitter(images_BCHW, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Contrast, brightness and noise of the brain, each modality by itself."""

    def uniform(width: float) -> torch.Tensor:
        draw = torch.rand((*images_BCHW.shape[:2], 1, 1), generator=generator, device=images_BCHW.device)
        return (2 * draw - 1) * width

    changed = images_BCHW * (1 + uniform(settings.scale)) + uniform(settings.shift)
    if settings.noise:
        noise = torch.empty_like(images_BCHW, memory_format=torch.contiguous_format)
        changed = changed + settings.noise * noise.normal_(generator=generator)
    return torch.where(images_BCHW != 0, changed, 0.0)
