"""What jobs.deliver does inside tasks: a labelmap back on the scanner's grid, as NIfTI and as DICOM SEG.

Not a command.
"""

import json
from datetime import UTC, datetime

from bts.cases.case import Case
from bts.errors import CaseError
from bts.fingerprint import fingerprint
from bts.intake import dicom_seg
from bts.intake.native import on_case_grid, to_native, volumes_ml, write_labels
from bts.plain_json import parse
from bts.results.layout import marker_key
from bts.results.marker import NOT_TOLD, digest
from bts.results.match import Pair, read_vouched
from bts.storage import Store, trouble

FORMAT = 1  # raised when a delivered labelmap changes for the same inputs


def native_key(case_id: str, space: str) -> str:
    """The labelmap on the grid of a series."""
    return f"{case_id}/{case_id}-seg-{space}.nii.gz"


def seg_key(case_id: str, space: str) -> str:
    """The DICOM SEG that refers to it."""
    return f"{case_id}/{case_id}-seg-{space}.dcm"


def mark_of(case: Case, space: str, dicom_seg: bool) -> str:
    """The fingerprint of what is delivered of a labelmap."""
    options = {"case": case.id, "space": space, "dicom_seg": dicom_seg}
    return fingerprint(case.versions, options=options, version=FORMAT)


class Deliver:
    """One labelmap → its files in the scanner's space, then the result record."""

    def __init__(self, labelmaps: Store, cases: Store, output: Store, space: str, dicom: bool):
        self.labelmaps, self.cases, self.output = labelmaps, cases, output
        self.space, self.dicom = space, dicom

    def __call__(self, row: dict) -> dict:
        """Raises CaseError."""
        case, scans = Case.from_json(row["case"]), json.loads(row["scans"])
        dicom = self.dicom and not scans["nifti"]
        files, record = self.make(case, row["made_case"], scans, dicom)
        for key in row["older"]:
            self.output.delete(key)
        for key, data in files.items():
            self.output.put(key, data)
        mark = mark_of(case, self.space, dicom)
        record |= {"fingerprint": mark, "written": datetime.now(UTC).isoformat(timespec="seconds")}
        self.output.put(marker_key(case.id, mark), json.dumps(record, indent=1).encode())
        if self.dicom and not dicom:
            problem = "its scans came as NIfTI, without the DICOM headers that a DICOM SEG refers to"
            mend = f"its NIfTI is delivered ({native_key(case.id, self.space)}); leave out --dicom-seg"
            raise CaseError(problem, mend=mend, case=case.id, stage="seg")
        return {"flags": json.dumps(record["flags"])}

    def make(self, case: Case, made_case: str, scans: dict, dicom: bool) -> tuple[dict[str, bytes], dict]:
        """(files, result record); made_case: JSON of the case as jobs.segment lists it, empty
        where its images are not there; dicom: a DICOM SEG among the files. Raises CaseError."""
        name = case.files["labelmap"].key
        record = _read_record(case, self.cases)
        volume, markers, of_bytes = read_vouched(_pair(case, made_case), self.cases, self.labelmaps)
        labels = on_case_grid(volume, name, record)
        native = to_native(labels, record, self.space)
        files = {native_key(case.id, self.space): write_labels(native)}
        models = [dict(model) for marker in markers[:1] for model in marker.models]
        if dicom:
            if not scans["keys"]:
                raise CaseError(scans["problem"], mend="deliver without --dicom-seg", stage="seg")
            source = Store(scans["uri"])
            datasets = dicom_seg.read_source([_read(source, key, "a source file") for key in scans["keys"]])
            lattice, places = dicom_seg.lattice_of(datasets)
            on_slices = to_native(labels, record, self.space, lattice)
            maker = "+".join(str(one["name"]).rpartition("/")[2] for one in models) or "labelmap"
            version = "+".join(str(one["digest"]) for one in models) or of_bytes[:12]
            by_model = bool(models) and not any(one["digest"] == NOT_TOLD for one in models)
            files[seg_key(case.id, self.space)] = dicom_seg.write_seg(
                datasets, on_slices, places, maker, version, by_model=by_model
            )
        before, after = volumes_ml(labels), volumes_ml(native)
        told = {
            "case_id": case.id,
            "space": self.space,
            "series_uid": record["series"][self.space].get("uid", ""),
            "volumes_ml": {"case": before, "scanner": after},
            "change_percent": {r: _change(before[r], after[r]) for r in before},
            "flags": [*record["flags"], *(flag for marker in markers[:1] for flag in marker.flags)],
            "models": models,
            "inputs": case.versions,
            "options": {"space": self.space, "dicom_seg": dicom},
            "versions": {"format": FORMAT},
            "files": {key: digest(data) for key, data in files.items()},
        }
        return files, told


def _pair(case: Case, made_case: str) -> Pair:
    """The labelmap and the case that it must be of."""
    if not made_case:
        problem = "the images of its case are not in their folder: the case waits for review, or was deleted"
        raise CaseError(problem, mend="move the case up from _held/ and run jobs.segment", stage="read")
    markers = tuple(entry.key for role, entry in case.files.items() if role.startswith("marker"))
    return Pair(Case.from_json(made_case), case.files["labelmap"].key, markers)


def _read_record(case: Case, cases: Store) -> dict:
    """What jobs.intake left. Raises CaseError."""
    key = case.files["record"].key
    if "record2" in case.files:
        problem = "jobs.intake left two records of the case, for two of its runs overlapped"
        raise CaseError(problem, mend="run jobs.intake again, then jobs.segment", file=key, stage="read")
    try:
        return {**parse(_read(cases, key, "the record of jobs.intake"))}
    except (ValueError, TypeError):
        problem = "the record of jobs.intake is spoilt"
        raise CaseError(problem, mend="delete it and run jobs.intake again", file=key, stage="read") from None


def _change(before: float, after: float) -> float | None:
    return round(100 * (after - before) / before, 1) if before else None


def _read(store: Store, key: str, what: str) -> bytes:
    """Keys of scans hold names: `what` stands for them. Raises CaseError."""
    try:
        return store.read(key)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        problem = f"{what} cannot be read ({reason})"
        raise CaseError(problem, mend="copy it again", stage="read", kind=trouble(error)) from None
