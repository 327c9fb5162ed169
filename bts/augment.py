"""Random changes to a batch of training slices, on its own device and drawn from one generator.

Axes: B batch, C channel (modality), H rows, W columns. Background is 0 and stays 0.
"""

import torch

from bts.presets import Augmentation


def augment(
    images_BCHW: torch.Tensor, mask_BHW: torch.Tensor, settings: Augmentation, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """z-scored float32 images and their labels, changed together; the same generator state gives the same."""
    images, mask = mirror(images_BCHW, mask_BHW, settings.flip, generator)
    return jitter(images, settings, generator), mask


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
