"""Cases in a bucket → one labelmap a case on the source's own grid, by one model or an ensemble.

Three streaming stages: read and crop (CPU tasks), predict (GPU or CPU actors), restore, write and commit (CPU
tasks). Only what is new or changed is done; a case with bad data fails alone, with stage and reason.

    python -m jobs.segment --cases data/cases --model data/models/fast.safetensors --labelmaps data/labelmaps
    ray job submit --working-dir . -- python -m jobs.segment --cases s3://b/cases \\
        --model models:/bts-fast@champion --labelmaps s3://b/labelmaps
"""

import hashlib
import json
import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from bts import inference, model, tracking, worklist
from bts.cases import Case, from_internal
from bts.errors import CaseError, UsageError
from bts.preprocess import CaseVolume, load_case
from bts.storage import Entry, Store, split_uri
from bts.volume import Grid, write_labelmap
from jobs import common

FORMAT = 1  # raised when a labelmap changes for the same input and model; part of every fingerprint
ROLES = ("t1", "t1ce", "t2", "flair", "image")
ACTOR_THREADS = 4  # of one CPU actor: convolutions on a slice batch gain little from more
IO_CPUS = 0.25  # of a read or write task, which mostly waits for the store


@dataclass
class Settings:
    """Flags of jobs.segment."""

    cases: str
    """Folder or s3://bucket/prefix with the cases; truths are not looked at."""
    model: tuple[str, ...]
    """Model file (path or URI) or models:/NAME@ALIAS of the registry; several are averaged as an ensemble."""
    labelmaps: str
    """Folder or s3://bucket/prefix for the labelmaps."""
    labels: Literal["auto", "brats2021", "brats2023", "brats2024", "msd"] = "auto"
    """Label convention to write; auto is each case's own (brats2023 where its name does not tell)."""
    flips: bool = False
    """Average each prediction with that of its left-right mirror: twice the time, a little more accurate."""
    max_failed: str = "0"
    """Exit with 0 in spite of this many failed cases, or this share of all (5%)."""


class Read:
    """Case → cropped voxels, in the columns that travel to the predicting actor."""

    def __init__(self, cases: Store):
        self.cases = cases

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        case = Case.from_json(row["case"])
        try:
            volume = load_case(case, self.cases, truth=False)
        except CaseError as error:
            return {**row, **_nothing(), "failure": json.dumps(common.failure(case.id, error))}
        columns = {"images": volume.images, "volume": volume.describe()}
        return {**row, **columns, "failure": "", "read_s": time.monotonic() - started}


class Predict:
    """Voxels → labels of the project on the crop. One actor a GPU, or a few CPU threads."""

    def __init__(self, models: list[ray.ObjectRef], threads: int, flips: bool):
        if not torch.cuda.is_available():
            torch.set_num_threads(threads)
        loaded = [model.load_model(data, name) for name, data in ray.get(models[0])]
        self.segmenter = inference.Segmenter(loaded, flips=flips)

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        images = row.pop("images")
        if row["failure"]:
            return {**row, "labelmap": np.zeros((1, 1, 1), np.uint8), "predict_s": 0.0}
        try:
            labelmap = self.segmenter(CaseVolume.described(images, row["volume"]))
        except CaseError as error:
            row["failure"] = json.dumps(common.failure(Case.from_json(row["case"]).id, error, "predict"))
            labelmap = np.zeros((1, 1, 1), np.uint8)
        return {**row, "labelmap": labelmap, "predict_s": time.monotonic() - started}


