"""Which series is which modality: the rules propose, completeness decides, and a tie is never guessed."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from bts.errors import CaseError
from bts.intake.rules import Rules
from bts.modalities import MODALITIES

MARGIN = 1.1  # by which one series must be better than another to be preferred


def choose(
    series: Sequence[Any],
    rules: Rules,
    case_id: str,
    names: Collection[str],
    missing_allowed: Collection[str] = (),
) -> dict[str, Any]:
    """{modality: series} of one study.

    series: each with `what`, `uid`, `number`, `problem`, `slices`, `zooms` and `describe()`. names: those by
    which a file of rules may call the study, the best last. Raises CaseError naming the candidates, and what
    to write, where a modality has no sound series or several.
    """
    told = {role: uid for name in names for role, uid in rules.chosen.get(name, {}).items()}
    found = {}
    for role in MODALITIES:
        if role in told:
            found[role] = _named(series, told[role], role, case_id)
        elif one := _best(series, rules, role, case_id, names):
            found[role] = one
        elif role not in missing_allowed:
            raise _lacking(series, role, case_id, names)
    return found


def _named(series: Sequence[Any], wanted: str, role: str, case_id: str):
    """The series that a person has named."""
    fit = [one for one in series if wanted in (one.uid, str(one.number))]
    if len(fit) == 1 and not fit[0].problem:
        return fit[0]
    why = fit[0].describe() if len(fit) == 1 else f"{len(fit)} series of the study have this UID or number"
    raise CaseError(
        f"{role}: the rules name series {wanted}: {why}",
        mend="correct the rules",
        case=case_id,
        stage="choose",
    )


def _best(series: Sequence[Any], rules: Rules, role: str, case_id: str, names: Collection[str]):
    """The only sound series of a modality, or the one that the preferences leave; None if there is none."""
    left = [one for one in series if one.what == role and not one.problem]
    for preference in rules.prefer:
        left = PREFER[preference](left)
    if len(left) > 1:
        raise CaseError(
            f"{len(left)} series may be {role}: {_list(left)}",
            mend=f"name one in --rules: {_how(names, role, left[-1].uid or str(left[-1].number))}",
            case=case_id,
            stage="choose",
        )
    return left[0] if left else None


def _lacking(series: Sequence[Any], role: str, case_id: str, names: Collection[str]) -> CaseError:
    broken = [one for one in series if one.what == role]
    others = broken or series
    what = f"no sound series of {role}" if broken else f"no series of {role}"
    # An example that names one of these series would be pasted, and make a FLAIR the T1ce.
    mend = f"if one of them is it, name it in --rules: {_how(names, role, 'ITS NUMBER OR UID')}"
    return CaseError(
        f"{what}; there are {_list(others)}",
        mend=mend if role == "t1ce" else f"{mend}; or let it lack: --allow-missing {role}",
        case=case_id,
        stage="choose",
    )


def _how(names: Collection[str], role: str, example: str) -> str:
    return f'[study."{list(names)[-1]}"] {role} = "{example}"'


def _list(series: Iterable[Any]) -> str:
    return "; ".join(one.describe() for one in series)


def _most(value: Callable[[Any], float]) -> Callable[[list], list]:
    def leave(left: list) -> list:
        best = max(map(value, left), default=0)
        return [one for one in left if value(one) * MARGIN > best]

    return leave


def _latest(left: list) -> list:
    last = max((one.number for one in left), default=0)
    return [one for one in left if one.number == last]


PREFER: Mapping[str, Callable[[list], list]] = {
    "complete": _most(lambda one: one.slices),
    "finest": _most(lambda one: 1 / max(one.zooms[0] * one.zooms[1] * one.zooms[2], 1e-6)),
    "latest": _latest,
}
