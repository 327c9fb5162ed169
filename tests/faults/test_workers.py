"""A case that kills its worker in a stage fails alone there; the others are written, and the run ends."""

import itertools
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from bts.errors import LOST, Failure, RunError
from bts.storage import Store
from jobs import preprocess, segment
from jobs.driver import figshare_index, here, pipeline, predicting, sizes
from jobs.driver.outcome import guarded
from jobs.driver.pipeline import Stage, stream
from jobs.workers import predict, tries
from jobs.workers.predict import Predict
from jobs.workers.read import Read
from jobs.workers.shard import MakeShard
from jobs.workers.write import Write
from tests import builders

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
NAMES = [f"BraTS-SSA-{n:05d}-000" for n in range(4)]
STAGES = {"read": Read, "predict": Predict, "write": Write}
POISON = dict(zip(STAGES, NAMES[1:], strict=False))
"""Stage → the case that kills its worker there."""


def deadly(kind: type, poison: str, deaths: Path) -> type:
    """A stage of this kind that dies of one case, as of an out-of-memory kill or a crash in C. deaths: a file
    that has a byte for each."""

    class Deadly(kind):
        def __call__(self, row: dict) -> dict:
            if row["case_id"] == poison:
                with deaths.open("a") as file:
                    file.write(".")
                os.kill(os.getpid(), 9)
            return super().__call__(row)

    return Deadly


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("cases"))
    for n, name in enumerate(NAMES):
        builders.put_all(Store(folder), builders.case_files(name, seed=n))
    return folder


def check(output: str, suffix: str, poison: dict[str, str], capsys) -> None:
    """All but the poison are written, and its note names the stage and the likely reason."""
    assert sorted(builders.results(Store(output), suffix)) == sorted({*NAMES} - {*poison.values()})
    notes = {note.key.split("/")[1].split(".")[0]: note.key for note in Store(output).list("_failed")}
    assert sorted(notes) == sorted(poison.values())
    said = capsys.readouterr().err
    for stage, case_id in poison.items():
        failure = Failure.from_json(Store(output).read(notes[case_id]))
        assert (failure.stage, failure.kind) == (stage, LOST) and "memory" in failure.message
        assert f"failed at {stage}: case {case_id}" in said and "Traceback" not in said


def test_preprocess_of_a_case_that_kills_its_worker(ray_local, cases, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preprocess, "MakeShard", deadly(MakeShard, NAMES[1], tmp_path / "deaths"))
    settings = preprocess.Settings(cases=cases, shards=str(tmp_path / "shards"), ray="yes")
    assert guarded("preprocess", lambda: preprocess.main(settings)) == 3
    check(str(tmp_path / "shards"), ".parquet", {"read": NAMES[1]}, capsys)
    assert len((tmp_path / "deaths").read_bytes()) == 3 + 2, "tried three times, then alone twice"


def test_cases_that_shared_a_task_with_one_that_kills_its_worker(
    ray_local, cases, tmp_path, monkeypatch, capsys
):
    """As where cases are many: three are lost together, and the two that are sound are done after all."""
    monkeypatch.setattr(tries, "RETRIES", 0)  # a new worker for each
    monkeypatch.setattr(pipeline, "cases_a_block", lambda cases, cores: 3)
    monkeypatch.setattr(preprocess, "MakeShard", deadly(MakeShard, NAMES[1], tmp_path / "deaths"))
    settings = preprocess.Settings(cases=cases, shards=str(tmp_path / "shards"), ray="yes")
    assert guarded("preprocess", lambda: preprocess.main(settings)) == 3
    check(str(tmp_path / "shards"), ".parquet", {"read": NAMES[1]}, capsys)


def test_segment_of_cases_that_kill_their_worker_each_in_another_stage(
    ray_local, cases, model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tries, "RETRIES", 1)  # a new worker for each
    for stage, kind in STAGES.items():
        holder = {Predict: predict, Read: predicting, Write: segment}[kind]
        monkeypatch.setattr(holder, kind.__name__, deadly(kind, POISON[stage], tmp_path / stage))
    settings = segment.Settings(cases=cases, labelmaps=str(tmp_path / "labelmaps"), model=(model,), ray="yes")
    assert guarded("segment", lambda: segment.main(settings)) == 3
    check(str(tmp_path / "labelmaps"), ".nii.gz", POISON, capsys)
    assert len(Store(str(tmp_path / "labelmaps")).list("_done")) == len(NAMES) - len(POISON)


