"""A headless Chromium for tests, driven over its debugging pipe (the DevTools protocol)."""

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--force-device-scale-factor=1", "--window-size=1200,720"),
)


class Browser:
    """One page; a context manager. Skips the test where no Chromium is found."""

    def __init__(self, folder: Path):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip(f"no browser on this machine: none of {', '.join(NAMES)}")
        self.errors: list[str] = []
        """What the console has shown as an error, and what no code has caught."""
        self.requests: list[str] = []
        """Every address that was asked for."""
        self._count, self._rest, self._session = 0, b"", None
        inward, self._write = os.pipe()
        self._read, outward = os.pipe()
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (inward, outward)]

        def connect() -> None:  # Chromium reads from 3 and writes to 4
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        command = [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._job = subprocess.Popen(command, preexec_fn=connect, close_fds=False, **quiet)
        for fd in (inward, outward, *ends):
            os.close(fd)
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self._job.terminate()
        self._job.wait(20)
        os.close(self._read)
        os.close(self._write)

    def __call__(self, method: str, seconds: float = 60, **params) -> dict:
        """The result of one command of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + seconds
        while answer := self._next(end - time.monotonic()):
            if answer.get("id") == self._count:
                assert "result" in answer, answer
                return answer["result"]
        pytest.fail(f"the browser did not answer {method} within {seconds:g} s")

    def open(self, url: str) -> None:
        self("Page.navigate", url=url)

    def run(self, script: str) -> object:
        """The value of a JavaScript expression."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                pytest.fail(f"not true within {seconds:g} s: {script}; the console says {self.errors}")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key)

    def screenshot(self) -> np.ndarray:
        """The page as it looks, (rows, columns, RGB) int."""
        png = base64.b64decode(self("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def _next(self, seconds: float) -> dict | None:
        """The next message, noted if it is an event; None after the time is up."""
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], max(seconds, 0))[0]:
                return None
            found = os.read(self._read, 1 << 20)
            assert found, "the browser has ended"
            self._rest += found
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
