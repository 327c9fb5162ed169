"""Rigid registration by mutual information (Mattes), coarse to fine, from the best of a few starting points.

Deterministic to the bit on one machine: one thread, a regular sample of voxels. Matrices are mm of the fixed
image → mm of the moving one, RAS+.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bts.errors import CaseError
from bts.intake import tools
from bts.intake.grids import LPS, Image, Lattice, isotropic, resample, rescaled, to_itk

COARSE_MM = 6.0  # of the copies that starting points are compared on
LEVELS = ((4.0, 2.0, 100), (2.0, 0.5, 60))  # mm of a voxel, mm of the first step, most steps
LAST_STEP_MM = 0.002
SAMPLE = 1 / 3  # of the voxels of the finest level
SEED = 20260101  # of the jitter within the regular sample
BINS = 32
PITCHES = (-20.0, -10.0, 0.0, 10.0, 20.0)  # degrees that a head may be bent forwards or backwards


def pyramid(image: Image) -> list[Image]:
    """Smoothed copies for the levels of `register`, the coarsest first."""
    return [coarsened(image, mm) for mm, _, _ in LEVELS]


def register(fixed: list[Image], moving: list[Image], starts: Iterable[np.ndarray]) -> np.ndarray:
    """The rigid matrix that brings two pyramids to the greatest mutual information. Raises CaseError."""
    matrix = best_start(fixed[0], moving[0], starts)
    for one, other, (_, step, most) in zip(fixed, moving, LEVELS, strict=True):
        matrix = _improve(one, other, matrix, step, most)
    return matrix


def coarsened(image: Image, mm: float) -> Image:
    """A smoothed copy with voxels of at least `mm` along each axis, over the same field of view."""
    zooms = np.array(image.lattice.zooms)
    coarse = np.maximum(zooms, mm)
    voxels = image.voxels.astype(np.float32, copy=False)
    if (coarse < 1.2 * zooms).all():
        return Image(voxels, image.lattice)
    itk = tools.load("SimpleITK")
    sigmas = np.maximum(0.4 * np.sqrt(coarse**2 - zooms**2), 0.01 * zooms)
    smooth = itk.GetArrayFromImage(
        itk.SmoothingRecursiveGaussian(to_itk(Image(voxels, image.lattice)), sigmas.tolist())
    )
    onto = rescaled(image.lattice, coarse)
    return Image(resample(Image(smooth, image.lattice), onto, np.eye(4)), onto)


def _improve(fixed: Image, moving: Image, start: np.ndarray, step: float, most: int) -> np.ndarray:
    """One level: steps downhill, halved at each turn, until they are too small to matter."""
    itk = tools.load("SimpleITK")
    method = itk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(1.0 if step > 1 else SAMPLE, SEED)
    method.SetNumberOfThreads(int(tools.THREADS))
    method.SetInterpolator(itk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, LAST_STEP_MM, most, 0.6, 1e-7)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = _euler(start, fixed.lattice.centre)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(to_itk(fixed), to_itk(moving))
    except RuntimeError as error:  # ITK: no voxel of one lies within the other, and the like
        reason = str(error).strip().splitlines()[-1][:200]
        raise CaseError(
            f"two series cannot be registered ({reason})",
            mend="look whether both show the head",
            stage="register",
        ) from None
    return _matrix(transform, fixed.lattice.centre)


def _euler(matrix: np.ndarray, centre: np.ndarray) -> Any:
    """A rigid ITK transform that turns about `centre` (mm, RAS+)."""
    turn, about = (LPS @ matrix @ LPS)[:3, :3], LPS[:3, :3] @ centre
    transform = tools.load("SimpleITK").Euler3DTransform()
    transform.SetCenter(about.tolist())
    transform.SetMatrix(turn.ravel().tolist(), 1e-4)
    transform.SetTranslation((turn @ about + (LPS @ matrix @ LPS)[:3, 3] - about).tolist())
    return transform


def _matrix(transform: Any, centre: np.ndarray) -> np.ndarray:
    about, turn = LPS[:3, :3] @ centre, np.array(transform.GetMatrix()).reshape(3, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = about - turn @ about + np.array(transform.GetTranslation())
    return LPS @ matrix @ LPS


def best_start(fixed: Image, moving: Image, starts: Iterable[np.ndarray]) -> np.ndarray:
    """The one of the matrices under which coarse copies of both are most alike."""
    grid = isotropic(fixed.lattice, COARSE_MM)
    still = resample(fixed, grid, np.eye(4))
    return max(starts, key=lambda matrix: similarity(still, resample(moving, grid, matrix)))


def starts_between(fixed: Lattice, moving: Lattice) -> Iterator[np.ndarray]:
    """Of two series of one study: where the scanner says, and centre on centre."""
    yield np.eye(4)
    yield shifted(moving.centre - fixed.centre)


def starts_to_atlas(atlas: Lattice, head: Image) -> Iterator[np.ndarray]:
    """Of a head that may lie anywhere in its field of view, bent to either side."""
    for target in (head.lattice.centre, centre_of_mass(head)):
        for pitch in PITCHES:
            turn = np.eye(4)
            c, s = np.cos(np.deg2rad(pitch)), np.sin(np.deg2rad(pitch))
            turn[1:3, 1:3] = [[c, -s], [s, c]]
            yield shifted(target) @ turn @ shifted(-atlas.centre)


def centre_of_mass(image: Image) -> np.ndarray:
    """mm of the centre of what is brighter than the mean."""
    places = np.argwhere(image.voxels > image.voxels.mean()).mean(axis=0)
    return (image.lattice.affine @ [*places[::-1], 1])[:3]


def shifted(by_mm: np.ndarray) -> np.ndarray:
    """A 4×4 that moves by so many mm."""
    matrix = np.eye(4)
    matrix[:3, 3] = by_mm
    return matrix


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Normalised mutual information of two arrays on one grid: 1 independent, 2 equal."""
    a, b = _binned(one.ravel()), _binned(other.ravel())
    joint = np.bincount(a * BINS + b, minlength=BINS * BINS).astype(np.float64) / max(a.size, 1)
    square = joint.reshape(BINS, BINS)
    both = _entropy(joint)
    return (_entropy(square.sum(0)) + _entropy(square.sum(1))) / both if both else 1.0


def _binned(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (0.5, 99.5)) if values.size else (0, 1)
    return np.clip((values - low) / max(high - low, 1e-6) * BINS, 0, BINS - 1).astype(np.int64)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
