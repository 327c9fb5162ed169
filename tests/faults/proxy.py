"""A proxy before the tests' S3 server that does what bad stores do, on request.

It runs as a process of its own (`python -m tests.faults.proxy PORT UPSTREAM_PORT`), since Ray's workers reach
the store too; `Faults` talks to it. Without faults it passes everything on as it is.
"""

import contextlib
import http.client
import json
import socket
import struct
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTROL = "/__faults__"
# kind → (status, S3's error code); other kinds spoil an answer that came from the server.
REFUSALS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "gone": (404, "NoSuchKey"),
}
KINDS = (*REFUSALS, "reset", "truncated", "stall", "held")
STALL_S = 30  # a stall outlasts the client's patience
HELD_S = 15  # at most, or until the fault is lifted; within the client's patience


class Faults:
    """The proxy as tests steer it."""

    def __init__(self, port: int):
        self.port = port

    @contextlib.contextmanager
    def inject(
        self, kind: str, *, method: str = "GET", key: str = "", times: int = 1, after: int = 0
    ) -> Iterator:
        """Spoil the first `times` requests (0: all) of that method on objects whose key holds `key`, once
        `after` of them have passed. Yields a function that tells how many were spoilt.
        """
        assert kind in KINDS
        rule = {"kind": kind, "method": method, "key": key, "times": times, "after": after}
        self._ask("PUT", json.dumps(rule))
        try:
            yield lambda: json.loads(self._ask("GET"))["spoilt"]
        finally:
            self._ask("DELETE")

    def _ask(self, method: str, body: str = "") -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, CONTROL, body)
        return connection.getresponse().read().decode()


class Rule:
    """The fault in force, and how often it has struck."""

    def __init__(self):
        self.lock, self.rule, self.seen, self.spoilt = threading.Lock(), None, 0, 0
        self.lifted = threading.Event()

    def set(self, rule: dict | None) -> None:
        with self.lock:
            self.rule, self.seen, self.spoilt = rule, 0, 0
            if rule:
                self.lifted.clear()
            else:
                self.lifted.set()

    def strikes(self, method: str, path: str) -> str:
        """The kind of fault that this request meets, or nothing."""
        with self.lock:
            rule = self.rule
            if not rule or method != rule["method"] or rule["key"] not in urllib.parse.unquote(path):
                return ""
            self.seen += 1
            if self.seen <= rule["after"] or (rule["times"] and self.spoilt >= rule["times"]):
                return ""
            self.spoilt += 1
            return rule["kind"]


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    rule, upstream_port = Rule(), 0

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == CONTROL:
            return self.control(body)
        kind = self.rule.strikes(self.command, self.path)
        if kind in REFUSALS:
            status, code = REFUSALS[kind]
            error = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
            return self.reply(status, {"Content-Type": "application/xml"}, error.encode())
        if kind == "stall":
            time.sleep(STALL_S)
            return self.hang_up()
        if kind == "held":
            self.rule.lifted.wait(HELD_S)
        status, headers, data = self.forward(body)
        if kind == "truncated":
            return self.reply(status, headers, data[: len(data) // 2])
        if kind == "reset":
            self.reply(status, headers, data, sent=len(data) // 2)
            return self.hang_up()
        return self.reply(status, headers, data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def control(self, body: bytes) -> None:
        if self.command != "GET":
            self.rule.set(json.loads(body) if self.command == "PUT" else None)
        self.reply(200, {}, json.dumps({"spoilt": self.rule.spoilt}).encode())

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the server answers; the signed headers go as they came, the host's name too."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream_port, timeout=120)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):
                upstream.putheader(name, value)
        upstream.endheaders(body or None)
        response = upstream.getresponse()
        data = response.read()
        headers = {name: value for name, value in response.getheaders() if name.lower() not in HOP}
        upstream.close()
        return response.status, headers, data

    def reply(self, status: int, headers: dict[str, str], data: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if not (name.lower() == "content-length" and self.command != "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sent])

    def hang_up(self) -> None:
        """Reset the connection, so that the client cannot take it for the end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_) -> None:
        """Nobody reads it."""


HOP = {"connection", "transfer-encoding", "keep-alive"}


def main() -> None:
    port, Handler.upstream_port = map(int, sys.argv[1:])
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.serve_forever()


if __name__ == "__main__":
    main()
