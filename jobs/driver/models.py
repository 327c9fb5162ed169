"""The models that a command was asked for, in the driver's memory. Not a command."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bts import tracking
from bts.inference.finish import Finish
from bts.inference.options import Engine
from bts.modalities import MODALITIES
from jobs.driver.progress import say

if TYPE_CHECKING:
    from bts.model.load import Loaded  # with torch, which --help does without


@dataclass(frozen=True)
class Models:
    """One model, or those of an ensemble."""

    files: list[tuple[str, bytes]]
    """Name and bytes of each, for the actors of a cluster."""
    loaded: list["Loaded"]
    """Each on the CPU, for this process."""
    described: list[dict]
    """What a result says of each."""
    finish: Finish
    """What makes a result of their predictions."""

    @property
    def unused(self) -> list[str]:
        """Modalities that none of them looks at: a case may lack them."""
        used = {modality for model in self.loaded for modality in model.card.modalities}
        return [m for m in MODALITIES if m not in used]


def by_version(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, an alias of the registry as the version that has it now: several commands that are
    given them run one model, whatever is promoted meanwhile. Raises UsageError where there is none.

    An alias stays where this process has no registry: those commands may have one.
    """
    return tuple(
        tracking.Tracker().version(name).uri
        if name.startswith("models:/") and "@" in name and tracking.is_there()
        else name
        for name in names
    )


def read_models(names: Iterable[str], engine: Engine = "torch") -> Models:
    """Raises UsageError naming the one that is no model, or what differs between them."""
    from bts.inference.segmenter import Segmenter
    from bts.model.file import BUNDLED
    from bts.model.file import read_models as files_of
    from bts.model.load import describe, load

    files = []
    for name in names:
        if name == BUNDLED:
            say("the bundled model has seen 45 patients; what it is good for: bts/weights/README.md")
        files += [(name, data) for data in files_of(name)]
    loaded = [load(data, name) for name, data in files]
    finish = Segmenter(loaded, "cpu", engine=engine).finish  # refuses now, not in an actor
    described = [describe(model, name) for model, (name, _) in zip(loaded, files, strict=True)]
    return Models(files, loaded, described, finish)
