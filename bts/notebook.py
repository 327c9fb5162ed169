"""One case in a notebook: read it, segment it, score it. No Ray, and nothing is written."""

import gzip
import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import nibabel as nib

from bts.cases import figshare
from bts.cases.case import Case, CaseVolume
from bts.cases.datasets import dataset_of, identify
from bts.cases.layouts import find_cases
from bts.cases.read import fetch, load_case
from bts.cases.said import list_folder
from bts.errors import CaseError, UsageError
from bts.images.grid import Volume
from bts.images.nifti import read_nifti, write_labelmap
from bts.labels import WRITTEN_AS, can_be_written, from_internal, regions_of, spelt, to_internal
from bts.modalities import MODALITIES
from bts.results.layout import convention_of
from bts.storage import Entry, Store, read_file

if TYPE_CHECKING:  # what needs torch or SciPy is loaded by the functions that use it
    from bts.inference.segmenter import Segmenter

Place = str | os.PathLike
Files = Mapping[str, Place]
"""Path by role: t1, t1ce, t2, flair and seg, or image and seg of MSD Task01."""
Image = Place | nib.Nifti1Image
GIVE = "give the folder of a case, or its files by role ({'t1': path, …})"


def read_case(
    place: Place | Files,
    *,
    case: str = "",
    labels: str = "auto",
    truth: bool = True,
    allow_missing: Collection[str] = (),
) -> CaseVolume:
    """One case on the canonical grid, cropped to the brain.

    place: a folder or s3://bucket/prefix, or the files of one case by role ({"t1": path, …, "seg": path}).
    case: which one, where the folder holds several. labels: its label convention, as jobs.segment
    --labels takes it; auto: the one that the name of the case tells. truth: read the ground truth, where
    there is one. allow_missing: modalities that the case may lack.
    Raises CaseError for bad data, UsageError where there is no such case.
    """
    _check_modalities(allow_missing)
    store, found = _find(place, case, labels)
    return load_case(found, store, truth=truth, allow_missing=allow_missing)


def open_model(
    model: Place | Sequence[Place] = "box",
    *,
    flips: bool = False,
    allow_missing: Collection[str] = (),
    device: str | None = None,
) -> "Segmenter":
    """A model, loaded once, for `segment` of many cases.

    model: "box", the bundled model; a file of jobs.train or jobs.adopt by path or URI; models:/NAME@ALIAS of
    the registry; or several of them, whose probabilities are averaged. flips: average each prediction with
    that of its mirror image. allow_missing: modalities that a case may lack. device: "cpu" or "cuda"; None:
    the GPU where there is one. Raises UsageError for what is no model.
    """
    from bts.inference.segmenter import Segmenter
    from bts.model.file import read_models
    from bts.model.load import load

    names = [str(name) for name in ([model] if isinstance(model, Place) else model)]
    if not names:
        raise UsageError("model: the list is empty; give at least one")
    _check_modalities(allow_missing)
    loaded = [load(data, name) for name in names for data in read_models(name)]
    return Segmenter(loaded, device, flips=flips, allow_missing=allow_missing)


def segment(
    place: Place | Files | CaseVolume,
    model: "Place | Sequence[Place] | Segmenter | None" = None,
    *,
    case: str = "",
    labels: str = "auto",
) -> nib.Nifti1Image:
    """One case → its labelmap on the grid of its files, as jobs.segment writes it.

    place, case: as `read_case` takes them, or what it returned. model: as `open_model` takes it, or what it
    returned; None: the bundled model. labels: label convention of the labelmap; auto: the case's own,
    BraTS 2023's where its name does not tell.
    Raises CaseError for bad data, UsageError where there is no such case or model.
    """
    if model is None or isinstance(model, Place | Sequence):
        model = open_model("box" if model is None else model)
    if (asked := spelt(labels)) != "auto" and not can_be_written(asked):
        raise UsageError(f"labels {labels}: a labelmap needs a value for each of NCR, ED and ET")
    if isinstance(place, CaseVolume):
        volume = place
    else:
        used = {modality for one in model.models for modality in one.card.modalities}
        allowed = model.allow_missing | {modality for modality in MODALITIES if modality not in used}
        volume = read_case(place, case=case, truth=False, allow_missing=allowed)
    targets = model.predicts.targets
    if (targets in WRITTEN_AS) != (volume.traits.reader == "slices"):
        wanted = "figshare slices" if targets in WRITTEN_AS else "NIfTI cases"
        raise UsageError(f"the model (targets {targets}) is for {wanted}; {volume.case_id} is none of them")
    convention = convention_of(volume, asked, targets)
    values_DHW = from_internal(model.seen(volume).whole(model(volume)), convention)
    made_by = "bts " + "+".join(one.card.digest for one in model.models)
    data = gzip.decompress(write_labelmap(values_DHW, volume.grid, made_by))
    kind = nib.Nifti1Image if len(volume.grid.header) == nib.Nifti1Header.sizeof_hdr else nib.Nifti2Image
    return kind.from_bytes(data)


