"""The last stage of jobs.segment: what the networks said → the labelmap, then the marker that makes it count.
No torch."""

import importlib.metadata
import json
import platform
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from bts.cases.case import Case, CaseVolume
from bts.cases.worklist import Todo
from bts.errors import CaseError
from bts.inference.finish import Finish
from bts.inference.options import SegmentOptions
from bts.inference.prediction import Prediction
from bts.labels import TARGETS, spelt
from bts.results.files import SIGNATURE, encode, encode_probabilities
from bts.results.layout import convention_of, held, labelmap_key, marker_key, versions_of
from bts.results.marker import Marker, describe, digest
from bts.storage import Store

FORMAT = 4  # raised when a labelmap changes for the same input and model; part of every fingerprint


class Write:
    """A prediction → labels on the source's grid and in its convention, the labelmap, then the marker."""

    def __init__(
        self,
        cases: Store,
        output: Store,
        models: list[dict],
        finish: Finish,
        options: SegmentOptions,
        *,
        overwrite: bool = False,
    ):
        """cases: where they lie; models: name and digest of each; finish: how a prediction becomes labels.
        overwrite: replace a labelmap that a person has edited, too."""
        self.cases, self.output, self.models, self.finish = cases, output, models, finish
        self.overwrite = overwrite
        self.targets = targets = finish.predicts.targets
        self.options, self.labels = options, spelt(options.labels)
        self.sure_of = tuple(TARGETS[targets]) if options.probabilities else ()
        """Targets whose probabilities are asked for."""
        torch = importlib.metadata.version("torch")
        self.versions = {"format": FORMAT, "torch": torch, "python": platform.python_version()}

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        case = Case.from_json(row["case"])
        volume = self.finish.seen(CaseVolume.outlined(row["outline"], row["volume"]))
        said: Prediction = row["said"]
        labels, flags, expected = self.finish(volume, said, row["noise"])
        whole = volume.whole(labels)
        convention = convention_of(case, self.labels, self.targets)
        digests = "+".join(m["digest"] for m in self.models)
        files = encode(case, whole, volume.grid, convention, SIGNATURE + digests)
        if self.options.hold_flagged and flags:
            files = {held(key): data for key, data in files.items()}
        place = next(iter(files.items()))
        if said.whole is not None:
            sure = volume.whole(said.whole)
            files |= encode_probabilities(case, sure, self.sure_of, volume.grid, SIGNATURE + digests)
        if not self.overwrite:
            self.refuse_edited(case.id, row["older"], row["present"])
        # A marker of older voxels must be gone before they are replaced, or a crash would leave it lying.
        for key in row["older"]:
            self.output.delete(key)
        self.put(files, row["present"])
        seconds = {"read": row["read_s"], "predict": row["predict_s"], "write": time.monotonic() - started}
        marker = Marker(
            **describe(case, whole, volume.grid, convention, *place),
            cases=self.cases.uri,
            fingerprint=row["fingerprint"],
            flags=tuple(flags),
            expected_dice={region: round(of, 3) for region, of in expected.items()},
            seconds={stage: round(s, 3) for stage, s in seconds.items()},
            models=tuple(self.models),
            options=self.options.recorded(case),
            versions=self.versions,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        key = marker_key(case.id, row["fingerprint"])
        self.output.put(key, marker.to_json())
        return {"flags": json.dumps(flags)}

    def refuse_edited(self, case_id: str, older: Iterable[str], present: Iterable[str]) -> None:
        """Raise CaseError where the labelmap that would be replaced is not the one that its marker is of."""
        key = labelmap_key(case_id)
        there = [one for one in (key, held(key)) if one in present]
        try:
            data = [self.output.read(one) for one in there[:1]]  # first: another run deletes the marker first
            markers = [Marker.from_json(self.output.read(one)) for one in older]
        except (OSError, ValueError):
            return  # another run has replaced it meanwhile, or nothing is known of it
        if data and markers and not any(marker.speaks_of(digest(data[0])) for marker in markers):
            problem = "its labelmap was edited since jobs.segment made it, and would be replaced"
            mend = "move it to a folder of its own, or give --overwrite"
            raise CaseError(problem, mend=mend, case=case_id, file=there[0], stage="write")

    def put(self, files: dict[str, bytes], present: Iterable[str]) -> None:
        """Write them all; what else is present of the case is outdated, and goes."""
        for key, data in files.items():
            self.output.put(key, data)
        for key in present:
            if key not in files:
                self.output.delete(key)

    def options_of(self, case: Case) -> dict:
        """What besides its files makes the results of a case."""
        convention = convention_of(case, self.labels, self.targets)
        models = [model["digest"] for model in self.models]
        return {**self.options.recorded(case), "models": models, "labels": convention}

    def made_of(self, one: Todo) -> dict:
        """All that will make a labelmap, as `read_made_of` reads it of an older one."""
        return {"inputs": versions_of(one.case), **self.options_of(one.case), "format": FORMAT}

    def read_made_of(self, key: str) -> dict:
        """What made an older labelmap, by its marker. Raises OSError, ValueError or KeyError."""
        marker = Marker.from_json(self.output.read(key))
        models = [one["digest"] for one in marker.models]
        made_of = {"inputs": marker.versions_read, "models": models, "labels": marker.labels}
        return {**made_of, **marker.options, "format": marker.versions["format"]}
