"""The images of a case → one `CaseVolume`: checked, cropped to the brain, and measured.

Nothing is lost on the way: the crop keeps every voxel that is not background in some modality or labelled in
the truth. A background that is not 0 changes places with 0, so that 0 is the background everywhere else;
`CaseVolume.source` gives back the exact source voxels over the whole canonical grid.
"""

import numpy as np

from bts.boxes import filled_box
from bts.cases.case import Case, CaseVolume, exchanged
from bts.errors import CaseError
from bts.images.grid import Grid, Volume
from bts.labels import to_internal

PIECE = 1 << 16  # voxels counted at a time: what a processor's cache holds
SAMPLE = 1 << 12  # voxels of an image that are looked at first
LABELS = 10  # the highest value of a labelmap that is looked for: any scan has higher ones
MOST_MM = 600  # of a crop's longest side; beyond, the header's spacing is of another unit, or nonsense
MOST_BYTES = (1 << 31) - 1  # of one modality's pixels: what a column of a shard holds


def assemble(case: Case, volumes: dict[str, Volume], seg: Volume | None) -> CaseVolume:
    """Check that the volumes belong together, crop them to the brain, and measure them."""
    grid = next(iter(volumes.values())).grid
    for role, volume in {**volumes, **({"seg": seg} if seg else {})}.items():
        if not volume.grid.same_place(grid):
            raise CaseError(
                f"{role} lies on another grid ({volume.grid.describe()}) than {next(iter(volumes))} "
                f"({grid.describe()})",
                mend=_mend_of_grid(role, volume.grid.source_shape == grid.source_shape),
                file=_key(case, role),
            )
    mask = None if seg is None else _labels(case, seg)
    around = {m: _background(v.voxels) if case.traits.stripped else 0 for m, v in volumes.items()}
    voxels = {m: exchanged(volume.voxels, around[m]) for m, volume in volumes.items()}
    box = filled_box(*voxels.values(), *([] if mask is None else [mask]))
    crops = {role: whole[box] for role, whole in voxels.items()}
    for role, crop in crops.items():
        _check_exact(crop, _key(case, role))
    images = _one_dtype(list(crops.values()))
    _check_extent(images, grid, _key(case, next(iter(crops))))
    stats = np.array(
        [_statistics(image, _key(case, role)) for role, image in zip(crops, images, strict=True)]
    )
    mean, std, p01, p99 = stats.T.astype(np.float32)
    return CaseVolume(
        case_id=case.id,
        patient_id=case.patient,
        dataset=case.dataset,
        group=case.group,
        labels=case.labels,
        modalities=tuple(crops),
        images=images,
        mask=None if mask is None else np.ascontiguousarray(mask[box]),
        origin=tuple(s.start for s in box),
        grid=grid,
        mean=mean,
        std=std,
        p01=p01,
        p99=p99,
        background=tuple(map(float, around.values())) if any(around.values()) else (),
    )


def _background(voxels_DHW: np.ndarray) -> float:
    """The value around the head: that of all eight corners, if most of the volume's faces have it; else 0.

    Tools that scale a whole image (z-scores, + 100) leave another value than 0 there.
    """
    corners = voxels_DHW[np.ix_(*([0, -1] for _ in range(3)))].reshape(-1)
    value = corners[0]
    if value == 0 or (corners != value).any() or (voxels_DHW == value).all():  # the last holds nothing
        return 0
    faces = [np.take(voxels_DHW, end, axis) for axis in range(3) for end in (0, -1)]
    shares = [(face == value).sum() for face in faces]
    return value.item() if sum(shares) > 0.5 * sum(face.size for face in faces) else 0


def _mend_of_grid(role: str, same_shape: bool) -> str:
    if role != "seg":
        return "register and resample it to the others, as jobs.intake does with raw scans"
    if same_shape:
        return "if its voxels lie as the images' do and only its header is wrong, give it an image's affine"
    return "resample it to the images' grid, by nearest neighbour"


def _labels(case: Case, seg: Volume) -> np.ndarray:
    return to_internal(seg.voxels, case.labels, file=_key(case, "seg"), among=case.traits.conventions)


def _key(case: Case, role: str) -> str:
    entry = case.files.get(role) or case.files.get("image")
    return entry.key if entry else ""


