"""What other tools call modalities and labels, in our words; and regions told by which lies in which."""

import itertools
from collections.abc import Mapping, Sequence

from bts.cases.names import role_of_channel
from bts.errors import UsageError
from bts.inference.foreign.source import Asked
from bts.labels import PAINT, REGIONS, STRUCTURES, structure, values_of
from bts.modalities import MODALITIES


def modalities_of(names: Sequence[str], asked: Asked) -> tuple[str, ...]:
    """Modality of ours of each channel, by its name or as --channels says. Raises UsageError."""
    told = tuple(role_of_channel(name) for name in names)
    found = asked.channels or told
    if len(found) != len(names):
        raise UsageError(f"--channels {' '.join(found)}: the model has {len(names)}: {', '.join(names)}")
    if odd := [n for n, role in enumerate(told) if role not in ("", found[n])]:
        raise UsageError(
            f"--channels {' '.join(found)}: the model calls channel {odd[0]} {names[odd[0]]}; leave "
            "--channels out, or correct the names in its description"
        )
    if not names or not all(found) or len(set(found)) != len(found):
        raise UsageError(
            f"its channels are called {', '.join(names) or 'nothing'}; say which of "
            f"{', '.join(MODALITIES)} each is, in this order, with --channels"
        )
    return found


def labels_of(names: Mapping[str, int], asked: Asked) -> dict[int, int]:
    """Value of the model → label of the project, of exclusive labels, by name or as --labels says.

    names: of all but the background. Raises UsageError for a label that is none of ours.
    """
    told = {value: STRUCTURES.get(structure(name), 0) for name, value in names.items()}
    found = {value: values_of(asked.labels).get(value, 0) for value in told} if asked.labels else told
    if odd := [(value, name) for name, value in names.items() if told[value] not in (0, found[value])]:
        raise UsageError(
            f"--labels {asked.labels}: the model calls {odd[0][0]} {odd[0][1]}; leave --labels out, or "
            "correct the names in its description"
        )
    shown = ", ".join(f"{value} {name}" for name, value in names.items())
    if not all(label in (1, 2, 3) for label in found.values()):
        raise UsageError(
            f"its labels are called {shown}; say with --labels which are NCR, ED and ET, for example "
            "1=NCR,2=ED,3=ET (a model of other structures cannot be adopted)"
        )
    if set(found.values()) != {1, 2, 3}:
        raise UsageError(f"its labels are called {shown}; NCR, ED and ET must each be one of them (--labels)")
    return found


def regions_of(named: Mapping[str, frozenset[int]], painted: Sequence[int]) -> tuple[int, int, int]:
    """Channels of WT, TC and ET among nested regions, each the values that it joins.

    painted: value that each region paints, in this order, a later one over an earlier one. Raises UsageError
    where the regions are others, by how they nest or by name, or would be painted in another way than ours.
    """
    regions = list(named.values())
    order = sorted(range(len(regions)), key=lambda n: -len(regions[n]))
    nested = [regions[n] for n in order]
    if len(nested) != 3 or not nested[0] > nested[1] > nested[2] or len(painted) != 3:
        raise UsageError(
            "its regions are not whole tumour, tumour core within it and enhancing tumour within that"
        )
    names = [list(named)[n] for n in order]
    odd = [name for name in names if structure(name) == "RC"]
    odd += [name for name in names[:2] if structure(name) == "ET"]
    odd += [name for name in names[2:] if structure(name) not in ("", "ET", "GTV")]
    if odd:
        raise UsageError(
            f"its region {odd[0]} is not what its place among the nested ones says: whole tumour, tumour "
            "core within it, enhancing tumour within that; a model of others cannot be adopted"
        )
    parts = {2: nested[0] - nested[1], 1: nested[1] - nested[2], 3: nested[2]}
    label_of = {value: label for label, values in parts.items() for value in values}
    for there in itertools.product((False, True), repeat=3):
        theirs = [label_of.get(value) for value, on in zip(painted, there, strict=True) if on]
        ours = [PAINT[region] for region, n in zip(REGIONS, order, strict=True) if there[n]]
        if theirs[-1:] != ours[-1:]:
            raise UsageError(
                f"its regions paint {', '.join(map(str, painted))}, which is not how ours are painted"
            )
    whole, core, enhancing = order
    return whole, core, enhancing
