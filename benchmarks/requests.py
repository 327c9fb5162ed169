"""How many requests does a case cost a bucket? `python -m benchmarks.requests`: counted at botocore's door.

Starts an S3 server on this machine, and sends a case through the functions that the jobs' tasks call.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from aiobotocore.client import AioBaseClient

from bts import phantom
from bts.cases import find_cases
from bts.pairs import match, read_pair
from bts.storage import Store
from bts.worklist import Todo
from jobs.preprocess import MakeShard
from jobs.segment_stages import Read, Write

CASES = 300  # three thousand keys and more, so that pages of a listing are seen


@contextmanager
def s3_server(folder: Path):
    """rclone's S3 server over a folder, and the standard AWS environment for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "bench-key",
        "AWS_SECRET_ACCESS_KEY": "bench-secret",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    rclone = str(Path(sys.executable).parent / "rclone")
    command = [rclone, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--config", os.devnull]
    server = subprocess.Popen([*command, "--auth-key", "bench-key,bench-secret"], stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)
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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)):
        bucket = Path(folder, "b")
        first = phantom.write_case(0, 0, (48, 48, 32))
        for n in range(CASES):
            for key, data in first.items():
                file = bucket / "cases" / key.replace("00000", f"{n:05d}")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        cases, shards, labelmaps = (Store(f"s3://b/{name}") for name in ("cases", "shards", "labelmaps"))
        with counting() as counts:
            listing = find_cases(cases.list(), "auto")
        say(f"list {CASES} cases, {5 * CASES} keys", counts)
        row = Todo(listing.cases[0], "0" * 12).to_row()
        with counting() as counts:
            MakeShard(cases, shards)(row)
        say("preprocess, a case", counts)
        write = Write(
            labelmaps, [{"name": "m", "digest": "0"}], "regions", labels="auto", flips=False, hold=False
        )
        with counting() as counts:
            read = Read(cases)({**row, "present": []})
            images = read.pop("images")
            labels = {"labelmap": np.zeros(images.shape[1:], np.uint8), "flags": "[]", "predict_s": 0.0}
            write({**read, **labels})
        say("segment, a case", counts)
        found = match(listing.cases[:1], labelmaps.list())
        with counting() as counts:
            read_pair(found.pairs[0], cases, labelmaps)
        say("evaluate, a case", counts)


if __name__ == "__main__":
    main()
