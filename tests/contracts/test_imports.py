"""What is imported when: no Ray in bts, no torch in workers that read or write, nothing heavy for --help."""

import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

WITHOUT_RAY = """
import importlib, pkgutil, sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray":
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, NoRay())
import bts
names = [m.name for m in pkgutil.walk_packages(bts.__path__, "bts.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

# The commands one after the other: what the first loads, the next would be blamed for, too.
HELP = """
import contextlib, io, runpy, sys
import numpy
HEAVY = {"torch", "ray", "mlflow", "pandas", "matplotlib"}
for command in sys.argv[1:]:
    name, *words = command.split()
    sys.argv[1:] = [*words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            runpy.run_module(f"jobs.{name}", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code
    print(f"{command}: exit {code}, usage {'usage' in said.getvalue()}, {sorted(HEAVY & set(sys.modules))}")
"""


@pytest.mark.slow
def test_bts_loads_without_ray():
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(list((ROOT / "bts").rglob("*.py"))) - 1


@pytest.mark.slow
def test_workers_that_read_write_score_or_draw_load_no_torch():
    workers = (f"jobs.workers.{name}" for name in ("shard", "read", "write", "score", "draw"))
    modules = ", ".join(["bts.training.rows", *workers])
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("bts.model.nets", ("scipy", "PIL", "matplotlib")),
        ("bts.training.loop", ("matplotlib", "jinja2")),
        ("bts.results.marker", ("matplotlib", "torch", "scipy.ndimage")),
        ("jobs.segment", ("ray", "torch", "scipy.ndimage", "matplotlib", "mlflow", "pydicom", "h5py")),
        ("jobs.evaluate", ("ray", "torch", "scipy.stats", "matplotlib", "mlflow", "pydicom", "h5py")),
    ],
)
def test_what_a_module_does_without(module, without):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(without) & set(done.stdout.split())


LOAD = """
import sys
from bts.model.file import load_model
from tests import builders

load_model(builders.tiny_model(), "tiny")
print(*sys.modules)
"""


@pytest.mark.slow
def test_a_model_is_loaded_without_pytorchs_compiler():
    """It takes longer to import than PyTorch itself; a network of shapes alone would have it imported."""
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch._dynamo", "sympy"} & set(done.stdout.split())


@pytest.mark.slow
def test_help_waits_for_no_heavy_library():
    commands = [
        *("segment", "evaluate", "preprocess", "export", "status", "deliver", "view", "phantom"),
        *("train fast", "tune fast", "adopt", "promote", "demo", "intake"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *commands], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{command}: exit 0, usage True, []" for command in commands]


FREED = """
import resource, jobs

def pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

image = bytes([1]) * (18 << 20)
del image
before = pages()
for _ in range(10):
    bytes([1]) * (18 << 20)
print(pages() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc keeps memory in ways of its own")
def test_a_job_uses_memory_that_it_freed_again():
    """Ten images after a first one take no page from the system; each has 4,608."""
    done = subprocess.run([sys.executable, "-c", FREED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000


def test_import_bts_waits_for_nothing():
    code = "import sys, bts; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "mlflow", "pandas", "scipy", "numpy"} & set(done.stdout.split())
