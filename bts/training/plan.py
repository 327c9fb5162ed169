"""What one training is made of: which shards train, which are held out, and the fingerprint of it all."""

import importlib.metadata
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bts.errors import UsageError
from bts.fingerprint import fingerprint
from bts.inference import quality
from bts.labels import WRITTEN_AS, teaches
from bts.model.spacing import is_one_mm
from bts.settings import Preset
from bts.settings_json import to_dict
from bts.shards.catalogue import Shard
from bts.storage import read_file
from bts.training.splits import split_patients, turns

FORMAT = 3  # raised when equal shards and settings train another model
OTHER_TRUTH = "whose ground truth does not hold the preset's targets"
OTHER_SPACING = "not of 1 mm, which a 3D preset needs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training, known before it starts."""

    preset: Preset
    fold: int
    training: list[Shard]
    held_out: list[Shard]
    left_out: dict[str, list[str]]
    """Keys of the shards that neither train nor are held out, by the reason."""
    keys: tuple[str, ...]
    """Of the shards that the two fingerprints are of."""
    data: str
    """Fingerprint of the shards."""
    run: str
    """Fingerprint of all that makes the model: shards, preset, fold. Not of the number of workers, which may
    change between two resumes."""

    def turns(self) -> dict[str, int]:
        """Key → what of a case's slices is held out (bts.training.splits.turns); empty where patients are."""
        if self.preset.split == "by_patient":
            return {}
        cases = {s.key: (s.group, s.slices) for s in self.held_out}
        return turns(cases, seed=self.preset.seed, fold=self.fold)

    def classes(self) -> dict[str, dict[str, int]]:
        """Cases and slices of each group (tumour type, grade or data set)."""
        shards = {s.key: s for s in (*self.training, *self.held_out)}.values()
        found: dict[str, dict[str, int]] = {}
        for shard in sorted(shards, key=lambda s: s.group):
            counts = found.setdefault(shard.group, {"cases": 0, "slices": 0})
            counts["cases"] += 1
            counts["slices"] += shard.slices
        return found

    def inputs(self) -> quality.Ranges:
        """Within what the extremes of the training cases lie: other inputs are flagged when segmented."""
        extremes_NC2 = np.stack([quality.extremes(shard) for shard in self.training])
        return quality.ranges(self.training[0].modalities, extremes_NC2)

    def provenance(self) -> dict:
        """What the model's header says of its origin."""
        return {
            "run": self.run,
            "data": self.data,
            "fold": self.fold,
            "seed": self.preset.seed,
            "commit": commit(),
            "versions": {p: importlib.metadata.version(p) for p in ("ray", "torch") if find_spec(p)},
            "training_patients": sorted({s.patient for s in self.training}),
            "held_out_patients": sorted({s.patient for s in self.held_out}),
            "inputs": self.inputs(),
            "shards": sorted(s.key for s in (*self.training, *self.held_out)),
        }


def make_plan(shards: Sequence[Shard], preset: Preset, fold: int) -> Plan:
    """Split the patients of the labelled shards that fit. Raises UsageError where they do not suffice."""
    usable, left_out = sort_out(shards, preset)
    for shard in usable:
        if missing := [m for m in preset.modalities if m not in shard.modalities]:
            have = " ".join(shard.modalities)
            raise UsageError(
                f"modalities {' '.join(preset.modalities)} and these shards do not go together: {shard.key} "
                f"has no {', '.join(missing)}; train with --modalities {have}"
            )
    patients = patients_of(usable)
    groups = {patients[s.key]: s.group for s in usable}
    train_ids, held_ids = split_patients(groups, seed=preset.seed, fold=fold)
    if preset.split == "leaking_by_slice":
        train_ids = held_ids = list(groups)
    training = [s for s in usable if patients[s.key] in set(train_ids)]
    small = {s.key for s in training if s.tumour < preset.sampling.least_tumour * s.brain}
    training = [s for s in training if s.key not in small]
    held_out = [s for s in usable if patients[s.key] in set(held_ids)]
    if small:
        left_out["of less tumour than --sampling.least-tumour"] = sorted(small)
    if not training or not held_out:
        others = "".join(f"{len(keys)} shards are left out, {why}; " for why, keys in left_out.items())
        raise UsageError(
            f"fold {fold} of {len(groups)} patients with ground truth has {len(training)} cases for training "
            f"and {len(held_out)} for validation; {others}preprocess more cases (5 patients fill every fold)"
        )
    if not any(s.tumour for s in training):
        raise UsageError(
            f"the ground truth of all {len(training)} training cases is empty, {training[0].key} for one: "
            "there is no tumour to learn; look at the files that jobs.preprocess read as ground truth"
        )
    preset = with_statistics(preset, training)
    keys = {s.key: "" for s in usable}  # a shard's name carries its content's fingerprint
    options = {"preset": to_dict(preset), "fold": fold}
    return Plan(
        preset=preset,
        fold=fold,
        training=training,
        held_out=held_out,
        left_out=left_out,
        keys=tuple(keys),
        data=fingerprint(keys, options={}, version=FORMAT),
        run=fingerprint(keys, options=options, version=FORMAT),
    )


