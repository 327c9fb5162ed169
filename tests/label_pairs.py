"""Small random pairs of labelmaps, drawn by a seed, for peers to score as well.

NumPy alone: the peers run in environments of their own.
"""

import hashlib

import numpy as np

SHAPE = (30, 36, 26)
CHALLENGES = {
    "2024": {"gli": 100, "ssa": 20, "met": 40, "men": 20, "men-rt": 20, "ped": 20},
    "2026": {"gli": 100, "met": 100},
}
"""Year → challenge → how many pairs were scored, seeds from 0. The others of 2026 differ by regions alone."""
WRITTEN = {"ped": (0, 2, 4, 1, 0), "men-rt": (0, 1, 1, 1, 0)}
"""Labels of the project → those of a challenge; the cavity is no label of these."""


def label_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(truth, prediction), (X, Y, Z) uint8 of labels 0 to 4: lesions, some moved, grown, missed or invented.

    Each lesion is a blob of oedema with a core and an enhancing part inside, or a cavity alone.
    """
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for _ in range(rng.integers(0, 6)):
        centre, radius = rng.integers(0, SHAPE), rng.uniform(0.6, 6.0)
        shape = rng.uniform(0.7, 1.4, 3)
        labels = [4] if rng.random() < 0.15 else [2, 1, 3] if rng.random() < 0.5 else [2, 3, 1]
        fate = rng.random()
        if fate < 0.85:
            _draw(truth, centre, radius, shape, labels)
        if fate > 0.15:
            moved, grown = centre + rng.integers(-2, 3, 3), radius * rng.uniform(0.7, 1.3)
            _draw(prediction, moved, grown, shape, labels)
    for volume in (truth, prediction):
        crumbs = rng.random(SHAPE) < rng.choice([0.0, 0.001])
        volume[crumbs] = rng.integers(0, 5, crumbs.sum())
    return truth, prediction


def written_as(labels: np.ndarray, challenge: str) -> np.ndarray:
    """Labels of the project as a challenge writes them."""
    return np.array(WRITTEN.get(challenge, range(5)), np.uint8)[labels]


def digest(*volumes: np.ndarray) -> str:
    """Of the voxels: two machines drew the same."""
    return hashlib.blake2b(b"".join(v.tobytes() for v in volumes), digest_size=6).hexdigest()


def _draw(volume, centre, radius: float, shape, labels: list[int]) -> None:
    places = np.indices(SHAPE).reshape(3, -1).T
    away = np.sqrt((((places - centre) / shape) ** 2).sum(axis=1)).reshape(SHAPE)
    for share, label in zip((1.0, 0.7, 0.4), labels, strict=False):
        volume[away <= radius * share] = label
