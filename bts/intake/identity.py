"""Names of cases that tell nobody who was scanned: keyed hashes of what the scans say.

Who holds the key can tell which case a known patient is; who does not cannot, not even by trying all numbers.
The same key gives the same names, so that tonight's run knows last night's cases.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bts.errors import RunError, UsageError

VARIABLE = "BTS_INTAKE_KEY"
KEPT = "~/.config/bts/intake.key"
LEAST = 16  # characters of a key


@dataclass(frozen=True, slots=True)
class Identity:
    """How cases are named: by keyed hashes, or by the patients' own numbers."""

    key: str
    keep: bool = False

    @property
    def mark(self) -> str:
        """Tells whether two runs name alike; gives nothing of the key away."""
        return self._hash("mark", 12) + ("+keep" if self.keep else "")

    def patient(self, patient_id: str) -> str:
        """Name of a patient."""
        return _plain(patient_id) if self.keep else self._hash(f"patient {patient_id}", 10)

    def visit(self, patient_id: str, date: str, study: str) -> str:
        """Name of one examination of a patient: of one date and Study Instance UID."""
        of = self._hash(f"study {patient_id} {date} {study}", 10)
        return f"{_plain(date)}-{of[:4]}" if self.keep else of

    def opaque(self, text: str) -> str:
        """Stands for a key or path, which may hold a name."""
        return self._hash(f"key {text}", 24)

    def _hash(self, text: str, digits: int) -> str:
        key = hashlib.blake2b(self.key.encode()).digest()
        return hashlib.blake2b(text.encode(errors="surrogateescape"), key=key).hexdigest()[:digits]


def case_id(patient: str, visit: str) -> str:
    """Such as Scan-0f3a…-9b21…; bts.cases tells the patient by it."""
    return f"Scan-{patient}-{visit}"


def keeps_ids(case_ids: Iterable[str]) -> bool:
    """Whether cases were named by Patient ID (--keep-ids): their visit is a date and a hash, else a hash."""
    return any(case_id.count("-") > 2 for case_id in case_ids)


def read_identity(keep: bool, *, make: bool = False) -> tuple[Identity, str]:
    """(how this machine names cases, where its key comes from).

    The key is that of the environment, else the one in the home folder, which is made there once if `make`.
    Raises UsageError where there is none, or one that is too short; RunError where it cannot be read or kept.
    """
    if key := os.environ.get(VARIABLE):
        if len(key) < LEAST:
            raise UsageError(f"{VARIABLE}: {len(key)} characters; give at least {LEAST} random ones")
        return Identity(key, keep), VARIABLE
    path = Path(KEPT).expanduser()
    try:
        if make and not path.exists():
            _make(path)
        return Identity(path.read_text().strip(), keep), KEPT
    except FileNotFoundError:
        raise UsageError(
            f"{VARIABLE} is not set and there is no {KEPT}: no case can be matched with its study; set the "
            "key that jobs.intake has (where there is none, its first run makes one)"
        ) from None
    except OSError as error:
        raise RunError(f"{KEPT}: no key to hash patients' numbers with ({error}); set {VARIABLE}") from None


def _make(path: Path) -> None:
    """Keep a new key, for its owner alone. If another run is faster, its key counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    half.touch(mode=0o600)
    half.write_text(secrets.token_hex(32))
    with suppress(FileExistsError):
        os.link(half, path)
    half.unlink()


def _plain(text: str) -> str:
    """What may stand in a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "", text)[:40] or "none"
