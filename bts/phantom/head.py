"""A phantom as a scanner sees it: a head with skull, each modality on a grid and in a pose of its own.

The head lies in the phantom's own space (mm in RAS+, the affine of its BraTS files). `pose` of a scan takes
those mm to the scanner's, and is known: that is what the phantom is for.

Volumes are (D, H, W) as in bts.phantom.case; `voxels_xyz` of a scan is (x, y, z), as NIfTI has it.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bts.phantom import case
from bts.phantom.anatomy import CENTRE
from bts.phantom.anatomy import SIZE as FULL

FAT_SIGNAL = {"t1": 1.5, "t1ce": 1.5, "t2": 1.2, "flair": 1.1}  # of scalp, relative to the brain's median
MUSCLE_SIGNAL = {"t1": 0.7, "t1ce": 0.9, "t2": 0.4, "flair": 0.5}
CSF_SIGNAL = {"t1": 0.35, "t1ce": 0.35, "t2": 2.2, "flair": 0.3}
BONE_SIGNAL = 0.08
NOISE = 0.015  # standard deviation, relative to the brain's median
CSF_MM, BONE_MM, SCALP_MM = 3.0, 9.0, 14.0  # outer edges of the shells around the brain
FOLDS_MM = 10.0  # sulci that are narrower are within the skull's inner surface
BASE_TURN_DEG, BASE_SHIFT_MM = 12.0, 15.0  # by which a patient may lie askew, about and along each axis
AXIAL, SAGITTAL, CORONAL = "axial", "sagittal", "coronal"
# Columns: where a step along the file's x, y and z leads, in RAS+.
ORIENTATIONS = {
    AXIAL: np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]], float),
    SAGITTAL: np.array([[0, 0, -1], [-1, 0, 0], [0, -1, 0]], float),
    CORONAL: np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]], float),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How one series is taken."""

    role: str
    orientation: str = AXIAL
    zooms: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """mm along the file's x, y and z; z across the slices, which are averaged over their thickness."""
    turn_deg: float = 3.0
    """The patient has moved by up to so much since the first series, about each axis."""
    shift_mm: float = 4.0


@dataclass(frozen=True, slots=True)
class Scan:
    """One series as it comes off the scanner, and what is true of it."""

    plan: Plan
    voxels_xyz: np.ndarray
    """int16 (x, y, z), air about 0."""
    affine: np.ndarray
    """4×4: voxel → mm in RAS+ of the scanner."""
    pose: np.ndarray
    """4×4: mm of the head → mm of the scanner."""
    truth_xyz: np.ndarray
    """uint8 (x, y, z): labels 1, 2, 3 of the project on this grid."""


@dataclass(frozen=True, slots=True)
class Head:
    """A whole head at 1 mm."""

    images: dict[str, np.ndarray]
    """By role: float32 (D, H, W)."""
    labels: np.ndarray
    """uint8 (D, H, W)."""
    brain: np.ndarray
    """bool (D, H, W): the brain's surface, sulci closed."""

    @property
    def affine(self) -> np.ndarray:
        """4×4: (x, y, z) of its voxels → mm in RAS+, as the phantom's BraTS files have it."""
        matrix = np.diag([-1.0, -1.0, 1.0, 1.0])
        matrix[1, 3] = self.labels.shape[1] - 1
        return matrix


def make_head(seed: int, index: int, size: tuple[int, int, int] = FULL) -> Head:
    """Phantom `index` of the set `seed` with cerebrospinal fluid, bone, scalp and face around its brain."""
    images, labels, _ = case.make_case(seed, index, size)
    step = sum(full / n for full, n in zip(FULL, size, strict=True)) / 3
    painted = images["t1"] > 0
    near = ndimage.distance_transform_edt(~painted) * step <= FOLDS_MM
    brain = ndimage.distance_transform_edt(near) * step > FOLDS_MM
    brain |= painted
    away = ndimage.distance_transform_edt(~brain).astype(np.float32) * np.float32(step)
    face = _face(labels.shape) & (away > CSF_MM)
    return Head(
        {role: _dress(image, role, painted, away, face) for role, image in images.items()}, labels, brain
    )


def take(head: Head, plan: Plan, base: np.ndarray, rng: np.random.Generator) -> Scan:
    """One series of the head, which lies at `base` (4×4, head's mm → scanner's) but for some motion."""
    pose = random_pose(rng, plan.turn_deg, plan.shift_mm, about=_middle(base, head)) @ base
    shape, affine = _grid(head, plan, base)
    to_head = np.linalg.inv(head.affine) @ np.linalg.inv(pose) @ affine
    image = _sample(head.images[plan.role], to_head, shape, plan.zooms[2])
    brain_median = np.median(head.images[plan.role][head.brain])
    image = np.hypot(image, NOISE * brain_median * rng.standard_normal(shape))
    voxels = np.clip(np.rint(image), 0, 32000).astype(np.int16)
    weights = [
        _sample((head.labels == k).astype(np.float32), to_head, shape, plan.zooms[2]) for k in (1, 2, 3)
    ]
    inside = sum(weights) >= 0.5
    truth = np.where(inside, np.argmax(weights, axis=0) + 1, 0).astype(np.uint8)
    return Scan(plan, voxels, affine, pose, truth)


