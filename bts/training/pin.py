"""What an unfinished training is made of, beside its checkpoints: the same command goes on with just that.

Shards come and go with every nightly jobs.preprocess. Without the pin, one more scan would make the same
command another training, from epoch 0.
"""

import json
from dataclasses import asdict, dataclass

from bts.errors import RunError
from bts.fingerprint import fingerprint
from bts.plain_json import parse
from bts.settings import Preset
from bts.settings_json import to_dict
from bts.storage import Store
from bts.training.plan import FORMAT


@dataclass(frozen=True, slots=True)
class Pin:
    """One unfinished training."""

    run: str
    """Plan.run."""
    keys: tuple[str, ...]
    """Of the shards that it is made of."""
    started: str
    """ISO 8601, UTC."""


def asked_for(preset: Preset, fold: int, shards: Store) -> str:
    """Fingerprint of what a command asks for, whatever shards there are."""
    options = {"preset": to_dict(preset), "fold": fold, "shards": shards.uri}
    return fingerprint({}, options=options, version=FORMAT)


def key(name: str, asked: str) -> str:
    """Where the pin of a model's training lies in the folder of models."""
    return f"_checkpoints/{name}.{asked}.plan.json"


def write(models: Store, name: str, asked: str, pin: Pin) -> None:
    """Raises RunError."""
    models.put(key(name, asked), json.dumps(asdict(pin), indent=1).encode())


def read(models: Store, name: str, asked: str) -> Pin | None:
    """None where no training of this is under way. Raises RunError."""
    try:
        found = parse(models.read(key(name, asked)))
        return Pin(str(found["run"]), tuple(map(str, found["keys"])), str(found["started"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        where = f"{models.uri}/{key(name, asked)}"
        raise RunError(f"{where}: cannot be read ({error}); --fresh starts the training anew") from error
