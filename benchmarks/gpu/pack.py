"""What a bare machine with a GPU needs to train: `python -m benchmarks.gpu.pack --shards DIR --figshare DIR`.

--shards, --figshare: made by jobs.preprocess. --begin: what the stage `folds` left an earlier time, whose
models are where the trainings begin. Fills .gpu/part-1, .gpu/part-2, … (or --out), none larger than
48 MiB: the code of this checkout and the wheels that such a machine lacks (Python 3.12 with PyTorch, SciPy,
pandas, pyarrow, h5py and matplotlib is taken for granted), then the shards; figshare's at the 128×128
pixels on which its presets train. benchmarks/gpu/run.sh unpacks them there.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.table import ROOT
from bts.images.grid import Grid
from bts.model.resample import resize_images, resize_labels
from bts.presets import PRESETS
from bts.shards.format import ROW_GROUP, read_volume, write_shard

WHEELS = (
    "tyro",
    "docstring-parser",
    "typeguard",
    "nibabel",
    "importlib-resources",
    "isal",
    "surface-distance",
)
FOLDERS = ("bts", "jobs", "benchmarks")  # what a training imports
PLATFORMS = ("2_28", "2_27", "2_24", "2_17")
MOST = 48 << 20  # bytes of a part


def code(place: Path, folders: Sequence[str] = FOLDERS, *, weights: bool = False) -> None:
    """The files of these folders, as this checkout has them, not yet committed ones too; a training needs no
    bundled weights."""
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True)
    with tarfile.open(place / "code.tar.gz", "w:gz") as tar:
        for name in listed.stdout.split():
            if weights or "weights/" not in name:
                tar.add(ROOT / name, name)


def wheels(place: Path, names: Sequence[str] = WHEELS) -> None:
    """Packages for Python 3.12 on x86-64, in the versions that are installed here."""
    platforms = [f"--platform=manylinux_{p}_x86_64" for p in PLATFORMS] + ["--platform=manylinux2014_x86_64"]
    named = [f"{name}=={version(name)}" for name in names]
    for one in named:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            str(place),
        ]
        subprocess.run([*pip, "--python-version=3.12", "--implementation=cp", *platforms, one], check=True)


def shrunk(data: bytes) -> bytes:
    """A figshare shard at the size on which its presets train."""
    volume, size = read_volume(data, ("t1ce",)), PRESETS["figshare2d"].resize
    whole = torch.from_numpy(volume.whole(volume.images)).float().transpose(0, 1)
    images = resize_images(whole, size).round().to(torch.int16).transpose(0, 1).numpy()
    mask = resize_labels(torch.from_numpy(volume.whole(volume.mask[None])[0]), size).numpy()
    header = bytearray(volume.grid.header)
    header[42:46] = np.array(size[::-1], "<i2").tobytes()  # dim[1:3] of NIfTI-1
    small = replace(volume, images=images, mask=mask, origin=(0, 0, 0), grid=Grid(bytes(header)))
    return write_shard(small, {})


def tight(data: bytes) -> bytes:
    """The same shard, compressed for longer: a tenth smaller."""
    sink = io.BytesIO()
    table = pq.read_table(io.BytesIO(data))
    how = {"compression": "zstd", "compression_level": 12, "use_dictionary": False}
    pq.write_table(table, sink, row_group_size=ROW_GROUP, **how)
    return sink.getvalue()


def fill(out: Path, files: list[tuple[str, bytes]], name: str = "part-") -> int:
    """Files into the parts, in their order; the number of parts."""
    number, room = 1, MOST - sum(f.stat().st_size for f in (out / f"{name}1").rglob("*") if f.is_file())
    for key, data in files:
        if len(data) > room:
            number, room = number + 1, MOST
        target = out / f"{name}{number}" / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        room -= len(data)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--figshare", type=Path, required=True)
    parser.add_argument("--begin", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    (given.out / "part-1").mkdir(parents=True)
    code(given.out / "part-1")
    shutil.copy(Path(__file__).parent / "run.sh", given.out / "part-1")
    wheels(given.out / "part-1")
    small = (
        (f"figshare/{file.name}", shrunk(file.read_bytes()))
        for file in sorted(given.figshare.glob("*.parquet"))
    )
    models = sorted(given.begin.glob("fast*/*.safetensors")) if given.begin else []
    begin = ((f"begin/{file.name}", file.read_bytes()) for file in models)
    brats = (
        (f"brats/{file.name}", tight(file.read_bytes())) for file in sorted(given.shards.glob("*.parquet"))
    )
    print(f"{fill(given.out, [*small, *begin, *brats])} parts in {given.out}")


if __name__ == "__main__":
    main()
