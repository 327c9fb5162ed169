"""Scores of cases that are kept beside a report, so that the next run computes only what is new.

They lie in a few Parquet files, `_scores/DIGEST.parquet`: case_id, fingerprint (of truth, labelmap, its
images, label convention and the metrics' own version), and as JSON the scores and what else is known. Written
in pieces while a run goes on, and made one at its end: a crash loses a piece at most.
"""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq

from bts.storage import Store

PIECE = 500  # cases: of a run that is cut off, fewer are computed again
SCHEMA = pa.schema([(name, pa.string()) for name in ("case_id", "fingerprint", "scores", "about")])


class ScoreCache:
    """The kept scores of one report."""

    def __init__(self, output: Store):
        """Reads what is there; a piece that cannot be read counts as none."""
        self.output = output
        self.pieces = [entry.key for entry in output.list("_scores") if entry.key.endswith(".parquet")]
        self.kept: dict[str, dict[str, str]] = {}  # rows by fingerprint
        self.asked: set[str] = set()
        self.fresh: list[dict[str, str]] = []
        for key in self.pieces:
            for row in self._rows(key):
                self.kept[row["fingerprint"]] = row

    @property
    def cases(self) -> set[str]:
        """Those that have scores, also outdated ones."""
        return {row["case_id"] for row in self.kept.values()}

    def get(self, fingerprint: str) -> dict | None:
        """Scores as bts.scoring.metrics.score gave them, or None."""
        return self.scores(fingerprint) if fingerprint in self.kept else None

    def scores(self, fingerprint: str) -> dict:
        """The same of a case whose scores are kept."""
        self.asked.add(fingerprint)
        return json.loads(self.kept[fingerprint]["scores"])

    def about(self, fingerprint: str) -> dict:
        """What is known of a case whose scores are kept, besides them."""
        return json.loads(self.kept[fingerprint]["about"])

    def add(self, case_id: str, fingerprint: str, scores: dict, about: dict) -> None:
        """Keep the scores of a case. Raises RunError where the store takes no piece."""
        texts = {"scores": json.dumps(scores), "about": json.dumps(about)}
        self.kept[fingerprint] = row = {"case_id": case_id, "fingerprint": fingerprint, **texts}
        self.asked.add(fingerprint)
        self.fresh.append(row)
        if len(self.fresh) >= PIECE:
            self.pieces.append(self._put(self.fresh))
            self.fresh = []

    def close(self) -> None:
        """Make one piece of all that this run asked for; the others go."""
        if not self.fresh and len(self.pieces) <= 1 and self.asked >= self.kept.keys():
            return
        whole = self._put([row for mark, row in sorted(self.kept.items()) if mark in self.asked])
        for key in self.pieces:
            if key != whole:
                self.output.delete(key)

    def _rows(self, key: str) -> list[dict[str, str]]:
        try:
            rows = pq.read_table(pa.BufferReader(self.output.read(key)), schema=SCHEMA).to_pylist()
            return [row for row in rows if None not in row.values()]  # older pieces know less
        except (OSError, pa.ArrowException):
            return []

    def _put(self, rows: list[dict[str, str]]) -> str:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink)
        data = sink.getvalue().to_pybytes()
        key = f"_scores/{hashlib.blake2b(data, digest_size=6).hexdigest()}.parquet"
        self.output.put(key, data)
        return key