def _check_extent(images_CDHW: np.ndarray, grid: Grid, file: str) -> None:
    """Raise CaseError for what is too large to be a head, and for more voxels than a shard holds."""
    sides = [n * zoom for n, zoom in zip(images_CDHW.shape[1:], grid.zooms, strict=True)]
    if max(sides) > MOST_MM:
        shown = " × ".join(f"{side:g}" for side in sides)
        problem = f"what the image holds would be {shown} mm large (slices, rows, columns)"
        raise CaseError(problem, mend="fix the spacing in the header", file=file)
    if images_CDHW[0].nbytes > MOST_BYTES:
        raise CaseError("more than 2 GiB of voxels", mend="resample or crop the images", file=file)


def _check_exact(image: np.ndarray, file: str) -> None:
    """Raise CaseError for whole numbers that float32, the widest type kept, would round."""
    if image.dtype.kind not in "iu" or image.dtype.itemsize <= 2 or not image.size:
        return
    largest = max(int(image.max()), -int(image.min()))
    if largest > 1 << 24:
        problem = f"values up to {largest:,} would be rounded (16,777,216 at most)"
        raise CaseError(problem, mend="rescale it to 16 bits", file=file)


def _one_dtype(images: list[np.ndarray]) -> np.ndarray:
    """Stack (D, H, W) images into (C, D, H, W): int16 where exact for all, else uint16, else float32."""
    for dtype in (np.int16, np.uint16):
        stacked = np.empty((len(images), *images[0].shape), dtype)
        for image, small in zip(images, stacked, strict=True):
            if not _exact(image, small):
                break
        else:
            return stacked
    return np.stack([image.astype(np.float32) for image in images])


def _exact(image: np.ndarray, small: np.ndarray) -> bool:
    """Fill `small` with the image; whether its dtype holds every value."""
    if np.can_cast(image.dtype, small.dtype):
        small[...] = image
        return True
    with np.errstate(invalid="ignore"):  # a value that does not fit becomes another one
        for slice_, values in zip(small, image, strict=True):  # which fit a processor's cache
            np.copyto(slice_, values, casting="unsafe")
            if not np.array_equal(slice_, values):
                return False
    return True


def _statistics(image: np.ndarray, file: str) -> tuple[float, float, float, float]:
    """Mean, standard deviation, 1st and 99th percentile (linear) of the non-zero voxels of one modality."""
    if image.dtype.kind == "f":
        brain = image[image != 0].astype(np.float64)
        values = (brain.mean(), brain.std(), *np.percentile(brain, (1, 99))) if brain.size else None
    else:
        values = _statistics_of_counts(image)
    if values is None:
        raise CaseError("every voxel is zero", mend="replace the image; it holds nothing", file=file)
    if values[1] == 0:
        raise CaseError("every brain voxel has the same value", mend="replace the image", file=file)
    _check_image(image, file)
    return values


def _check_image(image: np.ndarray, file: str) -> None:
    """Raise CaseError for a labelmap where an image is due: whole numbers from 0 to 10."""
    for step in (1 + image.size // SAMPLE, 1):  # sorting a sample tells of nearly every image
        present = np.unique(image.reshape(-1)[::step])
        if not np.isin(present, range(LABELS + 1)).all():
            return
    shown = ", ".join(f"{value:g}" for value in present[present != 0])
    raise CaseError(
        f"it holds the values {shown} alone: a labelmap, and no image",
        mend="give the image; with --roles, see that the pattern fits no other files",
        file=file,
    )


def _statistics_of_counts(image: np.ndarray) -> tuple[float, float, float, float] | None:
    """The same from a histogram of 16-bit values: exact, and twenty times faster than sorting."""
    if not image.size:
        return None
    low, flat = int(image.min()), image.reshape(-1)
    values = np.arange(low, int(image.max()) + 1)
    counts = np.zeros(len(values), np.int64)
    for start in range(0, len(flat), PIECE):
        piece = flat[start : start + PIECE]
        counts += np.bincount(piece[piece != 0].astype(np.int64) - low, minlength=len(values))
    n = int(counts.sum())
    if n == 0:
        return None
    mean = float(values @ counts) / n
    std = float(np.sqrt(((values - mean) ** 2) @ counts / n))
    p01, p99 = (_percentile(values, counts.cumsum(), n, q) for q in (0.01, 0.99))
    return mean, std, p01, p99


def _percentile(values: np.ndarray, upto: np.ndarray, n: int, q: float) -> float:
    """NumPy's linear percentile: between the two sorted values around rank q·(n − 1)."""
    rank = q * (n - 1)
    low, high = (values[np.searchsorted(upto, int(r), side="right")] for r in (np.floor(rank), np.ceil(rank)))
    return float(low + (high - low) * (rank - np.floor(rank)))
