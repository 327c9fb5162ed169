"""The anatomy of a phantom: a brain and its tumours as weights of tissues on a grid.

All is drawn in millimetres of the BraTS field of view from distance-like functions (positive inside, 0 on
the edge), bent and textured by smooth random fields. Only exactly rounded arithmetic touches voxels (no
exp, no power, no BLAS), so that every machine draws the same ones.

Axes: D z slices, H rows (y), W columns (x); z up, y to the back, x to the patient's left. Volumes are
(D, H, W) float32 of the box around the brain; `axes` are the mm of its slices, rows and columns. `soft` is
the width of a voxel in mm, at least 1: no edge is sharper.
"""

import numpy as np

SIZE = (240, 240, 155)  # voxels (x, y, z) of a BraTS image, 1 mm each
CENTRE = (76.0, 126.0, 120.0)  # (z, y, x) mm in that image: the origin of all coordinates below
BOX = (78.0, 92.0, 76.0)  # (z, y, x) half-widths in mm of the box that holds the brain


def frame(size: tuple[int, int, int]) -> tuple[tuple, tuple, float]:
    """The voxels (D, H, W slices) of the box around the brain, their axes in mm, the width of a soft edge."""
    box, axes, steps = [], [], []
    for n, full, centre, half in zip(size[::-1], SIZE[::-1], CENTRE, BOX, strict=True):
        step = full / n
        mm = (np.arange(n) + 0.5) * step - centre
        low, high = np.searchsorted(mm, (-half, half))
        box.append(slice(int(low), int(high)))
        axes.append(mm[low:high].astype(np.float32))
        steps.append(step)
    return tuple(box), tuple(axes), max(1.0, sum(steps) / 3)


def draw_brain(rng: np.random.Generator, axes: tuple, soft: float) -> tuple[np.ndarray, dict]:
    """Depth in mm below the brain's surface (the brain is where it is positive), and weights of tissues."""
    zyx = _bend(rng, axes)
    depth = _brain_depth(rng, axes, *zyx)
    return depth, _tissues(rng, axes, zyx, depth, soft)


def _bend(rng: np.random.Generator, axes: tuple) -> list[np.ndarray]:
    """Coordinates (z, y, x), each (D, H, W) mm, bent and stretched: no two brains are the same."""
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    stretch = rng.uniform(0.96, 1.06, 3).astype(np.float32)
    return [g * s + np.float32(2.5) * smooth_field(rng, axes, 40) for g, s in zip(grid, stretch, strict=True)]


def _brain_depth(rng: np.random.Generator, axes: tuple, z, y, x) -> np.ndarray:
    """The brain is a union of ellipsoids, uneven by fields of two scales."""
    side = np.abs(x)
    depth = _blob(z, y, x * (1 - y / 500), (10, 0, 0), (59, 85, 66))
    for centre, radii in (
        ((-26, -8, 37), (25, 37, 25)),  # temporal lobes
        ((-40, 46, 21), (27, 31, 31)),  # cerebellum
        ((-44, 18, 0), (32, 13, 13)),  # brain stem
    ):
        depth = np.maximum(depth, _blob(z, y, side, centre, radii))
    return depth + 1.5 * smooth_field(rng, axes, 22) + 0.6 * smooth_field(rng, axes, 7)


def _tissues(rng: np.random.Generator, axes: tuple, zyx: list, depth: np.ndarray, soft: float) -> dict:
    """Weights 0–1 (D, H, W) of what is painted over white matter, one after the other."""
    z, y, x = zyx
    side = np.abs(x)
    fold, spread = smooth_field(rng, axes, 8), smooth_field(rng, axes, 14)
    # Sulci: sheets where a field crosses zero, open near the surface, closed below it.
    sulcus = np.abs(fold) * 4 + np.maximum(depth - 8, 0) * 0.2
    callosum = np.maximum(1 - ((y - 5) / 46) ** 2 - ((z + 5) / 32) ** 2, 0)
    fissure = side + 20 * callosum + 0.4 * np.maximum(-30 - z, 0)
    gap = np.minimum(np.minimum(sulcus, fissure), np.maximum(depth, 0) + 0.5)
    big = rng.uniform(0.75, 1.35)
    horn = side - 7 - 0.0034 * (y + 26) ** 2  # lateral ventricles part towards the back
    ventricle = (1 - np.sqrt((horn / (5 * big)) ** 2 + ((y - 2) / 40) ** 2 + ((z - 10) / (9 * big)) ** 2)) * 5
    for centre, radii in (((-6, 6, 0), (9, 12, 2.2)), ((-38, 32, 0), (8, 5, 6))):  # third and fourth
        ventricle = np.maximum(ventricle, _blob(z, y, x, centre, radii))
    grey = 3.2 - gap
    for centre, radii in (((0, -2, 25), (13, 18, 7)), ((2, 14, 11), (9, 13, 8)), ((10, -20, 15), (9, 10, 5))):
        grey = np.maximum(grey, _blob(z, y, side, centre, radii))  # putamen, thalamus, caudate
    vessel = np.minimum(0.9 - gap, 0.5 - np.abs(spread) * 3)  # where two sheets cross: lines
    plexus = _blob(z, y, side, (7, 24, 17), (3, 6, 2.5))
    cap = np.minimum(ventricle + 4, spread * 2)
    return {
        "grey": _edge(grey, 2.5 * soft) * np.float32(0.95),
        "cap": _edge(cap, 2 * soft) * np.float32(0.8),
        "csf": np.maximum(_edge(0.7 - gap, 1.5 * soft), _edge(ventricle, 1.5 * soft)),
        "vessel": np.maximum(_edge(vessel, soft), _edge(plexus, 2 * soft)),
    }


