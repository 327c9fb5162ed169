"""Shard rows → samples → training batches.

A sample is what one place of a batch is cut from: one slice, a slice with its neighbours, or the slices of a
volume. Axes: B batch, C channel (modality), D slices, H rows, W columns.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from bts.modalities import MODALITIES
from bts.model.frame import place_in_frame
from bts.model.normalise import NOTHING, by_slice, constants
from bts.model.resample import resize_images, resize_labels
from bts.model.spacing import working_size
from bts.settings import Preset
from bts.shards.format import pixels
from bts.training.prefetch import ahead, shuffled

SHUFFLE = 1024  # slices of the local shuffle: about 200 MB of four modalities
SHUFFLE_VOLUMES = 16  # cuts of volumes, likewise
AHEAD = 4  # batches made beforehand


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of one case, in order of z, from which one place of a batch is cut."""

    rows: pa.Table
    first: int = 0
    """Where the first row lies along the sample's own depth; before it there are no slices."""
    centre: int | None = None
    """Row around which the cut lies in-plane: on brain (patches) or tumour (volumes); None: anywhere."""


def samples_of(table: pa.Table, preset: Preset, rng: np.random.Generator) -> list[Sample]:
    """The samples that one case's rows (as `read_rows` gives them) make in an epoch."""
    sampling = preset.sampling
    if preset.volumetric:
        return [_volume(table, preset, rng) for _ in range(sampling.repeats)]
    drawn = np.flatnonzero(table["drawn"].to_numpy())
    if sampling.kind != "stacks":
        centre = 0 if sampling.kind == "patches" else None
        return [Sample(table.slice(n, 1), centre=centre) for n in drawn for _ in range(sampling.repeats)]
    z, n = table["z"].to_numpy(), sampling.neighbours
    ends = [np.searchsorted(z, (z[row] - n, z[row] + n + 1)) for row in drawn]
    return [
        Sample(table.slice(low, high - low), first=int(z[low] - (z[row] - n)))
        for row, (low, high) in zip(drawn, ends, strict=True)
    ]


