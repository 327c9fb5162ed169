"""The whole chain on synthetic cases: phantoms → shards → a trained U-Net → labelmaps → scores and a report.

Draws 16 full-size phantom cases, trains on 12, segments and scores the 4 that the model never saw. Run again,
it does only what is missing.

    python -m jobs.demo --bucket demo-bucket
    ray job submit --working-dir . -- python -m jobs.demo --bucket s3://b/demo
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bts.presets import PRESETS
from jobs import evaluate, phantom, preprocess, segment, train
from jobs.driver.outcome import DONE, WRONG_USAGE, Outcome, guarded, parse
from jobs.driver.progress import say

TRAINING, UNSEEN = 12, 4  # cases


@dataclass
class Settings:
    """Flags of jobs.demo."""

    bucket: str = "demo-bucket"
    """Folder or s3://bucket/prefix for everything that the demo makes: about 250 MB."""
    minutes: float = 2.5
    """Wall-clock minutes of training."""
    size: tuple[int, int, int] = phantom.SIZE
    """Voxels of a case in x, y, z."""


def main(settings: Settings) -> int:
    """Run the jobs one after another, each as its own command would; the first exit code that is not 0."""
    if not 0 < settings.minutes < math.inf:
        say(f"jobs.demo: --minutes {settings.minutes:g}: give more than 0")
        return WRONG_USAGE
    if not (place := settings.bucket.rstrip("/")):
        say("jobs.demo: --bucket: give a folder, or s3://bucket/prefix")
        return WRONG_USAGE
    started = time.monotonic()
    for name, work in steps(settings, place):
        say(f"\n== jobs.{name}")
        if code := guarded(name, work):
            return code
    print(next_steps(place))
    line = {"job": "demo", "failed": 0, "seconds": round(time.monotonic() - started, 2)}
    print(json.dumps({**line, "page": f"{place}/reports/demo/index.html"}), flush=True)
    return DONE


def steps(settings: Settings, place: str) -> list[tuple[str, Callable[[], Outcome]]]:
    """(name, work) of each job, in order."""
    cases, unseen, labelmaps = f"{place}/cases", f"{place}/unseen", f"{place}/labelmaps"
    preset = replace(PRESETS["fast"], budget=replace(PRESETS["fast"].budget, minutes=settings.minutes))
    draw = phantom.Settings(cases=cases, count=TRAINING, size=settings.size)
    training = train.Settings(shards=f"{place}/shards", models=f"{place}/models", preset=preset)
    model = (f"{place}/models/fast.safetensors",)
    return [
        ("phantom", lambda: phantom.main(draw)),
        ("phantom", lambda: phantom.main(replace(draw, cases=unseen, count=UNSEEN, start=TRAINING))),
        ("preprocess", lambda: preprocess.main(preprocess.Settings(cases=cases, shards=f"{place}/shards"))),
        ("train", lambda: train.main(training, "fast")),
        ("segment", lambda: segment.main(segment.Settings(cases=unseen, model=model, labelmaps=labelmaps))),
        ("evaluate", lambda: evaluate.main(evaluate.Settings(labelmaps, unseen, f"{place}/reports/demo"))),
    ]


def next_steps(place: str) -> str:
    """What to look at, and the commands for cases of one's own."""
    return f"""
The report is {place}/reports/demo/index.html; open it in a browser. In three planes:
  python -m jobs.view --cases {place}/unseen --labelmaps {place}/labelmaps --report {place}/reports/demo
The model is {place}/models/fast.safetensors. It has seen phantoms only: train one on your own cases.

With a folder of BraTS cases (any year, any nesting; a bucket as s3://bucket/prefix works alike):
  python -m jobs.preprocess --cases CASES --shards OUT/shards
  python -m jobs.train fast --shards OUT/shards --models OUT/models --budget.minutes 30
  python -m jobs.segment    --cases TEST --model OUT/models/fast.safetensors --labelmaps OUT/labelmaps
  python -m jobs.evaluate   --labelmaps OUT/labelmaps --cases TEST --report OUT/reports/first
(with .venv/bin/python in place of python, or after: source .venv/bin/activate)"""


if __name__ == "__main__":
    sys.exit(main(parse("demo", Settings, main)))
