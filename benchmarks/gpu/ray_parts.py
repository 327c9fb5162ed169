"""What a bare machine with a GPU needs to run the jobs by Ray: `python -m benchmarks.gpu.ray_parts`.

--models: adopted models (.safetensors) to segment with. Fills .gpu/part-r1, part-r2, … (or --out), none
larger than 48 MiB: the code of this checkout with its tests and the bundled model; Ray, and the wheels that
such a machine lacks. benchmarks/gpu/ray.sh unpacks them there and runs benchmarks.gpu.by_ray.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.gpu.pack import MOST, WHEELS, code, fill, wheels
from benchmarks.table import ROOT

RAY = (  # and what it imports; MLflow without its database
    "ray",
    "jsonschema",
    "jsonschema-specifications",
    "referencing",
    "rpds-py",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "tensorboardX",
    "mlflow-skinny",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-proto",
    "opentelemetry-semantic-conventions",
    "importlib-metadata",
    "cachetools",
    "python-dotenv",
    "sqlparse",
    "databricks-sdk",
    "gitpython",
    "gitdb",
    "smmap",
    "fastapi",
    "starlette",
    "monai",
)
PIECE = 16 << 20  # bytes of a piece of a wheel that is larger than that
FOLDERS = ("bts", "jobs", "tests", "benchmarks", "pyproject.toml")


def pieces(wheel: Path) -> list[tuple[str, bytes]]:
    """A wheel, or the pieces of a large one."""
    data = wheel.read_bytes()
    if len(data) <= PIECE:
        return [(wheel.name, data)]
    starts = range(0, len(data), PIECE)
    return [(f"ray.whl.{n:02}", data[start : start + PIECE]) for n, start in enumerate(starts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu")
    given = parser.parse_args()
    for part in given.out.glob("part-r*"):
        shutil.rmtree(part)
    first = given.out / "part-r1"
    first.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "ray.sh", first)
    code(first, FOLDERS, weights=True)
    with tempfile.TemporaryDirectory() as folder:
        wheels(Path(folder), (*WHEELS, *RAY))
        found = sorted(Path(folder).glob("*.whl"), key=lambda path: path.stat().st_size)
        (first / "ray.name").write_text(found[-1].name)
        files = [piece for wheel in found for piece in pieces(wheel)]
    models = [(f"models/{path.name}", path.read_bytes()) for path in given.models]
    print(f"{fill(given.out, [*models, *files], 'part-r')} parts of at most {MOST >> 20} MiB in {given.out}")


if __name__ == "__main__":
    main()
