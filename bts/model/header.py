"""The JSON in the header of a .safetensors file, read without its weights."""

import hashlib
import json

from bts.errors import UsageError

FORMAT, KEY = 2, "bts"
"""Of models that jobs.train makes."""
GIVE = "give a model of jobs.train or jobs.adopt"


def read_metadata(data: bytes, name: str) -> dict[str, str]:
    """The header's metadata; `name` is for messages. Raises UsageError that says what the file is instead."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or data[8:9] != b"{":
        raise UsageError(f"{name}: no .safetensors file; {GIVE}")
    if 8 + length > len(data):
        raise UsageError(f"{name}: truncated within its header; copy the model file again")
    try:
        found = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        raise UsageError(f"{name}: no .safetensors file, or damaged; {GIVE}") from None
    found = found.get("__metadata__", {})
    return found if isinstance(found, dict) else {}


def parse_header(metadata: dict[str, str], key: str, newest: int, name: str) -> dict:
    """What the metadata have under a key: a JSON object with its `format`.

    Raises UsageError where they have none, or one of another format.
    """
    try:
        header = json.loads(metadata[key])
        version = int(header["format"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        made = "jobs.adopt" if key == "adopted" else "jobs.train"
        raise UsageError(f"{name}: a .safetensors file, but not by {made}; {GIVE}") from None
    if version > newest:
        raise UsageError(f"{name}: its format {version} is newer than {newest}; update the project")
    if version < newest:
        mend = "adopt it again" if key == "adopted" else "train it again"
        raise UsageError(f"{name}: its format {version} is older than {newest}; {mend}")
    return header


def digest(data: bytes) -> str:
    """blake2b of the bytes, 12 hex digits."""
    return hashlib.blake2b(data).hexdigest()[:12]


def read_header(data: bytes, name: str) -> dict:
    """The `bts` part of a model file's header. Raises UsageError that says what the file is instead."""
    header = parse_header(read_metadata(data, name), KEY, FORMAT, name)
    if not _is_described(header):
        raise UsageError(f"{name}: its header lacks what jobs.train writes; copy the model file again")
    return header


def _is_described(header: dict) -> bool:
    """Whether those parts of a header are what they should be that no dataclass checks."""
    provenance = header.get("provenance", {})
    if not (isinstance(header.get("preset"), dict) and isinstance(provenance, dict)):
        return False
    validation, inputs = provenance.get("validation", {}), provenance.get("inputs", {})
    patients = [provenance.get(f"{kind}_patients") for kind in ("training", "held_out")]
    return (
        isinstance(validation, dict)
        and all(isinstance(value, (int, float)) for value in validation.values())
        and isinstance(inputs, dict)
        and all(_are_ranges(value) for value in inputs.values())
        and all(
            some is None or (isinstance(some, list) and all(isinstance(one, str) for one in some))
            for some in patients
        )
        and isinstance(provenance.get("epochs", 0), int)
    )


def _are_ranges(value: object) -> bool:
    """Pairs of numbers, a low and a high one."""
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(end, (int, float)) for end in pair)
        for pair in value
    )
