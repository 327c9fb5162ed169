"""What one training is made of: which shards train, which are held out, and the fingerprint of it all."""

import importlib.metadata
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bts import worklist
from bts.catalogue import Shard
from bts.errors import UsageError
from bts.presets import Preset, to_dict
from bts.sampling import split_patients

FORMAT = 1  # raised when equal shards and settings train another model


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training, known before it starts."""

    preset: Preset
    fold: int
    training: list[Shard]
    held_out: list[Shard]
    data: str
    """Fingerprint of the shards."""
    run: str
    """Fingerprint of all that makes the model: shards, preset, fold. Not of the number of workers, which may
    change between two resumes."""

    def provenance(self) -> dict:
        """What the model's header says of its origin."""
        return {
            "run": self.run,
            "data": self.data,
            "fold": self.fold,
            "seed": self.preset.seed,
            "commit": commit(),
            "versions": {name: importlib.metadata.version(name) for name in ("ray", "torch")},
            "training_patients": sorted({s.patient for s in self.training}),
            "held_out_patients": sorted({s.patient for s in self.held_out}),
            "shards": sorted(s.key for s in (*self.training, *self.held_out)),
        }


def make_plan(shards: Sequence[Shard], preset: Preset, fold: int) -> Plan:
    """Split the patients of the labelled shards. Raises UsageError where they do not suffice."""
    usable = [s for s in shards if s.labelled]
    for shard in usable:
        if missing := [m for m in preset.modalities if m not in shard.modalities]:
            have = " ".join(shard.modalities)
            raise UsageError(f"{shard.key}: has no {', '.join(missing)}; train with --modalities {have}")
    groups = {s.patient: s.group for s in usable}
    train_ids, held_ids = split_patients(groups, seed=preset.seed, fold=fold)
    if not train_ids or not held_ids:
        raise UsageError(
            f"fold {fold} of {len(groups)} patients with a truth has {len(train_ids)} for training and "
            f"{len(held_ids)} for validation; preprocess more cases (5 patients fill every fold)"
        )
    keys = {s.key: "" for s in usable}  # a shard's name carries its content's fingerprint
    options = {"preset": to_dict(preset), "fold": fold}
    return Plan(
        preset=preset,
        fold=fold,
        training=[s for s in usable if s.patient in set(train_ids)],
        held_out=[s for s in usable if s.patient in set(held_ids)],
        data=worklist.fingerprint(keys, options={}, version=FORMAT),
        run=worklist.fingerprint(keys, options=options, version=FORMAT),
    )


def commit() -> str:
    """Commit of this checkout, "-dirty" where files differ from it; "" where there is no git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        here = Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