def draw_lesions(
    rng: np.random.Generator, kind: str, axes: tuple, depth, weights: dict, soft: float
) -> tuple[dict, int]:
    """Weights of oedema, core and necrosis, one within the other, of all lesions; how many there are."""
    out = {name: np.zeros(depth.shape, np.float32) for name in ("oedema", "core", "necrosis")}
    white = 1 - np.maximum(weights["grey"], weights["csf"])
    far = np.full(depth.shape, 1e3, np.float32)  # mm from the lesions so far
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    count = 0
    for reach in _reaches(rng, kind, soft):
        # Deep enough that the oedema stays within the brain for the most part.
        room = np.flatnonzero((depth > min(0.6 * reach + 2, 28)) & (white > 0.5) & (far > reach + 5))
        if not room.size:
            continue
        centre = np.unravel_index(room[rng.integers(room.size)], depth.shape)
        place = [float(axis[c]) for axis, c in zip(axes, centre, strict=True)]
        near = tuple(
            slice(*np.searchsorted(axis, (p - 1.7 * reach - 4, p + 1.7 * reach + 4)))
            for axis, p in zip(axes, place, strict=True)
        )
        local = tuple(axis[s] for axis, s in zip(axes, near, strict=True))
        drawn = _lesion(rng, kind, reach, place, local, depth[near], white[near], soft)
        for name, weight in drawn.items():
            out[name][near] = np.maximum(out[name][near], weight)
        away = np.sqrt(sum((g - np.float32(p)) ** 2 for g, p in zip(grid, place, strict=True))) - 1.2 * reach
        far = np.minimum(far, away)
        count += 1
    return out, count


def _reaches(rng: np.random.Generator, kind: str, soft: float) -> list[float]:
    """Radius in mm of the oedema of each lesion, the largest first."""
    if kind == "small":
        radii = rng.uniform(5, 11, rng.integers(1, 3))
    elif kind == "multifocal":
        radii = np.append(rng.uniform(20, 28), rng.uniform(6, 15, rng.integers(1, 4)))
    else:
        radii = rng.uniform(22, 36, 1)
    return sorted((max(float(radius), 3 * soft) for radius in radii), reverse=True)


def _lesion(rng, kind: str, reach: float, place: list, axes: tuple, depth, white, soft: float) -> dict:
    """One lesion on a part of the grid: {oedema, core, necrosis: weights (D, H, W)}, each within the last."""
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    squeeze = rng.uniform(0.85, 1.18, 3)
    away = [(g - np.float32(p)) * np.float32(s) for g, p, s in zip(grid, place, squeeze, strict=True)]
    shift = rng.uniform(-0.12, 0.12, 3) * reach  # the core lies off the oedema's centre
    core_away = [a - np.float32(s) for a, s in zip(away, shift, strict=True)]
    coarse, fine = smooth_field(rng, axes, max(0.5 * reach, 4)), smooth_field(rng, axes, max(0.25 * reach, 3))
    radius = rng.uniform(0.5, 0.66) * reach
    # Oedema runs along white matter and spares cortex and the brain's edge.
    whole = reach * (1 + 0.18 * coarse + 0.07 * fine) - np.sqrt(sum(a * a for a in away))
    whole = np.minimum(whole - 0.3 * reach * (1 - white), depth - 1)
    core = radius * (1 + 0.14 * coarse + 0.14 * fine) - np.sqrt(sum(a * a for a in core_away))
    core = np.minimum(core, np.minimum(whole + 0.3 * reach * (1 - white), depth - 2))
    rim = rng.uniform(0.2, 0.34) * radius + 1.2 * soft if kind != "non-enhancing" else 0.0
    inner = core - rim * np.maximum(1 + 0.45 * fine, 0.25)
    if kind == "small":
        inner = inner - reach  # too small for a necrosis: it enhances as a whole
    core_weight = _edge(core, 1.5 * soft)
    return {
        "oedema": np.maximum(_edge(whole, 2.5 * soft), core_weight),
        "core": core_weight,
        "necrosis": np.minimum(_edge(inner, 1.5 * soft), core_weight),
    }


def smooth_field(rng: np.random.Generator, axes: tuple, cell: float) -> np.ndarray:
    """A random field (D, H, W) float32 of mean 0 and about unit variance, structures about `cell` mm wide.

    Normal coefficients on a lattice of that spacing, interpolated by uniform cubic B-splines: four
    multiply-adds an axis, whatever the scale.
    """
    places = [(axis - axis[0]) / np.float32(cell) for axis in axes]
    field = rng.standard_normal([int(p[-1]) + 4 for p in places], np.float32)
    for k in (2, 1, 0):
        below = np.floor(places[k])
        at, t = below.astype(np.intp), places[k] - below
        r, square, cube = 1 - t, t * t, t * t * t
        taps = (r * r * r, 3 * cube - 6 * square + 4, -3 * cube + 3 * square + 3 * t + 1, cube)
        shape = [-1 if axis == k else 1 for axis in range(3)]
        field = sum(field.take(at + j, k) * (tap / 6).reshape(shape) for j, tap in enumerate(taps))
    return field * np.float32(3.0)  # the basis keeps 0.479 of the variance an axis


def _blob(z, y, x, centre: tuple, radii: tuple) -> np.ndarray:
    """About the depth in mm below the surface of an ellipsoid; centre and radii (z, y, x)."""
    parts = (((c - m) / r) ** 2 for c, m, r in zip((z, y, x), centre, radii, strict=True))
    return (1 - np.sqrt(sum(parts))) * np.float32(min(radii))


def _edge(depth: np.ndarray, width: float) -> np.ndarray:
    """0 outside, 1 inside, a smooth step `width` mm wide around depth 0."""
    t = np.clip(depth / np.float32(width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)
