"""How many cores and how much memory a process has, in a container or not."""

import pytest

from jobs.driver import machine

GIB = 1 << 30


def test_without_bounds_all_of_the_machine_is_there(tmp_path):
    all_cores, all_memory = machine.cores(tmp_path), machine.memory(tmp_path)
    assert all_cores >= 1 and all_memory > GIB
    for name, said in {"cpu.max": "max 100000", "memory.max": "max"}.items():
        (tmp_path / name).write_text(f"{said}\n")
    for name, said in {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000}.items():
        (tmp_path / "cpu").mkdir(exist_ok=True)
        (tmp_path / "cpu" / name).write_text(f"{said}\n")
    assert (machine.cores(tmp_path), machine.memory(tmp_path)) == (all_cores, all_memory)


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "50000 100000", "memory.max": GIB},
        {
            "cpu/cpu.cfs_quota_us": 100000,
            "cpu/cpu.cfs_period_us": 100000,
            "memory/memory.limit_in_bytes": GIB,
        },
    ],
)
def test_a_container_has_less(tmp_path, files):
    for name, said in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{said}\n")
    assert (machine.cores(tmp_path), machine.memory(tmp_path)) == (1, GIB)
