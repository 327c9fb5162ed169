"""How many requests does a case cost a bucket? `python -m benchmarks.requests`: counted at botocore's door.

Starts an S3 server on this machine, and sends a case through the functions that the jobs' tasks call.
"""

import os
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from aiobotocore.client import AioBaseClient

from bts.cases.layouts import find_cases
from bts.cases.worklist import Todo
from bts.inference.finish import Finish
from bts.inference.options import SegmentOptions
from bts.inference.prediction import Prediction
from bts.modalities import MODALITIES
from bts.model.card import ModelCard, Predicts
from bts.phantom.case import write_case
from bts.results.match import match
from bts.storage import Store
from jobs.workers.read import Read
from jobs.workers.score import Score
from jobs.workers.shard import MakeShard
from jobs.workers.write import Write
from tests import servers

CASES = 300  # 1,500 keys, so that pages of a listing are seen


@contextmanager
def served(folder: Path):
    """An S3 server over a folder, and this process's environment for it."""
    port = servers.free_port()
    os.environ |= servers.s3_environment(port)
    server = servers.start_s3(folder, port, "--log-file", os.devnull)
    try:
        servers.is_open(port, server)
        yield
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def counting():
    """Counts the S3 operations of this process by name."""
    counts, original = Counter(), AioBaseClient._make_api_call

    async def counted(self, operation, *arguments):
        counts[operation] += 1
        return await original(self, operation, *arguments)

    AioBaseClient._make_api_call = counted
    try:
        yield counts
    finally:
        AioBaseClient._make_api_call = original


def say(what: str, counts: Counter) -> None:
    print(f"{what:34}{', '.join(f'{n} {name}' for name, n in sorted(counts.items()))}", flush=True)


def nothing() -> Prediction:
    """Of a model that finds no tumour."""
    one = np.zeros((3, 1, 1, 1), np.uint8)
    box = (slice(0, 1),) * 3
    return Prediction(box=box, labels=one[0], members=(), probabilities=one, totals=(0.0,) * 3)


def send(place: str) -> None:
    """The first case of `place`/cases through the three jobs' tasks, which write beside it."""
    names = ("cases", "shards", "labelmaps", "report")
    cases, shards, labelmaps, report = (Store(f"{place}/{name}") for name in names)
    with counting() as counts:
        listing = find_cases(cases.list(), "auto")
    say(f"list {len(listing.cases)} cases, {5 * len(listing.cases)} keys", counts)
    row = Todo(listing.cases[0], "0" * 12).to_row()
    with counting() as counts:
        MakeShard(cases, shards)(row)
    say("preprocess, a case", counts)
    card = ModelCard(name="m", digest="0", modalities=MODALITIES, predicts=Predicts("regions", "sigmoid"))
    models = [{"name": card.name, "digest": card.digest}]
    write = Write(cases, labelmaps, models, Finish((card,), card.predicts), SegmentOptions())
    with counting() as counts:
        read = Read(cases)({**row, "present": []})
        write({**read, "said": nothing(), "predict_s": 0.0})
    say("segment, a case", counts)
    pair = match(listing.cases[:1], labelmaps.list()).pairs[0]
    with counting() as counts:
        Score(cases, labelmaps, report)(pair.to_row())
    say("evaluate, a case", counts)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)):
        bucket = Path(folder, "b")
        first = write_case(0, 0, (48, 48, 32))
        for n in range(CASES):
            for key, data in first.items():
                file = bucket / "cases" / key.replace("00000", f"{n:05d}")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        send("s3://b")


if __name__ == "__main__":
    main()
