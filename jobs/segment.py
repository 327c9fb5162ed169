"""Cases in a bucket → one labelmap a case on the source's own grid, by one model or an ensemble.

Three streaming stages: read and crop (CPU tasks), predict (GPU or CPU actors), restore, write and commit (CPU
tasks). Only what is new or changed is done; a case with bad data fails alone, with stage and reason.

    python -m jobs.segment --cases data/cases --model data/models/fast.safetensors --labelmaps data/labelmaps
    ray job submit --working-dir . -- python -m jobs.segment --cases s3://b/cases \\
        --model models:/bts-fast@champion --labelmaps s3://b/labelmaps
"""

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

from bts import inference, labelmaps, model, tracking, worklist
from bts.cases import OF_FIGSHARE, Case
from bts.errors import CaseError, UsageError
from bts.preprocess import CaseVolume, load_case
from bts.storage import Entry, Store, split_uri
from jobs import common
from jobs.figshare_index import index_figshare, set_unfit_aside

FORMAT = 1  # raised when a labelmap changes for the same input and model; part of every fingerprint
ACTOR_THREADS = 4  # of one CPU actor: convolutions on a slice batch gain little from more
IO_CPUS = 0.25  # of a read or write task, which mostly waits for the store


@dataclass
class Settings:
    """Flags of jobs.segment."""

    cases: str
    """Folder or s3://bucket/prefix with the cases; truths are not looked at. A model for figshare segments
    figshare's slices there, any other model the other cases."""
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

    def __init__(self, models: ray.ObjectRef, threads: int, flips: bool):
        if not torch.cuda.is_available():
            torch.set_num_threads(threads)
        loaded = [model.load_model(data, name) for name, data in ray.get(models)]
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

    def __init__(self, output: Store, models: list[dict], targets: str, settings: Settings):
        self.output, self.models, self.targets, self.labels = output, models, targets, settings.labels
        self.options = {"flips": settings.flips}
        # Asked here, so that the writing workers need no torch.
        self.versions = {"format": FORMAT, "torch": torch.__version__, "python": platform.python_version()}

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        case = Case.from_json(row["case"])
        if row["failure"]:
            return {"case_id": case.id, "failure": row["failure"]}
        volume = CaseVolume.described(row["labelmap"][None], row["volume"])
        whole = volume.whole(volume.images[0])
        convention = labelmaps.convention_of(case, self.labels, self.targets)
        digests = "+".join(m["digest"] for m in self.models)
        files = labelmaps.encode(case, whole, volume.grid, convention, f"bts {digests}")
        # A marker of older voxels must be gone before they are replaced, or a crash would leave it lying.
        for key in row["older"]:
            self.output.delete(key)
        self.put(case, files)
        marker = labelmaps.describe(case, whole, volume.grid, convention, next(iter(files.values())))
        seconds = {"read": row["read_s"], "predict": row["predict_s"], "write": time.monotonic() - started}
        marker |= {
            "fingerprint": row["fingerprint"],
            "seconds": {stage: round(s, 3) for stage, s in seconds.items()},
            "models": self.models,
            "options": self.options,
            "versions": self.versions,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        key = labelmaps.marker_key(case.id, row["fingerprint"])
        self.output.put(key, json.dumps(marker, indent=1).encode())
        return {"case_id": case.id, "failure": ""}

    def put(self, case: Case, files: dict[str, bytes]) -> None:
        """Write them all; masks of slices that the case no longer has go."""
        for key, data in files.items():
            self.output.put(key, data)
        if case.dataset == "figshare":
            folder = labelmaps.mask_folder(case.id)
            for entry in self.output.list(folder.rstrip("/")):
                if entry.key.startswith(folder) and entry.key not in files:
                    self.output.delete(entry.key)


def read_models(names: Iterable[str]) -> tuple[list[tuple[str, bytes]], str]:
    """((name, bytes) of each model, checked; what they all predict: Preset.targets).

    Raises UsageError naming the one that is no model, or those that differ.
    """
    found, targets = [], {}
    for name in names:
        if name.startswith("models:/"):
            data = tracking.resolve(name)
        else:
            store, key = split_uri(name)
            try:
                data = store.read(key)
            except OSError as error:
                raise UsageError(f"--model {name}: cannot be read ({error})") from None
        targets[name] = model.load_model(data, name).preset.targets
        found.append((name, data))
    if len(set(targets.values())) > 1:
        said = ", ".join(f"{name} predicts {kind}" for name, kind in targets.items())
        raise UsageError(f"--model: {said}; an ensemble needs models of equal targets")
    return found, next(iter(targets.values()))


def main(settings: Settings) -> common.Outcome:
    max_failed = common.check_max_failed(settings.max_failed)
    source, output = Store(settings.cases), Store(settings.labelmaps)
    models, targets = read_models(settings.model)
    digests = [{"name": name, "digest": model.digest(data)} for name, data in models]
    listing = common.list_cases(source, settings.labels)
    who = f"--model {' '.join(settings.model)} (targets {targets})"
    unfit = set_unfit_aside(listing, targets in OF_FIGSHARE, source, who)
    failed = index_figshare(listing, source, output)
    failed += [common.failure(problem.case, problem) for problem in listing.problems]
    cases = len(listing.cases) + len(failed)
    work = plan(listing.cases, output, digests, targets, settings)
    for key in work.stale:
        output.delete(key)
    written = 0
    for result in run(work.todo, source, Write(output, digests, targets, settings), models):
        if result["failure"]:
            failed.append(json.loads(result["failure"]))
        else:
            written += 1
    counts = {"cases": cases, "written": written, "unchanged": work.done, "unfit": len(unfit)}
    details = {"models": digests, "unfit_cases": unfit[:1000], "strays": listing.strays[:1000]}
    return common.Outcome(output, counts, failed, details, max_failed)


def plan(
    cases: list[Case], output: Store, digests: list[dict], targets: str, settings: Settings
) -> worklist.Plan:
    """What is left: a case is done if its marker carries today's fingerprint and its files are there."""
    there = {entry.key for entry in output.list()}
    wanted, void = [], set()
    for case in cases:
        options = {"models": [m["digest"] for m in digests], "flips": settings.flips}
        options["labels"] = labelmaps.convention_of(case, settings.labels, targets)
        roles = labelmaps.inputs_of(case)
        mark = worklist.case_fingerprint(case, roles, options=options, version=FORMAT)
        wanted.append((case, mark))
        if not there.issuperset(labelmaps.result_keys(case)):
            void.add(labelmaps.marker_key(case.id, mark))
    markers = [Entry(key, 0, "") for key in sorted(there - void) if key.startswith("_done/")]
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
            fn_constructor_args=(ray.put(models), threads, write.options["flips"]),
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


def _nothing() -> dict:
    return {"images": np.zeros((1, 1, 1, 1), np.int16), "volume": "", "read_s": 0.0}


if __name__ == "__main__":
    common.run_job("segment", Settings, main)
