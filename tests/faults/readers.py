"""Where a training's slices are read: `python -m tests.faults.readers SHARDS`, on the cluster of RAY_ADDRESS.

A worker that holds a CPU feeds itself, as those of a training do. Prints a line of JSON: [its node, the nodes
that read for it].
"""

import json
import sys
from dataclasses import replace

import pyarrow as pa
import ray

from bts.presets import PRESETS
from bts.shards.catalogue import read_catalogue
from bts.storage import Store
from bts.training.plan import make_plan
from bts.training.rows import read_rows
from jobs.driver.cluster import start_ray
from jobs.workers import train
from jobs.workers.feed import Feed
from jobs.workers.rank import Job

FEEDS = 6  # with two tasks each, that a scheduler would spread over the nodes


def here() -> str:
    return ray.get_runtime_context().get_node_id()


def signed(items: pa.Table, *how) -> pa.Table:
    """`read_rows`, with a column of the node that reads."""
    rows = read_rows(items, *how)
    return rows.append_column("node", pa.array([here()] * len(rows)))


@ray.remote(num_cpus=1)
def work(shards: Store) -> tuple[str, list[str]]:
    train.read_rows = signed
    plan = make_plan(read_catalogue(shards), replace(PRESETS["fast"], size=(32, 32), batch=8), 0)
    job = Job(plan=plan, provenance={}, shards=shards, parts=1)
    tables = [table for _ in range(FEEDS) for table in Feed(job, 0, 1, train.through_ray).tables(0)]
    return here(), sorted({node for table in tables for node in table["node"].to_pylist()})


if __name__ == "__main__":
    start_ray()
    print(json.dumps(ray.get(work.remote(Store(sys.argv[1])))))
