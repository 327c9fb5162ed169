"""A bucket that fails, throttles, cuts off, stalls, expires or turns read-only: what the jobs do, then again.

After every fault the same command is run once more, and each result is byte for byte that of a run without
faults.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bts import storage
from bts.storage import Store
from jobs import preprocess, segment
from jobs.driver.here import UseRay
from jobs.driver.outcome import guarded
from tests import builders
from tests.conftest import make_bucket

pytestmark = pytest.mark.slow
NAMES = [f"BraTS-SSA-{n:05d}-000" for n in range(4)]
ONE = "BraTS-SSA-00002-000-t2f.nii.gz"  # FLAIR of the third case


@dataclass(frozen=True)
class Fault:
    """What the store does to some requests, and how a run ends that meets it."""

    kind: str
    method: str = "GET"
    key: str = ""
    times: int = 1
    """0: for ever."""
    after: int = 0
    """Requests that pass before."""
    code: int = 0
    """Exit code of the run: 0 the client's own retries sufficed, 1 the run ended, 3 cases failed."""
    said: str = ""
    """In what the run says."""


READING = {
    "an error once": Fault("500", key=ONE),
    "throttled three times": Fault("503", key=".nii.gz", times=3),
    "an error for ever": Fault("500", key=ONE, times=0, code=3, said="00002"),
    "reset in the middle": Fault("reset", key=ONE),
    "cut off, with the right status": Fault("truncated", key=ONE, times=0, code=3, said="00002"),
    "no answer": Fault("stall", key=ONE),
    "deleted after the listing": Fault("gone", key=ONE, times=0, code=3, said="00002"),
    "one object may not be read": Fault("denied", key=ONE, times=0, code=3, said="00002"),
    "credentials expire half-way": Fault("expired", key=".nii.gz", times=0, after=9, code=3, said="00003"),
    "the listing fails once": Fault("503", key="list-type"),
    "the listing fails": Fault("500", key="list-type", times=0, code=1, said="cannot be listed"),
}
WRITTEN = "cannot be written"
WRITING = {
    "an error once": Fault("500", "PUT"),
    "throttled twice": Fault("503", "PUT", times=2),
    "the answer is lost": Fault("reset", "PUT", key="00002"),
    "read-only half-way": Fault("denied", "PUT", key="SSA", times=0, after=2, code=1, said=WRITTEN),
    "credentials expire": Fault("expired", "PUT", key="SSA", times=0, after=3, code=1, said=WRITTEN),
}


def write_cases(uri: str) -> None:
    for n, name in enumerate(NAMES):
        builders.put_all(Store(uri), builders.case_files(name, seed=n))


def run_preprocess(cases: str, shards: str) -> int:
    settings = preprocess.Settings(cases, shards, ray="no")
    return guarded("preprocess", lambda: preprocess.main(settings))


def run_segment(root: str, model: str, ray: UseRay) -> int:
    settings = segment.Settings(f"{root}/cases", f"{root}/labelmaps", (model,), ray=ray)
    return guarded("segment", lambda: segment.main(settings))


def check_whole(uri: str) -> None:
    """One result a case, and no note of a failure is left."""
    keys = [entry.key for entry in Store(uri).list()]
    assert not [key for key in keys if key.startswith("_failed/")]
    for name in NAMES:
        assert len([key for key in keys if key.startswith(f"{name}.")]) == 1, keys


@pytest.fixture(scope="module")
def stored(s3) -> tuple[str, dict[str, bytes]]:
    """(cases in a bucket that every test reads, their shards by a run without faults)."""
    root = make_bucket(s3).uri
    write_cases(f"{root}/cases")
    assert run_preprocess(f"{root}/cases", f"{root}/shards") == 0
    return f"{root}/cases", builders.results(Store(f"{root}/shards"), ".parquet")


@pytest.mark.parametrize("fault", READING.values(), ids=READING)
def test_reading_through_a_fault_and_again(stored, bucket, faults, capsys, monkeypatch, fault):
    cases, undisturbed = stored
    monkeypatch.setattr(storage, "PATIENCE_S", 3)
    check_fault(lambda: run_preprocess(cases, f"{bucket.uri}/shards"), fault, faults, capsys)
    check_whole(f"{bucket.uri}/shards")
    assert builders.results(Store(f"{bucket.uri}/shards"), ".parquet") == undisturbed
    assert len(undisturbed) == len(NAMES)


@pytest.mark.parametrize("fault", WRITING.values(), ids=WRITING)
def test_writing_through_a_fault_and_again(stored, bucket, faults, capsys, fault):
    cases, undisturbed = stored
    check_fault(lambda: run_preprocess(cases, f"{bucket.uri}/shards"), fault, faults, capsys)
    check_whole(f"{bucket.uri}/shards")
    assert builders.results(Store(f"{bucket.uri}/shards"), ".parquet") == undisturbed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, model) -> dict[str, bytes]:
    """The labelmaps of a run without faults, from a folder."""
    root = str(tmp_path_factory.mktemp("undisturbed"))
    write_cases(f"{root}/cases")
    assert run_segment(root, model, "no") == 0
    return builders.results(Store(f"{root}/labelmaps"), ".nii.gz")


SEGMENTING = {
    f"reading: {name}": READING[name] for name in ("reset in the middle", "deleted after the listing")
}
SEGMENTING |= {f"writing: {name}": WRITING[name] for name in ("throttled twice", "read-only half-way")}


@pytest.mark.parametrize("fault", SEGMENTING.values(), ids=SEGMENTING)
def test_segmenting_through_a_fault_and_again(ray_local, bucket, faults, capsys, model, undisturbed, fault):
    """By Ray through a fault that is seen, here through one that the client gets over; and again."""
    write_cases(f"{bucket.uri}/cases")
    ways: Iterator[UseRay] = iter(("yes" if fault.code else "no", "no"))
    check_fault(lambda: run_segment(bucket.uri, model, next(ways)), fault, faults, capsys)
    assert builders.results(Store(f"{bucket.uri}/labelmaps"), ".nii.gz") == undisturbed
    check_whole(f"{bucket.uri}/labelmaps")
    assert len(Store(f"{bucket.uri}/labelmaps").list("_done")) == len(NAMES)


def check_fault(run, fault: Fault, faults, capsys) -> None:
    """The run ends as it should while the store fails, and well when it no longer does."""
    with faults.inject(
        fault.kind, method=fault.method, key=fault.key, times=fault.times, after=fault.after
    ) as hits:
        assert run() == fault.code
        assert hits() >= 1, "the fault never struck"
    said = capsys.readouterr()
    assert fault.said in said.err and "Traceback" not in said.err
    assert run() == 0


def test_a_scan_replaced_after_the_listing_is_done_again(bucket, monkeypatch):
    """The listing's version names the result: the next run sees another version and redoes the case."""
    write_cases(f"{bucket.uri}/cases")
    store = Store(f"{bucket.uri}/cases")
    plan = preprocess.worklist.plan

    def replaced_meanwhile(*args, **kwargs):
        builders.put_all(store, builders.case_files(NAMES[1], seed=9))
        return plan(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(preprocess.worklist, "plan", replaced_meanwhile)
        assert run_preprocess(f"{bucket.uri}/cases", f"{bucket.uri}/shards") == 0
    settings = preprocess.Settings(f"{bucket.uri}/cases", f"{bucket.uri}/shards")
    assert preprocess.main(settings).counts["written"] == 1
    check_whole(f"{bucket.uri}/shards")
