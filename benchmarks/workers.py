"""What a second worker brings, by Ray: each job held to one core, then on two.

`python -m benchmarks.workers`: train runs one DDP worker on one core, then two workers on two; preprocess and
segment have as many tasks and actors as there are cores.
"""

import tempfile
from pathlib import Path

from benchmarks.material import make_cases, make_shards
from benchmarks.table import HEADER, Row, python
from benchmarks.training import trained
from bts.model.file import save_model
from bts.model.nets import build
from bts.presets import FAST

CASES, SHARDS = 20, 12


def one_and_two(what: str, unit: str, measure) -> Row:
    """measure(workers, cores) → a figure, of one worker on one core and of two on two."""
    alone = measure(1, "0")
    return Row(what=what, unit=unit, ours=[measure(2, "0,1")], against="one worker, one core", theirs=[alone])


def a_case(place: Path, job: str, *flags: str):
    """Seconds a case of a job, its start left out: from the first result to the last."""

    def measure(workers: int, cores: str) -> float:
        output = place / f"{job}-{workers}"
        where = {"preprocess": "--shards", "segment": "--labelmaps"}[job]
        folders = ["--cases", str(make_cases(place, CASES)), where, str(output)]
        python("-m", f"jobs.{job}", *folders, *flags, "--ray", "yes", cores=cores)
        results = output.glob("*.parquet" if job == "preprocess" else "*.nii.gz")
        times = sorted(result.stat().st_mtime for result in results)
        return (times[-1] - times[0]) / (len(times) - 1)

    return measure


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = place / "fast.safetensors"
        model.write_bytes(save_model(build(FAST), FAST, {}))
        shards = make_shards(place, SHARDS)
        print(HEADER)
        for row in (
            one_and_two("preprocess, two workers", "s/case", a_case(place, "preprocess")),
            one_and_two("segment, two workers", "s/case", a_case(place, "segment", "--model", str(model))),
            one_and_two("train, two workers", "slices/s", lambda n, cores: trained(shards, n, cores)[0]),
        ):
            print(row.line(), flush=True)


if __name__ == "__main__":
    main()
