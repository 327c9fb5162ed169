"""The JSON in the header of a .safetensors file, read without its weights."""

import json

from bts.errors import UsageError

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
