"""MLflow in one place: a run per training, its curves, and its model as a registered version.

Every call names the run by its id and goes through a client, so there is no hidden "active run". One process
logs (the driver of a job): many processes on one SQLite file would lock each other out. Without
MLFLOW_TRACKING_URI all goes to `mlflow.db` and `mlartifacts/` in the current directory.
"""

import contextlib
import functools
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bts.errors import RunError, UsageError
from bts.mlflow_client import local_folder, lost_file, open_client, reason, without_login

EXPERIMENT = "bts"
FINGERPRINT = "bts.fingerprint"  # tag by which a resumed training finds its run again
CHAMPION = "champion"
PARAMS_A_CALL, METRICS_A_CALL, LONGEST_VALUE = 100, 1000, 6000  # MLflow's own limits
REST = 10  # times as long as a failed call took
_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered model."""

    name: str
    number: str
    digest: str
    """Of its file; empty if another program registered it."""
    run_id: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


def _or_run_error(method):
    """Turn whatever a kind of store raises into a RunError of one line, without the login of its URI."""

    @functools.wraps(method)
    def asked(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except (RunError, UsageError):
            raise
        except Exception as error:
            raise RunError(f"MLflow at {self.place}: {reason(error, self.uri)}") from None

    return asked


class Tracker:
    """The tracking server or file of one process. Raises RunError when it cannot be used."""

    @_or_run_error
    def __init__(self, uri: str | None = None):
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{os.path.abspath('mlflow.db')}"
        self.client = open_client(self.uri, EXPERIMENT)
        self.late: dict[str, list] = {}  # points of each run that were not taken yet
        self.rests = 0.0  # until when, by time.monotonic

    @_or_run_error
    def start(
        self,
        name: str,
        fingerprint: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        *,
        fresh: bool = False,
    ) -> str:
        """Id of a new run, or, unless `fresh`, of the newest with this name and fingerprint, which goes on
        where it was cut off."""
        experiment = self._experiment()
        same = f"tags.`{FINGERPRINT}` = '{fingerprint}' AND attributes.run_name = '{name}'"
        found = [] if fresh else self.client.search_runs([experiment], same, max_results=1)
        if found:
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0].info.run_id
        run = self.client.create_run(experiment, run_name=name, tags={FINGERPRINT: fingerprint, **tags})
        self._log_params(run.info.run_id, params)
        return run.info.run_id

    @_or_run_error
    def log(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """One point of each curve. A store that failed is left alone for ten times as long as that took, for
        a training would wait for it at every epoch; its points go with the next that it takes."""
        from mlflow.entities import Metric

        now, began = int(time.time() * 1000), time.monotonic()
        points = self.late.setdefault(run_id, [])
        points += [Metric(key, float(value), now, step) for key, value in metrics.items()]
        if began < self.rests:
            raise RunError(f"MLflow at {self.place} failed, and is asked again in {self.rests - began:.0f} s")
        try:
            for start in range(0, len(points), METRICS_A_CALL):
                self.client.log_batch(run_id, metrics=points[start : start + METRICS_A_CALL])
        except Exception:
            self.rests = time.monotonic() + REST * (time.monotonic() - began)
            raise
        points.clear()

    @_or_run_error
    def attach(self, run_id: str, name: str, data: bytes, folder: str = "") -> None:
        """Keep one small file with the run."""
        with tempfile.TemporaryDirectory() as here:
            path = Path(here, name)
            path.write_bytes(data)
            self.client.log_artifact(run_id, str(path), folder or None)

    @_or_run_error
    def register(
        self,
        run_id: str,
        name: str,
        data: bytes,
        digest: str,
        tags: Mapping[str, str] | None = None,
        modalities: Sequence[str] = (),
    ) -> str:
        """Keep a model file with the run, as the next version of the registered model `name`.

        The same bytes of the same run are registered once. The first version ever becomes the champion;
        later ones have to earn it (jobs.promote). tags: of the version; modalities: what its signature asks.
        """
        for version in self.client.search_model_versions(f"name = '{name}'"):
            if version.run_id == run_id and version.tags.get("digest") == digest:
                return str(version.version)
        self.attach(run_id, f"{name}.safetensors", data, folder=f"model-{digest}")
        if modalities:
            self.attach(run_id, "MLmodel", _description(run_id, name, digest, modalities), f"model-{digest}")
        model = self._registered(name)
        source = f"{self.client.get_run(run_id).info.artifact_uri}/model-{digest}"
        tags = {**(tags or {}), "digest": digest}
        version = self.client.create_model_version(name, source, run_id, tags=tags).version
        if CHAMPION not in model.aliases:
            self.client.set_registered_model_alias(name, CHAMPION, version)
        return str(version)

    @_or_run_error
    def log_evaluation(
        self, run_id: str, report: str, means: Mapping[str, float], files: Mapping[str, bytes]
    ) -> None:
        """Scores of the run's model, and the report's files, under `evaluate/REPORT` of the run."""
        place = f"evaluate/{re.sub(r'[^A-Za-z0-9_.-]', '_', report)}"  # what MLflow takes as a key
        self.log(run_id, {f"{place}/{name}": value for name, value in means.items()}, step=0)
        for name, data in files.items():
            self.attach(run_id, name, data, folder=place)

    @_or_run_error
    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """FINISHED, FAILED or KILLED."""
        self.rests = 0.0
        if self.late.get(run_id):
            self.log(run_id, {}, step=0)
        self.client.set_terminated(run_id, status)

    @_or_run_error
    def find(self, digest: str) -> list[Version]:
        """The registered versions of a model file, oldest first, by its digest."""
        found = self.client.search_model_versions(f"tags.digest = '{digest}'")
        return [_version(one) for one in sorted(found, key=lambda one: one.creation_timestamp)]

    @_or_run_error
    def version(self, uri: str) -> Version:
        """What `models:/NAME@ALIAS` or `models:/NAME/VERSION` names. Raises UsageError if there is none."""
        from mlflow.exceptions import MlflowException

        parts = _MODEL_URI.fullmatch(uri)
        if not parts:
            raise UsageError(f"{uri}: name a registered model as models:/NAME@ALIAS or models:/NAME/VERSION")
        name, alias, number = parts["name"], parts["alias"], parts["version"]
        try:
            if alias:
                return _version(self.client.get_model_version_by_alias(name, alias))
            return _version(self.client.get_model_version(name, number))
        except MlflowException as error:
            raise UsageError(f"{uri}: not found in {self.place}: {reason(error, self.uri)}") from None

    @_or_run_error
    def holder(self, name: str, alias: str) -> Version | None:
        """The version of the registered model `name` that has the alias, if any has."""
        aliases = self.client.get_registered_model(name).aliases
        return self.version(f"models:/{name}@{alias}") if alias in aliases else None

    @_or_run_error
    def promote(self, version: Version, alias: str, why: str) -> None:
        """Give the alias to this version; its tag `promoted.ALIAS` says since when and why."""
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.client.set_model_version_tag(
            version.name, version.number, f"promoted.{alias}", f"{since} {why}"[:LONGEST_VALUE]
        )
        self.client.set_registered_model_alias(version.name, alias, version.number)

    def read(self, uri: str) -> bytes:
        """The .safetensors file behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`. Raises UsageError."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        found = self.version(uri)
        try:
            source = self.client.get_model_version_download_uri(found.name, found.number)
            if gone := lost_file(source):
                raise UsageError(
                    f"{uri}: its file is to lie in {gone}, and nothing is there; if the project folder was "
                    f"moved, move it back, or give the model's file itself, MODELS/{found.name}.safetensors"
                )
            with tempfile.TemporaryDirectory() as here:
                folder = download_artifacts(artifact_uri=source, dst_path=here, tracking_uri=self.uri)
                files = sorted(Path(folder).rglob("*.safetensors"))
                if len(files) != 1:
                    raise UsageError(f"{uri}: holds {len(files)} .safetensors files, a model of ours has one")
                return files[0].read_bytes()
        except (MlflowException, OSError) as error:
            raise UsageError(f"{uri}: not found in {self.place}: {reason(error, self.uri)}") from None

    @property
    def place(self) -> str:
        """Its URI, as it may be shown."""
        return without_login(self.uri)

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found:
            return found.experiment_id
        # A tracking server knows its own artifact store; a local database must be told, or it would use the
        # working directory of whichever process asks.
        local = local_folder(self.uri)
        place = Path(local, "mlartifacts").resolve().as_uri() if local else None
        try:
            return self.client.create_experiment(EXPERIMENT, artifact_location=place)
        except Exception:
            # Another training may have made it since it was looked for.
            if found := self.client.get_experiment_by_name(EXPERIMENT):
                return found.experiment_id
            raise

    def _registered(self, name: str):
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(name)
        except MlflowException:
            with contextlib.suppress(MlflowException):  # another training may have made it since
                return self.client.create_registered_model(name)
            return self.client.get_registered_model(name)

    def _log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        items = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in params.items()]
        for start in range(0, len(items), PARAMS_A_CALL):
            self.client.log_batch(run_id, params=items[start : start + PARAMS_A_CALL])


def is_there() -> bool:
    """Whether a server is configured, or this folder has a database: a new one is made by trainings alone."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or os.path.exists("mlflow.db")


def open_registry(model: str) -> Tracker:
    """Where a registered model is looked for. Raises UsageError where there is none; a new one were empty."""
    if not is_there():
        problem = f"{model}: MLFLOW_TRACKING_URI is not set, and {os.getcwd()} has no mlflow.db"
        raise UsageError(f"{problem}; set it to the server that has the model")
    return Tracker()


def flatten(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings → {"loss.smooth": 1.0, …}, the names of the flags."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _version(of) -> Version:
    return Version(of.name, str(of.version), of.tags.get("digest", ""), of.run_id or "")


def _description(run_id: str, name: str, digest: str, modalities: Sequence[str]) -> bytes:
    """The MLmodel file: MLflow's page of a version shows its signature. Volumes are (D, H, W)."""
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    volume = (-1, -1, -1)
    inputs = Schema([TensorSpec(np.dtype(np.float32), volume, modality) for modality in modalities])
    outputs = Schema([TensorSpec(np.dtype(np.uint8), volume, "labels")])
    described = Model(f"model-{digest}", run_id, signature=ModelSignature(inputs, outputs))
    described.add_flavor("bts", model=f"{name}.safetensors")
    return described.to_yaml().encode()
