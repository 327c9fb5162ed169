"""The task of jobs.preprocess: one case → its shard. No torch."""

import json
from collections.abc import Collection

from bts.cases.case import Case
from bts.cases.read import load_case
from bts.inference import quality
from bts.shards.format import write_shard
from bts.shards.holds import retire
from bts.storage import Store


class MakeShard:
    """One case → its shard, written at once; older shards of the case are deleted after, unless a training
    holds them. Raises CaseError, RunError."""

    def __init__(self, cases: Store, output: Store, allow_missing: Collection[str] = ()):
        self.cases, self.output, self.allow_missing = cases, output, allow_missing

    def __call__(self, row: dict) -> dict:
        case = Case.from_json(row["case"])
        volume = load_case(case, self.cases, allow_missing=self.allow_missing)
        self.output.put(f"{case.id}.{row['fingerprint']}.parquet", write_shard(volume, case.versions))
        retire(self.output, row["older"])
        flags = quality.of_noise(volume) + quality.of_place(volume)
        return {"flags": json.dumps(flags)}