def score(
    truth: Image,
    prediction: Image,
    *,
    labels: str = "auto",
    rules: Literal["auto", "2023", "2024", "2026"] = "auto",
) -> dict[str, dict[str, float]]:
    """{region: {metric: value}} of a labelmap against the ground truth, as jobs.evaluate has it.

    truth, prediction: each a NIfTI file by path or URI, or a nibabel image; on one grid. labels: the label
    convention of both; auto: that of the ground truth's file name, BraTS 2023's where it tells no data set.
    rules: year of BraTS whose rules score; auto: the one that the same name, or the convention, tells.
    Raises CaseError where the grids differ or values are not of the convention, UsageError where the releases
    of the data set differ in it.
    """
    from bts.scoring import metrics
    from bts.scoring.rules import RULES, rules_of, year_of

    given: dict[str, object] = {"truth": truth, "prediction": prediction}
    for name, image in given.items():
        if not isinstance(image, Place | nib.Nifti1Image):
            problem = f"{name}: a {type(image).__name__} has no grid; give a path or a nibabel NIfTI image"
            raise UsageError(problem)
    if rules not in ("auto", *RULES):
        raise UsageError(f"rules={rules!r}: give 'auto', {', '.join(map(repr, RULES))}")
    dataset, told = _told_by_name(truth)
    if labels == "auto" and not told and (several := dataset_of(dataset).conventions):
        raise UsageError(
            f"{_name(truth, 'the truth')}: releases of its data set have different labels; "
            f"say labels={' or '.join(map(repr, several))}"
        )
    convention = spelt(labels) if labels != "auto" else told or "brats2023"
    wanted, found = _read(truth, "the truth"), _read(prediction, "the prediction")
    if not found.grid.same_place(wanted.grid):
        problem = f"its grid ({found.grid.describe()}) is not the ground truth's ({wanted.grid.describe()})"
        mend = "resample it to the ground truth's grid"
        raise CaseError(problem, mend=mend, file=_name(prediction, "the prediction"), stage="grid")
    truth_DHW, found_DHW = (to_internal(volume.voxels, convention) for volume in (wanted, found))
    if convention in WRITTEN_AS.values():  # of figshare, whose pixels have no known size
        return metrics.score(truth_DHW, found_DHW, *regions_of(convention))
    by = rules_of(dataset, year_of(dataset, convention) if rules == "auto" else rules)
    return metrics.measure(
        truth_DHW, found_DHW, by.regions, by.where_present, spacing=wanted.grid.zooms, rules=by
    )


def _check_modalities(allowed: Collection[str]) -> None:
    """Raise UsageError for what is no list of modalities: of a name by itself each letter would be one."""
    if isinstance(allowed, str) or not {*allowed} <= {*MODALITIES}:
        raise UsageError(f"allow_missing={allowed!r}: give a list of {', '.join(MODALITIES)}")


def _find(place: Place | Files, case: str, labels: str) -> tuple[Store, Case]:
    """The one case that is meant, and the store that its files lie in. Raises CaseError or UsageError."""
    if isinstance(place, Mapping):
        return _of_files(place, case, labels)
    if not isinstance(place, Place):
        raise UsageError(f"a {type(place).__name__} is no case; {GIVE}")
    store = Store(str(place))
    if store.local and os.path.isfile(store.root):
        raise UsageError(f"{store.uri}: is a file; {GIVE}")
    listing = list_folder(store, labels)
    rows = [figshare.read_index_row(fetch(e.key, store, e.size), e) for e in listing.slices]
    patients, twins = figshare.refuse_twins(figshare.cases_of(rows))
    if problems := [one for one in (*listing.problems, *twins) if case in ("", one.case)]:
        raise problems[0]
    found = {one.id: one for one in (*listing.cases, *patients)}
    if len(found) == 1 and not case:
        case = next(iter(found))
    if not found:
        raise UsageError(f"{store.uri}: no case found; give the folder above it, or the files by role")
    if case not in found:
        there = ", ".join(list(found)[:3]) + (", …" if len(found) > 3 else "")
        raise UsageError(f"{store.uri}: {len(found)} cases ({there}); say which one by case=…")
    return store, found[case]


def _of_files(files: Files, case: str, labels: str) -> tuple[Store, Case]:
    if unknown := files.keys() - {*MODALITIES, "seg", "image"}:
        raise UsageError(f"files: {', '.join(sorted(unknown))} is no role; give {', '.join(MODALITIES)}, seg")
    if images := [role for role, path in files.items() if not isinstance(path, Place)]:
        raise UsageError(f"files: {', '.join(images)} is no path; save the image to a file first")
    uris = {role: Store(str(path)).uri for role, path in files.items()}
    folders = [f"{uri.rpartition('/')[0]}/" for uri in uris.values()]
    # Of text, not of paths: commonpath would make s3:/ of s3://.
    folder = os.path.commonprefix(folders).rpartition("/")[0]  # noqa: RUF071
    entries = {role: Entry(uri.removeprefix(f"{folder}/"), 0, "") for role, uri in uris.items()}
    named = find_cases(entries.values()).cases
    case = case or (named[0].id if len(named) == 1 else "case")
    dataset, told, patient = identify(case, ["msd"] if "image" in files else [])
    convention = told if labels == "auto" else spelt(labels)
    return Store(folder or "/"), Case(case, patient, dataset, "", convention, entries)


def _name(image: Image, else_: str) -> str:
    return str(image) if isinstance(image, Place) else image.get_filename() or else_


def _read(image: Image, else_: str) -> Volume:
    data = read_file(str(image)) if isinstance(image, Place) else image.to_bytes()
    return read_nifti(data, _name(image, else_))


def _told_by_name(image: Image) -> tuple[str, str]:
    """(dataset, label convention) that the name of a file tells; empty where it tells none."""
    path = _name(image, "")
    if cases := find_cases([Entry(path.lstrip("/"), 0, "")]).cases:
        return cases[0].dataset, cases[0].labels
    return identify(path.rpartition("/")[2].removesuffix(".gz").removesuffix(".nii"), [])[:2]
