import pytest

from jobs.segment import pool


@pytest.mark.parametrize(
    ("cpus", "gpus", "cases", "actors", "threads", "reserved"),
    [
        ([2], 0, 100, 1, 2, 1),
        ([16], 0, 100, 4, 4, 3),
        ([16], 0, 3, 3, 4, 3),
        ([1, 1, 1], 0, 100, 3, 1, 0.5),  # three small nodes: no actor asks for more than one of them has
        ([0, 8, 8], 0, 100, 4, 4, 3),  # a head that computes nothing
        ([0], 0, 100, 1, 1, 0.5),  # an autoscaler that has no worker yet
    ],
)
def test_actors_fit_their_nodes(cpus, gpus, cases, actors, threads, reserved):
    assert pool(cpus, gpus, cases) == (actors, threads, {"num_cpus": reserved})


def test_one_actor_a_gpu():
    assert pool([16, 16], 2, 100) == (2, 1, {"num_gpus": 1})
