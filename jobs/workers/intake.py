"""What jobs.intake does inside tasks: read the tags of files, make the case of a study.

Not a command. A row carries a study as JSON. No key of a scan leaves these tasks in a message, for keys hold
names.
"""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

from bts.cases.case import Case
from bts.errors import CaseError, Failure
from bts.images.checks import MAX_BYTES
from bts.intake import quality
from bts.intake.identity import Identity
from bts.intake.index import read_row
from bts.intake.rules import Rules
from bts.intake.study_to_case import Options, take_in
from bts.results.layout import held, marker_key
from bts.storage import Entry, Store, trouble

MOST_BYTES = 4 * MAX_BYTES  # of the series of one study


class ReadTags:
    """Some files → their rows of the index."""

    def __init__(self, source: Store, identity: Identity, rules: Rules):
        self.source, self.identity, self.rules = source, identity, rules

    def __call__(self, row: dict) -> dict:
        rows, failures = [], []
        for told in json.loads(row["entries"]):
            entry = Entry(**told)
            file = self.identity.opaque(entry.key)
            try:
                rows.append(asdict(read_row(entry, file, self.source, self.identity, self.rules)))
            except CaseError as error:
                failure = Failure.of(error, f"file {file}", "index")
                failures.append(replace(failure, message=f"file {file}: {error}").to_dict())
        return {"rows": json.dumps(rows), "failures": json.dumps(failures)}


class MakeCase:
    """One study → its case, masks and check picture; its record, which makes it count, last. Raises
    CaseError."""

    def __init__(self, source: Store, output: Store, options: Options, hold: bool):
        self.source, self.output, self.options, self.hold = source, output, options, hold

    def __call__(self, row: dict) -> dict:
        import torch

        torch.set_num_threads(1)  # cases run side by side, one a core
        case, study = Case.from_json(row["case"]), json.loads(row["study"])
        try:
            taken = take_in(case.id, self.fetch(case), self.options, dicom=bool(study["uid"]))
        except RuntimeError as error:  # of ITK or torch, on images that nobody foresaw
            problem = f"its images could not be worked on ({str(error).strip().splitlines()[-1][:200]})"
            raise CaseError(problem, mend="look at the scans", stage="intake") from error
        numbers = {role: told["number"] for role, told in study["series"].items()} if study["uid"] else {}
        flags = taken.record["flags"]
        warnings = [*quality.of_names(study["also"]), *quality.of_order(numbers), *flags]
        hold = self.hold and warnings
        files = {
            held(key) if hold and not key.startswith("_") else key: data for key, data in taken.files.items()
        }
        # What is older must be gone first: a crash would leave a record of other voxels, or images of two
        # versions of the study, which look like a case to jobs.segment.
        for key in (*row["older"], *row["present"]):
            self.output.delete(key)
        for key, data in files.items():
            self.output.put(key, data)
        record = taken.record
        for role, told in record["series"].items():
            told |= study["series"][role] | {"files": sum(name.startswith(f"{role}/") for name in case.files)}
        record |= {
            "fingerprint": row["fingerprint"],
            "patient": case.patient,
            "scans": self.source.uri,
            "study_uid": study["uid"],
            "inputs": study["inputs"],
            "flags": warnings,
            "held": bool(hold),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.output.put(marker_key(case.id, row["fingerprint"]), json.dumps(record, indent=1).encode())
        return {"flags": json.dumps(warnings)}

    def fetch(self, case: Case) -> dict[str, list[bytes]]:
        """{modality: its files}. Raises CaseError without their keys."""
        scans: dict[str, list[bytes]] = {}
        if case.bytes > MOST_BYTES:
            problem = f"its series have {case.bytes / 2**30:.0f} GiB together, no study of a head has"
            raise CaseError(problem, mend="look at the scans", case=case.id, stage="read")
        for name, entry in sorted(case.files.items()):
            role = name.partition("/")[0]
            try:
                scans.setdefault(role, []).append(self.source.read(entry.key))
            except OSError as error:
                reason = error.strerror or type(error).__name__
                problem = f"a file of {role} cannot be read ({reason})"
                raise CaseError(
                    problem, mend="copy the study again", case=case.id, stage="read", kind=trouble(error)
                ) from None
        return scans