def _volume(table: pa.Table, preset: Preset, rng: np.random.Generator) -> Sample:
    """A cut of as many slices as the preset's size, around a tumour slice or anywhere; padded in the
    middle."""
    depth, have = preset.size[0], table.num_rows
    tumour = table["tumour_px"].to_numpy()
    low = int(rng.integers(0, max(have - depth, 0) + 1))
    if tumour.any() and rng.random() < preset.sampling.tumour_centred:
        chosen = int(rng.choice(have, p=tumour / tumour.sum()))
        low = min(max(chosen - depth // 2, 0), max(have - depth, 0))
        return Sample(table.slice(low, depth), first=max(0, depth - have) // 2, centre=chosen - low)
    return Sample(table.slice(low, depth), first=max(0, depth - have) // 2)


def make_batches(samples: Iterable[Sample], preset: Preset, rng: np.random.Generator) -> Iterator[dict]:
    """Batches of an epoch's samples, shuffled as they come and made a little ahead of the network."""
    pool = SHUFFLE_VOLUMES if preset.volumetric else SHUFFLE
    return ahead((collate(some, preset, rng) for some in shuffled(samples, preset.batch, pool, rng)), AHEAD)


def collate(samples: list[Sample], preset: Preset, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples → one batch of raw pixels, each cut or padded with zeros to the preset's size.

    Returns images (B, C, H, W) or (B, C, D, H, W), int16 (float32 if any row is not int16), mask (B, H, W) or
    (B, D, H, W) uint8, constants (B, C, 4) or (B, C, D, 4) float32 of bts.model.normalise. Slices of a stack
    are channels, those of a modality side by side; the mask has all of them. Augmentation follows on the
    device.
    """
    depth = preset.size[0] if preset.volumetric else 2 * preset.sampling.neighbours + 1
    size, modalities = (preset.size[-2], preset.size[-1]), preset.modalities
    parts = [_read(sample.rows, preset) for sample in samples]
    dtype = np.int16 if all(images[0].dtype == np.int16 for images, _, _ in parts) else np.float32
    batch = np.zeros((len(samples), len(modalities), depth, *size), dtype)
    masks = np.zeros((len(samples), depth, *size), np.uint8)
    known = np.empty((len(samples), depth, len(modalities), 4), np.float32)
    known[:] = NOTHING
    for b, (sample, (images_CSHW, mask_SHW, constants_SC4)) in enumerate(zip(samples, parts, strict=True)):
        centre = _inside(sample, preset, images_CSHW, mask_SHW, rng)
        place = _framed(sample.rows, preset, mask_SHW.shape[1:])
        target, source = _window(centre, place, mask_SHW, size, rng)
        at = slice(sample.first, sample.first + len(mask_SHW))
        for into, image_SHW in zip(batch[b], images_CSHW, strict=True):
            into[(at, *target)] = image_SHW[(slice(None), *source)]
        masks[(b, at, *target)] = mask_SHW[(slice(None), *source)]
        known[b, at] = constants_SC4
    known = known.swapaxes(1, 2)
    if preset.volumetric:
        return {"images": batch, "mask": masks, "constants": np.ascontiguousarray(known)}
    flat = len(samples), preset.channels
    labels = masks if depth > 1 else masks[:, 0]
    return {
        "images": batch.reshape(*flat, *size), "mask": labels, "constants": known.reshape(*flat, 4)
    }  # fmt: skip


def _read(rows: pa.Table, preset: Preset) -> tuple[Sequence[np.ndarray], np.ndarray, np.ndarray]:
    """(images (S, H, W) of each modality, mask (S, H, W), constants (S, C, 4)) of rows that are of one case.

    Images are the shard's own memory, where they need not be resized.
    """
    shape = rows.num_rows, *_of_all(rows, "height", "width")
    work = working_size(shape[1:], _of_all(rows, "row_mm", "column_mm"))
    dtype, *statistics = _of_all(rows, "dtype", "mean", "std")
    little = np.dtype(dtype).newbyteorder("<")
    images: Sequence[np.ndarray] = [pixels(rows[m], little).reshape(shape) for m in preset.modalities]
    mask = pixels(rows["mask"], np.dtype(np.uint8)).reshape(shape)
    if preset.resize:
        images, mask = _resized(*_whole(np.stack(images), mask, rows), preset.resize)
    elif work != shape[1:]:
        images, mask = _resized(np.stack(images).astype(np.float32), mask, work)
    elif images[0].dtype != np.int16:
        images = [image.astype(np.float32) for image in images]
    columns = [MODALITIES.index(m) for m in preset.modalities]
    mean, std = (np.array(of, np.float32)[columns] for of in statistics)
    if by_slice(preset.normalisation):
        seen_SCHW = np.stack(images, axis=1)
    else:
        seen_SCHW = np.broadcast_to(images[0][:, None], (len(mask), len(images), *mask.shape[1:]))
    return images, mask, constants(seen_SCHW, mean, std, preset.normalisation, preset.frame)


def _of_all(rows: pa.Table, *columns: str) -> list:
    """What all rows of a case have in common: these columns of the first."""
    return [rows[name][0].as_py() for name in columns]


def _whole(images_CSHW: np.ndarray, mask_SHW: np.ndarray, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Slices of the source's full size: the crop of the shard is put back."""
    y, x, *whole = _of_all(rows, "y0", "x0", "full_height", "full_width")
    height, width = mask_SHW.shape[1:]
    box = slice(y, y + height), slice(x, x + width)
    images = np.zeros((*images_CSHW.shape[:2], *whole), np.float32)
    mask = np.zeros((len(mask_SHW), *whole), np.uint8)
    images[(..., *box)], mask[(..., *box)] = images_CSHW, mask_SHW
    return images, mask


def _resized(images_CSHW: np.ndarray, mask_SHW: np.ndarray, size: tuple[int, ...]):
    """Slices of that many pixels."""
    images = resize_images(torch.from_numpy(images_CSHW), size)
    return images.numpy(), resize_labels(torch.from_numpy(mask_SHW), size).numpy()


def _inside(sample: Sample, preset: Preset, images_CSHW, mask_SHW, rng) -> tuple[int, int] | None:
    """(row, column) to centre the cut on: a random voxel of tumour, or of the brain; None: anywhere."""
    if sample.centre is None:
        return None
    flair = preset.modalities.index("flair") if "flair" in preset.modalities else 0
    shown = mask_SHW[sample.centre] if preset.volumetric else images_CSHW[flair][sample.centre]
    places = np.flatnonzero(shown)
    if not places.size:
        return None
    return divmod(int(places[rng.integers(len(places))]), shown.shape[1])


def _framed(rows: pa.Table, preset: Preset, crop: tuple[int, ...]) -> tuple[int | None, int | None]:
    """First row and column of a slice in its patch, None along an axis where the patch is no whole frame."""
    if preset.frame is None:
        return None, None
    pairs = ("y0", "x0"), ("full_height", "full_width"), ("row_mm", "column_mm")
    start, source, zooms = (_of_all(rows, *pair) for pair in pairs)
    found = place_in_frame(preset.frame, crop, start, source, zooms)
    whole = (n == side for n, side in zip(preset.size, preset.frame, strict=True))
    row, column = (at if fills else None for at, fills in zip(found, whole, strict=True))
    return row, column


def _window(
    centre: tuple[int, int] | None,
    place: tuple[int | None, int | None],
    mask_SHW: np.ndarray,
    want: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(where in the patch, where in the slice): around `centre`, else at random; a small slice lies at its
    `place`, else anywhere."""
    found = []
    for axis, (n, size) in enumerate(zip(mask_SHW.shape[1:], want, strict=True)):
        start = int(rng.integers(0, abs(n - size) + 1))
        if centre and n > size:
            start = min(max(centre[axis] - size // 2, 0), n - size)
        if (at := place[axis]) is not None:
            start = at
        length = min(n, size)
        target = slice(start, start + length) if n < size else slice(0, size)
        found.append((target, slice(start, start + length) if n > size else slice(0, n)))
    (rows, from_rows), (columns, from_columns) = found
    return (rows, columns), (from_rows, from_columns)
