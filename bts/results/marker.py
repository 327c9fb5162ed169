"""The marker of a labelmap, `_done/CASE.FINGERPRINT.json`: what was made, from what, by what, how sure.

Written last, it vouches for the files that it speaks of. One writer, and one reader that takes markers of
every version of the program, and what people made of them: what a marker does not tell is empty.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from bts.cases import figshare
from bts.cases.case import Case
from bts.cases.read import reader_of
from bts.images.grid import Grid
from bts.labels import REGIONS, WRITTEN_AS
from bts.plain_json import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """The fields in the order in which they are written."""

    case_id: str = ""
    labelmap: Mapping[str, object] = field(default_factory=dict)
    """key, bytes and blake2b of the labelmap's file."""
    labels: str = ""
    """Label convention of the file."""
    volumes_ml: Mapping[str, float] | None = None
    """Millilitres by region."""
    tumour_px: Mapping[str, int] | None = None
    """Where pixels have no known size: pixels by type and in all."""
    inputs: Mapping[str, Mapping[str, str]] | None = None
    """Role → key and version of each file that the labelmap was made from; None: not told."""
    cases: str = ""
    """URI of the place where those files lay."""
    fingerprint: str = ""
    flags: tuple[str, ...] = ()
    """Quality warnings."""
    expected_dice: Mapping[str, float] = field(default_factory=dict)
    """By region."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage."""
    models: tuple[Mapping[str, object], ...] = ()
    """name, digest and preset of each."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Of jobs.segment, those that change the labelmap."""
    versions: Mapping[str, object] = field(default_factory=dict)
    """Of what made it: format, torch, python."""
    written: str = ""
    """ISO 8601, UTC."""

    def to_json(self) -> bytes:
        """The file."""
        kept = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(kept, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Marker":
        """Raises ValueError for what is no JSON object."""
        found = parse(data)
        if not isinstance(found, dict):
            raise ValueError("no marker")
        texts = {name: found[name] for name in TEXTS if isinstance(found.get(name), str)}
        mappings = {name: found[name] for name in MAPPINGS if isinstance(found.get(name), dict)}
        if "inputs" in mappings:
            mappings["inputs"] = {r: of for r, of in mappings["inputs"].items() if isinstance(of, dict)}
        for name in NUMBERS:
            if name in mappings:
                mappings[name] = {r: v for r, v in mappings[name].items() if isinstance(v, (int, float))}
        if "expected_dice" in mappings:
            sound = {r: float(v) for r, v in mappings["expected_dice"].items() if 0 <= v <= 1}
            mappings["expected_dice"] = sound
        flags, models = found.get("flags"), found.get("models")
        return cls(
            **texts,
            **mappings,
            flags=tuple(map(str, flags)) if isinstance(flags, list) else (),
            models=tuple(m for m in models if isinstance(m, dict)) if isinstance(models, list) else (),
        )

    @property
    def maker(self) -> str:
        """The models that made the labelmap: their digests joined by "+", then the options that were on
        ("0123456789ab flips"). Empty where that is not told."""
        digests = [str(model.get("digest", "")) for model in self.models]
        if not all(digests):
            return ""
        return " ".join(["+".join(digests), *sorted(name for name, on in self.options.items() if on)])

    @property
    def named_maker(self) -> str:
        """The same as a person names it."""
        models = [f"{one.get('name')} {one.get('digest')}" for one in self.models]
        return " + ".join([*models, *(name for name, on in self.options.items() if on)])

    @property
    def versions_read(self) -> dict[str, str]:
        """Role → version of the files that the labelmap was made from."""
        return {role: str(of.get("version")) for role, of in (self.inputs or {}).items()}

    def speaks_of(self, labelmap_digest: str) -> bool:
        """Whether it may be of a labelmap with this digest: it is, or it does not tell."""
        return self.labelmap.get("blake2b") in (None, labelmap_digest)


NOT_TOLD = "not told"
"""In place of the digest of what made one of several fused labelmaps."""
TEXTS = ("case_id", "labels", "cases", "fingerprint", "written")
NUMBERS = ("volumes_ml", "expected_dice", "seconds")
MAPPINGS = (*NUMBERS, "labelmap", "tumour_px", "inputs", "options", "versions")


def digest(data: bytes) -> str:
    """blake2b of a labelmap's bytes, 32 hex digits, as its marker has it."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def describe(
    case: Case, labels_DHW: np.ndarray, grid: Grid, convention: str, key: str, labelmap: bytes
) -> dict:
    """The fields about the case and its labels: what was made, from what, how much was found."""
    files = {role: case.files[role] for role in reader_of(case).inputs(case)}
    return {
        "case_id": case.id,
        "labelmap": {"key": key, "bytes": len(labelmap), "blake2b": digest(labelmap)},
        "labels": convention,
        **_amounts(labels_DHW, grid, convention),
        "inputs": {role: {"key": file.key, "version": file.version} for role, file in files.items()},
    }


def _amounts(labels_DHW: np.ndarray, grid: Grid, convention: str) -> dict[str, dict]:
    if convention in WRITTEN_AS.values():
        counts = np.bincount(labels_DHW.reshape(-1), minlength=5)
        types = {name: int(counts[label]) for label, name in figshare.TUMOURS.items()}
        total = {"total": int(counts[1:].sum())}
        return {"tumour_px": total if convention == "figshare_tumour" else types | total}
    from bts.scoring.metrics import volumes_ml  # SciPy, which a reader of markers does without

    volumes = volumes_ml(labels_DHW, REGIONS, grid.zooms)
    return {"volumes_ml": {region: round(ml, 3) for region, ml in volumes.items()}}
