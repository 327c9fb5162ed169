"""A model file of either origin: our own (`file`) or adopted from another tool (`adopted`)."""

from bts.model import adopted, file
from bts.model.adopted import Adopted
from bts.model.card import ModelCard
from bts.model.file import Model
from bts.model.header import digest, read_header

Loaded = Model | Adopted


def load(data: bytes, name: str) -> Loaded:
    """The model of a file's bytes, on the CPU; `name` is for messages. Raises UsageError for what is none."""
    return (adopted.load_adopted if adopted.is_adopted(data, name) else file.load_model)(data, name)


def read_card(data: bytes, name: str) -> ModelCard:
    """What a model file says of itself; its weights are not looked at. Raises UsageError."""
    if adopted.is_adopted(data, name):
        return adopted.card_of(adopted.read_adopted(data, name), digest(data), name)
    return file.card_of(read_header(data, name), digest(data), name)


def describe(model: Loaded, name: str) -> dict[str, str]:
    """What a result says of the model that made it: the name it was asked for by, digest, preset; of an
    adopted one its kind too."""
    kind = {"kind": model.kind} if isinstance(model, Adopted) else {}
    return {"name": name, "digest": model.card.digest, "preset": model.card.name, **kind}
