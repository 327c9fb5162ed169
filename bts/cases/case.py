"""What everybody passes: a case as it is listed, and one case's voxels."""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np

from bts.cases.datasets import Dataset, dataset_of
from bts.images.grid import Grid
from bts.storage import Entry

STATISTICS = ("mean", "std", "p01", "p99")
CORNER = 3  # voxels a side of each corner that is looked at for noise


@dataclass(frozen=True, slots=True)
class Case:
    """One examination of one patient and the files that it consists of."""

    id: str
    patient: str
    """Who was scanned: one patient may have several cases and several names."""
    dataset: str
    group: str
    """Tumour grade or type where the listing tells it, else empty."""
    labels: str
    """Convention of its truth: a key of bts.labels.CONVENTIONS, pairs (bts.labels.spelt), or UNKNOWN."""
    files: dict[str, Entry]
    """By role: t1, t1ce, t2, flair, seg; MSD's 4D `image`; figshare's slices by their keys."""

    @property
    def traits(self) -> Dataset:
        """What is known of its dataset."""
        return dataset_of(self.dataset)

    @property
    def versions(self) -> dict[str, str]:
        """Role → ETag, or size+mtime, of each of its files."""
        return {role: entry.version for role, entry in self.files.items()}

    @property
    def bytes(self) -> int:
        """Of its files together."""
        return sum(entry.size for entry in self.files.values())

    def to_json(self) -> str:
        """For a row of a Ray dataset."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Case":
        fields = json.loads(text)
        return cls(**{**fields, "files": {role: Entry(**entry) for role, entry in fields["files"].items()}})


@dataclass(frozen=True, slots=True)
class CaseVolume:
    """One case on the canonical grid, cropped to the brain."""

    case_id: str
    patient_id: str
    dataset: str
    group: str
    labels: str
    """Convention of the case's truth in its files, as Case has it."""
    modalities: tuple[str, ...]
    images: np.ndarray
    """(C, D, H, W) int16, uint16 or float32: the source's own values, background 0."""
    mask: np.ndarray | None
    """(D, H, W) uint8 labels of the project, or None without a truth."""
    origin: tuple[int, int, int]
    """(z, y, x) of the crop's first voxel in the canonical grid."""
    grid: Grid
    mean: np.ndarray
    """(C,) float32 over the brain (non-zero voxels), like std, p01 and p99."""
    std: np.ndarray
    p01: np.ndarray
    p99: np.ndarray
    background: tuple[float, ...] = ()
    """Of each modality, the source's value around the head, which `images` have as 0 (and 0 as this value);
    empty where all are 0."""

    @property
    def traits(self) -> Dataset:
        """What is known of its dataset."""
        return dataset_of(self.dataset)

    @property
    def brain(self) -> np.ndarray:
        """(D, H, W) bool: voxels that are not 0 in every modality; outside, no tumour is looked for."""
        return (self.images != 0).any(axis=0)

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where the crop lies in an array over the canonical grid (D, H, W)."""
        z, y, x = (slice(o, o + n) for o, n in zip(self.origin, self.images.shape[1:], strict=True))
        return z, y, x

    def whole(self, cropped: np.ndarray) -> np.ndarray:
        """An array over the crop (…, D, H, W) put back into the canonical grid, zeros around it."""
        full = np.zeros((*cropped.shape[:-3], *self.grid.shape), cropped.dtype)
        full[(..., *self.box)] = cropped
        return full

    def uncropped(self) -> "CaseVolume":
        """The same case over the whole canonical grid."""
        mask = None if self.mask is None else self.whole(self.mask)
        return replace(self, images=self.whole(self.images), mask=mask, origin=(0, 0, 0))

    def cut(self, box: tuple[slice, slice, slice]) -> "CaseVolume":
        """The same case over a box (z, y, x) of the crop alone."""
        mask = None if self.mask is None else self.mask[box]
        origin = tuple(o + side.start for o, side in zip(self.origin, box, strict=True))
        return replace(self, images=self.images[(slice(None), *box)], mask=mask, origin=origin)

    def source(self, modality: str) -> np.ndarray:
        """The file's own values of a modality, over the whole canonical grid (D, H, W)."""
        n = self.modalities.index(modality)
        return exchanged(self.whole(self.images[n]), self.background[n] if self.background else 0)

    @property
    def noisy(self) -> list[str]:
        """Modalities with noise around the head: most of the corners is neither 0 nor any one value."""
        corners = np.ix_(*([*range(CORNER), *range(-CORNER, 0)] for _ in range(3)))
        if min(self.images.shape[1:]) < 4 * CORNER:
            return []
        found = zip(self.modalities, (image[corners] for image in self.images), strict=True)
        return [name for name, cut in found if (cut != 0).mean() > 0.5 and np.ptp(cut[cut != 0]) > 0]

    def describe(self) -> str:
        """All but the voxels, as JSON: for a row of a Ray dataset, beside the voxels."""
        named = {
            name: getattr(self, name) for name in ("case_id", "patient_id", "dataset", "group", "labels")
        }
        statistics = {name: getattr(self, name).tolist() for name in STATISTICS}
        shape, header = self.images.shape[1:], self.grid.header.hex()
        place = {"modalities": self.modalities, "origin": self.origin, "shape": shape, "header": header}
        around = {"background": self.background} if self.background else {}
        return json.dumps({**named, **statistics, **place, **around})

    @classmethod
    def described(cls, images: np.ndarray, text: str) -> "CaseVolume":
        """The inverse of `describe`, with voxels (C, D, H, W) of the same crop and without a mask."""
        fields = json.loads(text)
        del fields["shape"]
        fields |= {name: np.array(fields[name], np.float32) for name in STATISTICS}
        fields |= {n: tuple(fields[n]) for n in ("modalities", "origin", "background") if n in fields}
        return cls(images=images, mask=None, grid=Grid(bytes.fromhex(fields.pop("header"))), **fields)

    @property
    def outline(self) -> np.ndarray:
        """`brain` as bits: what the later stages need of the voxels, a 64th of their size."""
        return np.packbits(self.brain)

    @classmethod
    def outlined(cls, outline: np.ndarray, text: str) -> "CaseVolume":
        """The inverse of `describe` with an `outline` instead of voxels: `images` are its brain, True or
        False."""
        shape = json.loads(text)["shape"]
        brain = np.unpackbits(outline, count=int(np.prod(shape))).view(bool)
        return cls.described(brain.reshape(1, *shape), text)


def exchanged(voxels: np.ndarray, value: float) -> np.ndarray:
    """0 for a value, and the value for 0: its own inverse, so nothing is lost. As it is where value is 0."""
    if value == 0:
        return voxels
    swapped = np.where(voxels == value, 0, voxels)
    swapped[voxels == 0] = value
    return swapped.astype(voxels.dtype, copy=False)
