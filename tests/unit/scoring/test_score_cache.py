"""bts.scoring.score_cache: what one run scored the next one knows; what is outdated or spoilt goes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bts.scoring import score_cache
from bts.scoring.score_cache import ScoreCache
from bts.storage import Store

SCORES = {"WT": {"dice": 0.5}}


@pytest.fixture
def output(tmp_path) -> Store:
    return Store(str(tmp_path))


def pieces(output: Store) -> list[str]:
    return [entry.key for entry in output.list("_scores")]


def test_what_is_added_is_known_to_the_next_run(output):
    cache = ScoreCache(output)
    assert cache.get("f1") is None
    cache.add("a", "f1", SCORES, {"maker": "0123456789ab"})
    cache.close()
    again = ScoreCache(output)
    assert again.get("f1") == SCORES and again.get("f2") is None and again.cases == {"a"}
    assert again.about("f1") == {"maker": "0123456789ab"}
    again.close()
    assert len(pieces(output)) == 1


def test_a_run_that_is_cut_off_loses_less_than_a_piece(output, monkeypatch):
    monkeypatch.setattr(score_cache, "PIECE", 10)
    cut_off = ScoreCache(output)
    for n in range(25):
        cut_off.add(f"c{n}", f"f{n}", SCORES, {})
    assert len(pieces(output)) == 2
    again = ScoreCache(output)
    assert sum(again.get(f"f{n}") is not None for n in range(25)) == 20
    again.close()
    assert len(pieces(output)) == 1


def test_outdated_scores_go(output):
    cache = ScoreCache(output)
    cache.add("a", "f1", SCORES, {})
    cache.add("b", "f2", SCORES, {})
    cache.close()
    changed = ScoreCache(output)
    changed.get("f2")
    changed.get("f3")
    changed.add("a", "f3", {"WT": {"dice": 1.0}}, {})
    changed.close()
    last = ScoreCache(output)
    assert (last.get("f1"), last.get("f2"), last.get("f3")) == (None, SCORES, {"WT": {"dice": 1.0}})


def test_a_piece_of_an_older_version_counts_as_none(output):
    """It does not say what made the labelmaps."""
    sink = pa.BufferOutputStream()
    columns = {"case_id": ["a"], "fingerprint": ["f1"], "scores": ["{}"]}
    pq.write_table(pa.table(columns), sink)
    output.put("_scores/0123456789ab.parquet", sink.getvalue().to_pybytes())
    assert ScoreCache(output).get("f1") is None


def test_a_spoilt_piece_counts_as_none(output):
    output.put("_scores/0123456789ab.parquet", b"no Parquet")
    cache = ScoreCache(output)
    assert cache.get("f1") is None
    cache.add("a", "f1", SCORES, {})
    cache.close()
    assert ScoreCache(output).get("f1") == SCORES