def random_pose(
    rng: np.random.Generator, turn_deg: float, shift_mm: float, about: np.ndarray | None = None
) -> np.ndarray:
    """A rigid 4×4 of up to so many degrees about each axis through the point `about` (mm), and so many mm."""
    centre = np.zeros(3) if about is None else about
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-turn_deg, turn_deg, 3))):
        one = np.eye(3)
        a, b = [k for k in range(3) if k != axis]
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    pose = np.eye(4)
    pose[:3, :3] = turn
    pose[:3, 3] = centre - turn @ centre + rng.uniform(-shift_mm, shift_mm, 3)
    return pose


def base_pose(head: Head, rng: np.random.Generator) -> np.ndarray:
    """How the patient lies in the scanner: 4×4, head's mm → scanner's, the head near the isocentre."""
    centred = np.eye(4)
    centred[:3, 3] = -_middle(np.eye(4), head)
    return random_pose(rng, BASE_TURN_DEG, BASE_SHIFT_MM) @ centred


def _middle(pose: np.ndarray, head: Head) -> np.ndarray:
    """The brain's centre in mm, where `pose` puts it."""
    z, y, x = (c * n / full for c, n, full in zip(CENTRE, head.labels.shape, FULL[::-1], strict=True))
    return (pose @ head.affine @ [x, y, z, 1])[:3]


def _face(shape: tuple[int, int, int]) -> np.ndarray:
    """Where the face and neck are, a crude one, but one that tells front from back."""
    step = [full / n for full, n in zip(FULL[::-1], shape, strict=True)]
    z, y, x = np.meshgrid(
        *((np.arange(n) + 0.5) * s - c for n, s, c in zip(shape, step, CENTRE, strict=True)),
        indexing="ij", sparse=True,
    )  # fmt: skip
    jaw = ((z + 55) / 38) ** 2 + ((y + 52) / 52) ** 2 + (x / 52) ** 2 < 1
    nose = ((z + 45) / 16) ** 2 + ((y + 100) / 16) ** 2 + (x / 11) ** 2 < 1
    neck = ((y - 20) / 52) ** 2 + (x / 50) ** 2 + 0 * z < np.where(z < -35, 1, 0)
    return jaw | nose | neck


def _dress(image: np.ndarray, role: str, painted, away: np.ndarray, face: np.ndarray) -> np.ndarray:
    """The brain's image (D, H, W) with the shells around it, float32."""
    signal = np.zeros(image.shape, np.float32)
    signal[face] = MUSCLE_SIGNAL[role]
    signal[away <= SCALP_MM] = FAT_SIGNAL[role]
    signal[away <= BONE_MM] = BONE_SIGNAL
    signal[away <= CSF_MM] = CSF_SIGNAL[role]
    return np.where(painted, image, signal * np.float32(np.median(image[painted]))).astype(np.float32)


def _grid(head: Head, plan: Plan, base: np.ndarray) -> tuple[tuple[int, int, int], np.ndarray]:
    """(voxels (x, y, z), affine) of a field of view that holds the head, centred on it, along the scanner."""
    directions = ORIENTATIONS[plan.orientation]
    extent = np.array(head.labels.shape[::-1], float)  # mm of the head's box along x, y and z
    along = np.abs(directions).T @ extent * 1.06 + 6
    x, y, z = (int(np.ceil(mm / zoom)) for mm, zoom in zip(along, plan.zooms, strict=True))
    affine = np.eye(4)
    affine[:3, :3] = directions * plan.zooms
    box_middle = (base @ head.affine @ [*((extent - 1) / 2), 1])[:3]
    affine[:3, 3] = box_middle - affine[:3, :3] @ ((np.array((x, y, z)) - 1) / 2)
    return (x, y, z), affine


def _sample(volume_DHW: np.ndarray, to_voxel: np.ndarray, shape: tuple[int, int, int], thickness: float):
    """(x, y, z) float32 of the volume at `to_voxel` (4×4, index → the volume's x, y, z), averaged over the
    slice's thickness."""
    count = max(1, round(thickness))
    places = (np.arange(count) + 0.5) / count - 0.5
    out = np.zeros(shape, np.float32)
    for place in places:
        moved = to_voxel.copy()
        moved[:3, 3] += to_voxel[:3, 2] * place
        # affine_transform maps output indices to input indices; the volume is (z, y, x).
        out += ndimage.affine_transform(
            volume_DHW.T, moved[:3, :3], moved[:3, 3], shape, np.float32, order=1, mode="constant"
        )
    return out / np.float32(count)
