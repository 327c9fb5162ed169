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
from bts.inference.finish import Finish
from bts.inference.options import SegmentOptions
from bts.inference.prediction import Prediction
from bts.labels import TARGETS, spelt
from bts.results.files import SIGNATURE, encode, encode_probabilities, refuse_edited
from bts.results.layout import convention_of, held, labelmap_key, marker_key, versions_of
from bts.results.marker import Marker, describe
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
            key = labelmap_key(case.id)
            key = key if key in row["present"] else held(key)
            mend = "move it to a folder of its own, or give --overwrite"
            refuse_edited(key, row["older"], self.output, mend)
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
