"""The files of one series → one volume on the scanner's own grid.

DICOM goes through dcm2niix, which knows the vendors' ways; only its volume is kept, its side files, which
hold names, are never written.
"""

import errno
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from bts.errors import CaseError, RunError
from bts.images.grid import Volume
from bts.images.nifti import read_nifti
from bts.intake import tools
from bts.intake.dicom_seg import lattice_of, read_source
from bts.intake.grids import Image, Lattice

PATIENCE_S = 300
SAME_MM = 2.0  # by which a corner may lie elsewhere than the tags say; a stack may be slanted by 1 mm
MEND = "look at this series on the scanner, or export it again"


def convert(files: list[bytes], what: str, *, dicom: bool) -> Image:
    """One series as an Image. `what` names it in errors, for files' names may tell names. Raises
    CaseError.
    """
    volume = from_dicom(files, what) if dicom else read_nifti(files[0], what)
    image = Image(
        volume.grid.to_source(volume.voxels),
        Lattice(volume.grid.source_shape[::-1], volume.grid.source_affine),
    )
    if not image.voxels.any() or np.ptp(image.voxels) == 0:
        raise CaseError("all its voxels are equal", mend=MEND, file=what, stage="convert")
    if dicom:
        check_tags(image.lattice, files, what)
    return image


def check_tags(made: Lattice, files: list[bytes], what: str) -> None:
    """Raise CaseError where the tags tell what dcm2niix does not heed: frames of a multi-frame file in
    another order than that of the stack, which it puts elsewhere, and a scale of its own for each frame."""
    try:
        datasets = read_source(files)
        told = lattice_of(datasets)[0]
    except CaseError:  # of tags that lie where no standard has them, which dcm2niix may find all the same
        return
    frames = datasets[0].get("PerFrameFunctionalGroupsSequence", ())
    scaled = (frame.get("PixelValueTransformationSequence") for frame in frames)
    scales = {str(groups[0].get("RescaleSlope")) for groups in scaled if groups}
    away = np.linalg.norm(made.corners[:, None] - told.corners, axis=-1).min(axis=1).max()
    problem = ""
    if len(scales) > 1:
        problem = f"its frames have {len(scales)} scales (Rescale Slope), of which dcm2niix heeds one"
    if away > SAME_MM:
        problem = f"dcm2niix puts its slices {away:.0f} mm away from where their tags say that they lie"
    if problem:
        raise CaseError(problem, mend=MEND, file=what, stage="convert")


def from_dicom(files: list[bytes], what: str) -> Volume:
    """The slices, or the one multi-frame file, of a series through dcm2niix. Raises CaseError; RunError where
    the disk for temporary files is full, for which no scan is to blame."""
    try:
        with tempfile.TemporaryDirectory(prefix="bts-") as folder:
            try:
                return _by_dcm2niix(Path(folder), files, what)
            except CaseError:
                if shutil.disk_usage(folder).free < sum(map(len, files)):
                    raise OSError(errno.ENOSPC, "No space left on device") from None
                raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{tempfile.gettempdir()}: {error.strerror}"
        raise RunError(f"{where}; make room for temporary files, or set TMPDIR to another disk") from None


def _by_dcm2niix(folder: Path, files: list[bytes], what: str) -> Volume:
    source, made = folder / "in", folder / "out"
    source.mkdir()
    made.mkdir()
    for n, data in enumerate(files):
        (source / f"{n:05d}.dcm").write_bytes(data)
    # No side file (-b n), no compression, no crop or rotation, voxels as they are stored (-l o).
    how = ["-b", "n", "-z", "n", "-x", "n", "-l", "o", "-m", "y", "-f", "volume", "-o"]
    done = _run([tools.load("dcm2niix").bin, *how, str(made), str(source)], what)
    found = sorted(made.glob("*.nii"))
    if done.returncode or len(found) != 1:
        raise CaseError(
            f"dcm2niix made {len(found)} volumes of its {len(files)} files (exit code {done.returncode})",
            mend=MEND, file=what, stage="convert",
        )  # fmt: skip
    return read_nifti(found[0].read_bytes(), what)


def _run(command: list[str], what: str) -> subprocess.CompletedProcess:
    """What it prints holds names of files alone, and is dropped."""
    try:
        return subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        problem = f"dcm2niix has not done in {PATIENCE_S} s"
        raise CaseError(problem, mend=MEND, file=what, stage="convert") from None
