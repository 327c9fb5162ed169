"""One table of ratios: this project beside a peer or a physical limit, measured in turn in the same run."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-bench" / "bin" / "python"
LESS_IS_BETTER = ("s", "ms", "GiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison, several times in turn."""

    what: str
    unit: str
    """What both are measured in; of s, ms and GiB less is better, of all others more."""
    ours: list[float]
    against: str
    theirs: list[float]
    target: float | None = None
    """The least ratio that the project promises."""
    binds: str = ""
    """What a missed target is bound by, and where that is seen."""

    @property
    def ratios(self) -> list[float]:
        """How many times better ours was, pair by pair."""
        pairs = zip(self.ours, self.theirs, strict=True)
        if self.unit.split("/")[0] in LESS_IS_BETTER:
            return [theirs / ours for ours, theirs in pairs]
        return [ours / theirs for ours, theirs in pairs]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def missed(self) -> float:
        """By which share of it the target is missed, 0 where it is met or there is none."""
        return 0.0 if self.target is None else max(0.0, 1 - self.ratio / self.target)

    def line(self) -> str:
        ours, theirs = (statistics.median(values) for values in (self.ours, self.theirs))
        spread = f"{min(self.ratios):.2f}–{max(self.ratios):.2f}"
        verdict = "" if self.target is None else f"NO, by {self.missed:.0%}" if self.missed else "yes"
        target = "" if self.target is None else f"{self.target:g}"
        return (
            f"{self.what:34}{ours:10.3f} {self.unit:10}{self.against:28}{theirs:10.3f}"
            f"{self.ratio:9.2f}  {spread:14}{target:>7} {verdict}"
        )


HEADER = (
    f"{'what':34}{'ours':>10} {'unit':10}{'against':28}{'theirs':>10}{'ratio':>9}  {'spread':14}"
    f"{'target':>7} holds"
)


def in_turn(runs: int, *works: Callable[[], float]) -> list[list[float]]:
    """Each measured `runs` times, one after the other, so that a drift of the machine meets all alike."""
    rounds = [[work() for work in works] for _ in range(runs)]
    return [list(figures) for figures in zip(*rounds, strict=True)]


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def call(command: list[str], **environment: str) -> dict:
    """Run a command from the project's root; the JSON of its last line. Its errors go to the terminal."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def python(*arguments: str, cores: str = "", **environment: str) -> dict:
    """`call` this project's Python, on these cores alone (0 or 0,1)."""
    pinned = ["taskset", "-c", cores] if cores else []
    return call([*pinned, sys.executable, *arguments], **environment)


def peer(script: str, *arguments: str, cores: str = "", **environment: str) -> dict:
    """`call` a script of benchmarks/peers in the peers' own environment."""
    if not PEERS.exists():
        raise SystemExit("no .venv-bench: run `make bench`, which builds it from benchmarks/requirements.txt")
    pinned = ["taskset", "-c", cores] if cores else []
    return call([*pinned, str(PEERS), str(ROOT / "benchmarks" / "peers" / script), *arguments], **environment)


def save(rows: list[Row], path: Path) -> None:
    """The rows with every single figure, as JSON."""
    found = [{**asdict(row), "ratio": row.ratio, "ratios": row.ratios} for row in rows]
    path.write_text(json.dumps({**machine(), "rows": found}, indent=1) + "\n")


def machine() -> dict:
    """Its cores, its processor and those of the processor's flags that speed depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    said = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    said = {name.strip(): text.strip() for name, text in said.items()}
    flags = [flag for flag in said.get("flags", "").split() if flag.startswith(("avx", "amx", "fma"))]
    return {"cores": os.cpu_count(), "processor": said.get("model name", "?"), "flags": flags}
