"""kubernetes/nightly.yaml and the Dockerfile, without an engine: KubeRay's schema, this project's flags."""

import importlib.metadata
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import tyro
import yaml

from jobs import segment

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT.parent / "shared" / "kuberay"


@pytest.fixture
def nightly() -> dict:
    return yaml.safe_load((ROOT / "kubernetes" / "nightly.yaml").read_text())


@pytest.fixture(scope="module")
def schema() -> dict:
    """Of RayCronJob, unknown fields refused, as `kubectl apply` does."""
    if not SCHEMAS.is_dir():
        pytest.skip("no KubeRay schemas on this machine: ../shared/kuberay is absent")
    definition = yaml.safe_load((SCHEMAS / "ray.io_raycronjobs.yaml").read_text())
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: dict) -> dict:
    """The schema without room for fields that it does not name; Kubernetes checks `metadata` itself."""
    schema = {key: closed(value) if isinstance(value, dict) else value for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        schema["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    return schema


def test_kuberay_takes_it(nightly, schema):
    assert [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(nightly)] == []


def test_kuberay_would_refuse_a_misspelt_field(nightly, schema):
    nightly["spec"]["jobTemplate"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(nightly, schema)


def test_the_job_takes_its_flags(nightly):
    words = shlex.split(nightly["spec"]["jobTemplate"]["entrypoint"])
    assert words[:3] == ["python", "-m", "jobs.segment"]
    tyro.cli(segment.Settings, args=words[3:]).check()


def test_one_ray_everywhere_and_one_image(nightly):
    ray = importlib.metadata.version("ray")
    cluster = nightly["spec"]["jobTemplate"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray and cluster["authOptions"]["mode"] == "token"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len({c["image"] for g in groups for c in g["template"]["spec"]["containers"]}) == 1
    assert all(g["template"]["spec"]["serviceAccountName"] for g in groups)
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray}-py311-gpu" in dockerfile
    copied = re.findall(r"^COPY (?:--\S+ )?(\S+) ", dockerfile, re.MULTILINE)
    assert copied == ["requirements.txt", "bts", "jobs"] and all((ROOT / name).exists() for name in copied)
