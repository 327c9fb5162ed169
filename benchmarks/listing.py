"""What the listing of a large bucket costs: `python -m benchmarks.listing [--cases 100000] [--latency 0]`.

A server of this machine answers ListObjectsV2 as S3 does, of cases with the names of BraTS, five files each,
and knows nothing else. Prints seconds, and seconds of CPU of the process that lists and sorts.
"""

import argparse
import bisect
import multiprocessing
import os
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from bts.cases.said import list_folder
from bts.storage import Store
from tests import servers

PAGE = 1000  # keys
MODALITIES = ("seg", "t1c", "t1n", "t2f", "t2w")
OBJECT = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified><ETag>&quot;{tag:032x}&quot;"
    "</ETag><Size>1800000</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
ANSWER = (
    '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<KeyCount>{count}</KeyCount><IsTruncated>{more}</IsTruncated>{next}{objects}</ListBucketResult>"
)


def serve(port: int, cases: int, latency: float) -> None:
    """Answer for ever. latency: seconds, of each answer."""
    names = (f"BraTS-GLI-{n:06d}-000" for n in range(cases))
    keys = [f"cases/{name}/{name}-{modality}.nii.gz" for name in names for modality in MODALITIES]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            start = bisect.bisect_right(keys, asked.get("continuation-token", [""])[0])
            page = keys[start : start + PAGE]
            more = start + PAGE < len(keys)
            token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
            objects = "".join(OBJECT.format(key=key, tag=start + n) for n, key in enumerate(page))
            answer = ANSWER.format(
                count=len(page), more=str(more).lower(), next=token, objects=objects
            ).encode()
            time.sleep(latency)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_) -> None:
            """Say nothing."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds of each answer")
    asked, port = parser.parse_args(), servers.free_port()
    os.environ |= servers.s3_environment(port)
    server = multiprocessing.Process(target=serve, args=(port, asked.cases, asked.latency), daemon=True)
    server.start()
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)
        started, computed = time.perf_counter(), time.process_time()
        found = len(list_folder(Store("s3://bucket/cases")).cases)
        took, computed = time.perf_counter() - started, time.process_time() - computed
        assert found == asked.cases, found
        print(
            f"{found} cases, {5 * found} keys: {took:.1f} s, of which this process computed {computed:.1f} s"
        )
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
