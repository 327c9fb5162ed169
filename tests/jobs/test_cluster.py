"""A Ray that cannot be joined or started is one line, at once."""

import os
import socket
import threading

import pytest
import ray

from bts.errors import RunError
from jobs.driver import cluster


@pytest.fixture
def no_ray(monkeypatch):
    """As where no test has started Ray before."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "ANSWER_S", 0.5)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # put back what start_ray adds


def test_an_address_where_nobody_listens(no_ray, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(RunError, match=r"RAY_ADDRESS=127.*nobody answers.*unset RAY_ADDRESS"):
            cluster.start_ray()


def test_an_address_that_takes_a_call_and_says_nothing(no_ray, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(RunError, match="nobody answers: timed out"):
            cluster.start_ray()


def test_an_address_of_something_else(no_ray, monkeypatch):
    def answer() -> None:
        caller, _ = web.accept()
        caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        caller.close()

    with socket.create_server(("127.0.0.1", 0)) as web:
        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{web.getsockname()[1]}")
        with pytest.raises(RunError, match=r"no Ray|nobody answers"):
            cluster.start_ray()


def test_a_folder_for_temporary_files_with_too_long_a_path(no_ray, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/" + "deep/" * 20)
    with pytest.raises(RunError, match="set RAY_TMPDIR"):
        cluster.start_ray()


def test_a_node_that_does_not_come_up_in_time(no_ray, monkeypatch):
    def busy(**_):
        raise Exception("The current node timed out during startup.\nMore.")  # Ray's own class and words

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", busy)
    with pytest.raises(
        RunError, match=r"did not start: The current node timed out during startup\.; run again"
    ):
        cluster.start_ray()
