"""A study as its scanner saw it, to look at: one series in its own voxels, all else brought onto its grid.

The scans are read again from where they lie. Of DICOM the index of jobs.intake tells the files of a series,
of NIfTI their names do.
"""

from functools import cached_property

import nibabel as nib
import numpy as np

from bts.errors import CaseError
from bts.images.grid import Volume
from bts.images.nifti import read_nifti
from bts.intake.convert import convert
from bts.intake.grids import Image, Lattice, resample
from bts.intake.identity import Identity
from bts.intake.index import series_files
from bts.intake.native import to_native
from bts.intake.rules import read_rules
from bts.intake.studies import Study, find_studies, sort_entries
from bts.modalities import MODALITIES
from bts.plain_json import parse
from bts.results.layout import MARKER
from bts.storage import Store

MAY_LACK = tuple(modality for modality in MODALITIES if modality != "t1ce")  # which a study may be without


class NativeView:
    """The volumes of cases that jobs.intake made, on the grid of the series of one modality."""

    def __init__(self, scans: Store, cases: Store, identity: Identity, space: str):
        """identity: how jobs.intake named the cases. Raises RunError where a store cannot be listed."""
        self.scans, self.cases, self.identity, self.space = scans, cases, identity, space
        self.there = [entry.key for entry in cases.list()]
        named = ((MARKER.fullmatch(key), key) for key in self.there)
        self.records = {found["case"]: key for found, key in named if found}
        self.entries = sort_entries(scans.list())

    @cached_property
    def dicoms(self) -> dict[tuple[str, str], list[str]]:
        """(Study, Series Instance UID) → keys of its files."""
        keys = {self.identity.opaque(entry.key): entry.key for entry in self.entries[1]}
        rows = series_files(self.cases, self.there)
        return {uid: [keys[file] for file in files if file in keys] for uid, files in rows.items()}

    @cached_property
    def niftis(self) -> dict[str, Study]:
        """Case id → its study, of those that came as NIfTI."""
        found = find_studies(self.entries[0], {}, [], self.identity, read_rules(), MAY_LACK)
        return {study.case_id: study for study in found.studies}

    def image(self, case_id: str, role: str) -> Volume:
        """The scan of a modality. Raises CaseError."""
        record = self._record(case_id)
        self._told(record, role, case_id)
        uid = record["series"][role].get("uid", "")
        if uid:
            keys = self.dicoms.get((record["study_uid"], uid), [])
        else:
            study = self.niftis.get(case_id)
            keys = [entry.key for entry in study.files[role]] if study else []
        try:
            files = [self.scans.read(key) for key in keys]
        except OSError:
            files = []
        if not files:
            problem = f"the scans of {role} are not below {self.scans.uri} any more"
            raise CaseError(problem, mend="look at the case in its own space", case=case_id, stage="read")
        scan = convert(files, role, dicom=bool(uid))
        if role == self.space:
            return _volume(scan)
        onto = Lattice.from_json(record["series"][self.space]["native"])
        back = np.linalg.inv(np.array(record["series"][self.space]["matrix"]))
        moved = np.array(record["series"][role]["matrix"]) @ back
        return _volume(Image(resample(scan, onto, moved).astype(np.float32), onto))

    def labels(self, case_id: str, labels: Volume) -> Volume:
        """A labelmap of the case, labels of the project. Raises CaseError."""
        record = self._record(case_id)
        self._told(record, self.space, case_id)
        voxels = np.ascontiguousarray(labels.voxels)
        image = Image(voxels, Lattice(voxels.shape, labels.grid.canonical_affine))
        return _volume(to_native(image, record, self.space))

    def _record(self, case_id: str) -> dict:
        try:
            return parse(self.cases.read(self.records[case_id]))
        except (KeyError, OSError, ValueError):
            problem = "jobs.intake left no record of it that can be read"
            raise CaseError(problem, mend="look at it in its own space", case=case_id, stage="read") from None

    def _told(self, record: dict, role: str, case_id: str) -> None:
        for one in (role, self.space):
            if one not in record["series"]:
                there = ", ".join(record["series"])
                raise CaseError(f"the study has no {one}", mend=f"it has {there}", case=case_id, stage="read")


def _volume(image: Image) -> Volume:
    """The same on its canonical grid."""
    return read_nifti(nib.Nifti1Image(image.voxels.T, image.lattice.affine).to_bytes(), "image")