class Write:
    """Labels → the source's grid and convention, the labelmap, then the marker that makes it count."""

    def __init__(self, output: Store, models: list[dict], labels: str, flips: bool):
        self.output, self.models, self.labels, self.options = output, models, labels, {"flips": flips}
        # Asked here, so that the writing workers need no torch.
        self.versions = {"format": FORMAT, "torch": torch.__version__, "python": platform.python_version()}

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        case = Case.from_json(row["case"])
        if row["failure"]:
            return {"case_id": case.id, "failure": row["failure"]}
        volume = CaseVolume.described(row["labelmap"][None], row["volume"])
        whole = volume.whole(volume.images[0])
        digests = "+".join(m["digest"] for m in self.models)
        convention = output_convention(case, self.labels)
        data = write_labelmap(from_internal(whole, convention), volume.grid, f"bts {digests}")
        # A marker of older voxels must be gone before they are replaced, or a crash would leave it lying.
        for key in row["older"]:
            self.output.delete(key)
        self.output.put(labelmap_key(case.id), data)
        seconds = {"read": row["read_s"], "predict": row["predict_s"], "write": time.monotonic() - started}
        marker = self.marker(case, row["fingerprint"], convention, data, whole, volume.grid, seconds)
        self.output.put(marker_key(case.id, row["fingerprint"]), json.dumps(marker, indent=1).encode())
        return {"case_id": case.id, "failure": ""}

    def marker(
        self,
        case: Case,
        fingerprint: str,
        convention: str,
        data: bytes,
        whole: np.ndarray,
        grid: Grid,
        seconds: dict[str, float],
    ) -> dict:
        """The commit marker: what was made, from what, by what."""
        voxel_ml = float(np.prod(grid.zooms)) / 1000
        counts = np.bincount(whole.reshape(-1), minlength=5)
        return {
            "case_id": case.id,
            "fingerprint": fingerprint,
            "labelmap": {"key": labelmap_key(case.id), "bytes": len(data), "blake2b": _digest(data)},
            "labels": convention,
            "volumes_ml": {
                "WT": round(float(counts[1:4].sum()) * voxel_ml, 3),
                "TC": round(float(counts[1] + counts[3]) * voxel_ml, 3),
                "ET": round(float(counts[3]) * voxel_ml, 3),
            },
            "seconds": {stage: round(s, 3) for stage, s in seconds.items()},
            "inputs": {r: {"key": case.files[r].key, "version": case.files[r].version} for r in _roles(case)},
            "models": self.models,
            "options": self.options,
            "versions": self.versions,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def labelmap_key(case_id: str) -> str:
    return f"{case_id}.nii.gz"


def marker_key(case_id: str, fingerprint: str) -> str:
    return f"_done/{case_id}.{fingerprint}.json"


def output_convention(case: Case, asked: str) -> str:
    """The label convention that a case's labelmap is written in."""
    return asked if asked != "auto" else case.labels or "brats2023"


def read_models(names: Iterable[str]) -> list[tuple[str, bytes]]:
    """(name, bytes) of each model, checked. Raises UsageError naming the one that is no model."""
    found = []
    for name in names:
        if name.startswith("models:/"):
            data = tracking.resolve(name)
        else:
            store, key = split_uri(name)
            try:
                data = store.read(key)
            except OSError as error:
                raise UsageError(f"--model {name}: cannot be read ({error})") from None
        model.load_model(data, name)
        found.append((name, data))
    return found


def main(settings: Settings) -> common.Outcome:
    max_failed = common.check_max_failed(settings.max_failed)
    source, output = Store(settings.cases), Store(settings.labelmaps)
    models = read_models(settings.model)
    digests = [{"name": name, "digest": model.digest(data)} for name, data in models]
    listing = common.list_cases(source, settings.labels)
    work = plan(listing.cases, output, digests, settings)
    for key in work.stale:
        output.delete(key)
    failed = [common.failure(problem.case, problem) for problem in listing.problems]
    written = 0
    for result in run(work.todo, source, Write(output, digests, settings.labels, settings.flips), models):
        if result["failure"]:
            failed.append(json.loads(result["failure"]))
        else:
            written += 1
    counts = {"cases": len(listing.cases) + len(listing.problems), "written": written, "unchanged": work.done}
    details = {"models": digests, "strays": listing.strays[:1000]}
    return common.Outcome(output, counts, failed, details, max_failed)


def plan(cases: list[Case], output: Store, digests: list[dict], settings: Settings) -> worklist.Plan:
    """What is left: a case is done if its marker carries today's fingerprint and its labelmap is there."""
    there = {entry.key for entry in output.list()}
    markers = [Entry(key, 0, "") for key in there if _labelmap_of(key) in there]
    wanted = []
    for case in cases:
        options = {"models": [m["digest"] for m in digests], "flips": settings.flips}
        options["labels"] = output_convention(case, settings.labels)
        wanted.append((case, worklist.case_fingerprint(case, ROLES, options=options, version=FORMAT)))
    return worklist.plan(wanted, markers, ".json")


def run(todo: list, source: Store, write: Write, models: list[tuple[str, bytes]]) -> Iterator[dict]:
    """Stream the cases through the three stages."""
    if not todo:
        common.say("nothing to do: every case has its labelmap")
        return
    common.start_ray()
    rows = [{"case": case.to_json(), "fingerprint": mark, "older": older} for case, mark, older in todo]
    cpus = int(ray.cluster_resources().get("CPU", 1))
    io = {"compute": TaskPoolStrategy(size=min(max(2, cpus // 2), len(rows))), "num_cpus": IO_CPUS}
    actors, threads, resources = pool(cpus, int(ray.cluster_resources().get("GPU", 0)), len(todo))
    predicted = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map(Read(source).__call__, **io)
        .map(
            Predict,
            fn_constructor_args=([ray.put(models)], threads, write.options["flips"]),
            compute=ActorPoolStrategy(size=actors),
            **resources,
        )
    )
    yield from common.stream("segment", len(rows), predicted, write, **io)


def pool(cpus: int, gpus: int, cases: int) -> tuple[int, int, dict[str, float]]:
    """(actors, threads of each, resources of each) of the predicting stage."""
    if gpus:
        return min(gpus, cases), 1, {"num_gpus": 1}
    threads = min(ACTOR_THREADS, cpus)
    # One CPU less than threads is reserved, so that reading and writing always find a place.
    return min(max(1, cpus // threads), cases), threads, {"num_cpus": max(threads - 1, 0.5)}


def _labelmap_of(key: str) -> str:
    """The labelmap that a marker's key vouches for; of other keys, one that is never there."""
    folder, _, name = key.rpartition("/")
    return labelmap_key(name.removesuffix(".json").rpartition(".")[0]) if folder == "_done" else "/"


def _roles(case: Case) -> list[str]:
    return [role for role in ROLES if role in case.files]


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _nothing() -> dict:
    return {"images": np.zeros((1, 1, 1, 1), np.int16), "volume": "", "read_s": 0.0}


if __name__ == "__main__":
    common.run_job("segment", Settings, main)
