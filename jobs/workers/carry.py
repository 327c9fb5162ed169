"""How Ray carries rows from stage to stage: each pickled, its arrays beside it.

So the cases of a block may differ in columns and in dtypes, and a stage reads arrays where they lie, without
a copy; they are read-only.
"""

import pickle
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from jobs.workers.guard import Guard

BLOCK = pa.schema([("row", pa.large_binary()), ("arrays", pa.list_(pa.large_binary()))])


def pack(rows: Iterable[dict]) -> pa.Table:
    """A block of Ray Data: a row of BLOCK each."""
    pickled: list[bytes] = []
    buffers: list[pickle.PickleBuffer] = []
    ends = [0]
    for row in rows:
        pickled.append(pickle.dumps(row, protocol=5, buffer_callback=buffers.append))
        ends.append(len(buffers))
    raw = [buffer.raw() for buffer in buffers]
    places = np.cumsum([0, *(one.nbytes for one in raw)], dtype=np.int64)
    data = [None, pa.py_buffer(places), pa.py_buffer(b"".join(raw))]  # one copy; pa.array makes several
    arrays = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(raw), data)
    listed = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), arrays)
    return pa.Table.from_arrays([pa.array(pickled, pa.large_binary()), listed], schema=BLOCK)


def unpack(block: pa.Table) -> Iterator[dict]:
    """The rows of `pack`, one after the other."""
    for data, arrays in zip(block["row"], block["arrays"], strict=True):
        yield pickle.loads(data.as_buffer(), buffers=[array.as_buffer() for array in arrays])


class Carry:
    """A stage for blocks: what comes out of its guard, a case at a time."""

    def __init__(self, *made_of):
        """made_of: as Guard takes it."""
        self.guard = Guard(*made_of)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        for row in unpack(block):
            yield pack([self.guard(row)])
