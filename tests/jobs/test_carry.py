"""Rows of a block come back as they were, whatever the others are like, and go through a stage one by one."""

import numpy as np
import pyarrow as pa
import pytest

from bts.errors import CaseError, Failure
from jobs.driver.pipeline import BLOCKS_A_CORE, CORES, MOST_A_BLOCK, cases_a_block
from jobs.workers.carry import Carry, pack, unpack

ROWS = [
    {"case_id": "a", "images": np.arange(24, dtype=np.int16).reshape(2, 3, 4), "flags": "[]"},
    {"case_id": "b", "failure": "{}"},
    {"case_id": "c", "images": np.array([[1.5, -0.0]], np.float32), "other": np.zeros((0, 3), np.uint8)},
    {"case_id": "d", "images": np.arange(6).reshape(2, 3)[:, 1], "older": ["x", "y"], "none": None},
]


def same(found: dict, row: dict) -> bool:
    assert found.keys() == row.keys()
    arrays = [name for name in row if isinstance(row[name], np.ndarray)]
    assert all(found[name].dtype == row[name].dtype for name in arrays)
    return all(np.array_equal(found[name], row[name]) for name in row)


def test_rows_of_other_columns_and_dtypes_share_a_block():
    block = pa.concat_tables([pack(ROWS[:1]), pack(ROWS[1:])]).combine_chunks()
    assert all(map(same, unpack(block), ROWS)) and all(map(same, unpack(block.slice(2)), ROWS[2:]))
    assert len(block) == len(ROWS) and list(unpack(pack([]))) == []


def test_an_array_is_read_where_it_lies():
    (row,) = unpack(pack(ROWS[:1]))
    assert not row["images"].flags.owndata and not row["images"].flags.writeable


def test_a_bad_case_fails_alone_in_its_block_and_the_others_do_not_wait_for_it():
    def task(row: dict) -> dict:
        done.append(row["case_id"])
        if row["case_id"] == "b":
            raise CaseError("odd", mend="fix it")
        return {"made": row["case_id"]}

    done = []
    through = Carry("read", task)(pack([{"case_id": name} for name in "abc"]))
    first = next(unpack(next(through)))
    assert first["made"] == "a" and done == ["a"]
    second, third = (row for block in through for row in unpack(block))
    assert Failure.from_json(second["failure"]).case_id == "b" and third["made"] == "c"


@pytest.mark.parametrize("cores", [2, CORES, 1000])
def test_few_cases_have_a_task_each_and_many_share_one(cores):
    assert {cases_a_block(cases, cores) for cases in range(BLOCKS_A_CORE * max(CORES, cores))} == {1}
    assert cases_a_block(10_000_000, cores) == MOST_A_BLOCK
    for cases in (5_000, 20_000, 100_000):
        size = cases_a_block(cases, cores)
        assert size == 1 or cases / size >= BLOCKS_A_CORE * cores