def patients_of(shards: Sequence[Shard]) -> dict[str, str]:
    """Key → patient, by the first of all the names that one goes by.

    One patient are names that differ in small letters alone, and those of cases whose images are equal:
    public sets repeat each other's scans under names of their own.
    """
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while first.get(name, name) != name:
            name = first[name]
        return name

    names: dict[str, str] = {}
    images: dict[tuple, str] = {}
    for shard in sorted(shards, key=lambda shard: shard.patient):
        name = names.setdefault(shard.patient.lower(), shard.patient)
        low, high = sorted((root(name), root(images.setdefault(shard.images, name))))
        first[high] = low
    return {shard.key: root(names[shard.patient.lower()]) for shard in shards}


def unnamed(shards: Sequence[Shard]) -> list[str]:
    """Cases whose name stands for the patient, for nothing told who was scanned."""
    return sorted(shard.case for shard in shards if shard.dataset == "other" and shard.patient == shard.case)


def sort_out(shards: Sequence[Shard], preset: Preset) -> tuple[list[Shard], dict[str, list[str]]]:
    """(shards that the preset can be trained on, {why not: keys of the others}). Raises UsageError if only
    the preset's targets or its spacing leave none.
    """
    found: dict[str, list[Shard]] = {}
    for shard in shards:
        found.setdefault(why_not(shard, preset), []).append(shard)
    usable = found.pop("", [])
    if not usable and OTHER_SPACING in found:
        shard = found[OTHER_SPACING][0]
        mm = " × ".join(f"{zoom:g}" for zoom in shard.zooms)
        raise UsageError(
            f"preset {preset.name} trains in 3D on voxels of 1 mm, and {shard.key} has {mm} mm; resample the "
            "cases, or train a 2D preset, which resamples slices by itself"
        )
    if not usable and OTHER_TRUTH in found:
        figshare = preset.targets in WRITTEN_AS
        of, instead = ("BraTS", "regions or labels") if figshare else ("figshare", "tumour or tumour_types")
        raise UsageError(
            f"targets {preset.targets} and these shards do not go together: their ground truth is of {of}, "
            f"which has --targets {instead}"
        )
    return usable, {why: [shard.key for shard in others] for why, others in found.items()}


def why_not(shard: Shard, preset: Preset) -> str:
    """Why a shard neither trains nor is held out; empty if it may."""
    if shard.outdated:
        return "of older files, for the case failed when it was last preprocessed"
    if not shard.labelled:
        return "without ground truth"
    if not teaches(shard.labels, preset.targets):
        return OTHER_TRUTH
    # A 3D cut is of slices as they are stored.
    return OTHER_SPACING if preset.volumetric and not preset.resize and not is_one_mm(shard.zooms) else ""


def with_statistics(preset: Preset, training: Sequence[Shard]) -> Preset:
    """The preset with the mean and standard deviation that global_zscore needs, of the training cases.

    Over whole volumes, background included, from each shard's own statistics over the brain.
    """
    settings = preset.normalisation
    if settings.kind != "global_zscore" or settings.mean:
        return preset
    columns = [[s.modalities.index(m) for m in preset.modalities] for s in training]
    mean, std = (np.array([np.array(getattr(s, n))[c] for s, c in zip(training, columns, strict=True)])
                 for n in ("mean", "std"))  # fmt: skip
    brain = np.array([s.brain for s in training], np.float64)[:, None]
    voxels = sum(s.voxels for s in training)
    first, second = ((brain * moment).sum(axis=0) / voxels for moment in (mean, std**2 + mean**2))
    deviation = np.sqrt(second - first**2)
    found = replace(settings, mean=tuple(first.tolist()), std=tuple(deviation.tolist()))
    return replace(preset, normalisation=found)


def read_encoder(uri: str) -> bytes | None:
    """The file of an encoder's pretrained weights. Raises UsageError where there is none, RunError."""
    return read_file(uri) if uri else None


def commit() -> str:
    """What made a model: BTS_COMMIT of the environment, which an image sets, or else the commit of this
    checkout, "-dirty" where files differ from it; "" where there is no git."""
    if known := os.environ.get("BTS_COMMIT"):
        return known
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        here = Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
