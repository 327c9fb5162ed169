"""The name of a result carries all that made it."""

import hashlib
import json
from collections.abc import Mapping


def fingerprint(inputs: Mapping[str, str], *, options: Mapping[str, object], version: int) -> str:
    """12 hex of blake2b over all that makes a result: (role, version) of inputs, options, format version.

    Options are those that change the output; a model's digest is one of them.
    """
    made_of = [sorted(inputs.items()), sorted(options.items()), version]
    return hashlib.blake2b(json.dumps(made_of).encode()).hexdigest()[:12]