def test_a_case_that_kills_this_process_is_kept_apart_by_the_next_run(
    ray_local, cases, tmp_path, monkeypatch, capsys
):
    """Few cases are done in the command's own process: no other case may wait for a poisoned one for ever."""
    monkeypatch.setattr(preprocess, "MakeShard", deadly(MakeShard, NAMES[1], tmp_path / "deaths"))
    settings = preprocess.Settings(cases=cases, shards=str(tmp_path / "shards"), ray="auto")
    night = multiprocessing.get_context("fork").Process(target=preprocess.main, args=(settings,))
    night.start()
    night.join(60)
    assert night.exitcode == -9
    assert guarded("preprocess", lambda: preprocess.main(settings)) == 3
    check(str(tmp_path / "shards"), ".parquet", {"read": NAMES[1]}, capsys)
    assert not (tmp_path / "shards" / here.BEGUN).exists()


def test_a_figshare_slice_that_kills_its_reader_ends_the_run(ray_local, tmp_path, monkeypatch):
    """The patients of all slices must be known before the first stack is made."""

    class Deadly(figshare_index.IndexSlice):
        def __call__(self, row: dict) -> dict:
            if row["key"] == "2.mat":
                os.kill(os.getpid(), 9)
            return super().__call__(row)

    monkeypatch.setattr(figshare_index, "IndexSlice", Deadly)
    for number in (1, 2, 3):
        Store(str(tmp_path / "cases")).put(f"{number}.mat", b"nobody comes to open it")
    settings = preprocess.Settings(cases=str(tmp_path / "cases"), shards=str(tmp_path / "shards"), ray="yes")
    with pytest.raises(RunError, match="figshare slices killed its worker"):
        preprocess.main(settings)


class Slow:
    """A stage that leaves word of when it was at work."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, row: dict) -> dict:
        began = time.time()
        time.sleep(0.5)
        (self.folder / row["case_id"]).write_text(json.dumps([began, time.time()]))
        return {}


def together(folder: Path) -> int:
    """How many pairs were at work at the same time."""
    spans = [json.loads(path.read_text()) for path in folder.iterdir()]
    return sum(a[0] < b[1] and b[0] < a[1] for a, b in itertools.combinations(spans, 2))


def test_large_cases_do_not_meet_on_a_node(ray_local, tmp_path, monkeypatch):
    """Each of three asks for more than half of the memory, or for more than there is."""
    node = max(one["Resources"]["memory"] for one in ray_local.nodes())
    for name, share in (("large", 0.6), ("too large", 3)):
        size = int(share * node / sizes.MEMORY_A_BYTE)
        monkeypatch.setattr(sizes, "LARGE", size - 1)
        rows = [{"case_id": f"{n}", "bytes": size} for n in range(3)]
        ((some, memory),) = sizes.by_size(rows)
        (tmp_path / name).mkdir()
        stages = [Stage("read", Slow(tmp_path / name).__call__, resources={"num_cpus": 0.5, **memory})]
        assert len(list(stream("read", some, stages))) == 3
        assert together(tmp_path / name) == 0


def test_one_large_case_holds_no_other_back():
    rows = [{"case_id": f"{n}", "bytes": n * sizes.LARGE} for n in (3, 2, 1, 0)]
    (large, asked), (others, nothing) = sizes.by_size(rows)
    assert [row["case_id"] for row in large] == ["3", "2"] and [row["case_id"] for row in others] == [
        "1",
        "0",
    ]
    assert asked == {"memory": 3 * sizes.LARGE * sizes.MEMORY_A_BYTE} and not nothing
    assert [some for some, _ in sizes.by_size(others)] == [others] and not list(sizes.by_size([]))


def test_an_actor_does_as_many_cases_at_a_time_as_its_stage_says(ray_local):
    """A GPU's actor has a second case at hand while its network is at the first."""

    class Meeting:
        def __init__(self):
            self.both = threading.Barrier(2)

        def __call__(self, row: dict) -> dict:
            self.both.wait(timeout=60)
            return {}

    stages = [Stage("predict", Meeting, size=1, resources={"num_cpus": 0.5}, at_once=2)]
    done = list(stream("meet", [{"case_id": name} for name in NAMES], stages))
    assert len(done) == len(NAMES) and not any(row["failure"] for row in done)
