"""kubernetes/ and the Dockerfile, without an engine: KubeRay's schemas, this project's flags."""

import copy
import importlib
import importlib.metadata
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import tyro
import yaml

from bts.presets import PRESETS
from jobs import train

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT.parent / "shared" / "kuberay"
MANIFESTS = {
    f"{file.name} {document['kind']} {document['metadata']['name']}": document
    for file in sorted((ROOT / "kubernetes").glob("*.yaml"))
    for document in yaml.load_all(file.read_text(), yaml.CSafeLoader)
}
RAYS = {name: of for name, of in MANIFESTS.items() if of["apiVersion"] == "ray.io/v1"}


@cache
def schema_of(kind: str) -> dict:
    """Of a resource of KubeRay, unknown fields refused, as `kubectl apply` does."""
    if not SCHEMAS.is_dir():
        pytest.skip("no KubeRay schemas on this machine: ../shared/kuberay is absent")
    definition = yaml.load((SCHEMAS / f"ray.io_{kind.lower()}s.yaml").read_text(), yaml.CSafeLoader)
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


def found(node, key: str) -> Iterator:
    """Every value of that key, however deep."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for value in node.values():
            yield from found(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from found(value, key)


def test_there_is_one_of_each_kind():
    kinds = [of["kind"] for of in MANIFESTS.values()]
    assert sorted(kinds) == ["CronJob", "RayCluster", "RayCronJob", *["RayJob"] * 4, "ServiceAccount"]


@pytest.mark.parametrize("name", RAYS)
def test_kuberay_takes_it(name):
    validator = jsonschema.Draft202012Validator(schema_of(RAYS[name]["kind"]))
    assert [error.message for error in validator.iter_errors(RAYS[name])] == []


def test_kuberay_would_refuse_a_misspelt_field():
    cluster = copy.deepcopy(RAYS["cluster.yaml RayCluster bts"])
    cluster["spec"]["workerGroupSpecs"][0]["maxReplica"] = 1
    (error,) = jsonschema.Draft202012Validator(schema_of("RayCluster")).iter_errors(cluster)
    assert "maxReplica" in error.message


@pytest.mark.parametrize("name", [name for name, of in MANIFESTS.items() if of["kind"].endswith("Job")])
def test_the_job_takes_its_flags(name):
    manifest = MANIFESTS[name]
    entrypoint = next(found(manifest, "entrypoint"), None)
    words = shlex.split(entrypoint) if entrypoint else next(found(manifest, "args"))
    assert words[:2] == ["python", "-m"] and words[2].startswith("jobs.")
    job = importlib.import_module(words[2])
    if job is train:
        assert words[3] in PRESETS
        default = train.Settings(shards=tyro.MISSING, models=tyro.MISSING, preset=PRESETS[words[3]])
        tyro.cli(train.Settings, args=words[4:], default=default)
    else:
        tyro.cli(job.Settings, args=words[3:])


def test_one_ray_everywhere_and_one_image():
    ray = importlib.metadata.version("ray")
    assert set(found(RAYS, "rayVersion")) == {ray}
    assert set(found(MANIFESTS, "image")) == {"REGISTRY/bts:1"}
    assert all(options["mode"] == "token" for options in found(RAYS, "authOptions"))
    workers = [group for groups in found(RAYS, "workerGroupSpecs") for group in groups]
    account = MANIFESTS["cluster.yaml ServiceAccount bts"]["metadata"]["name"]
    for group in (*found(RAYS, "headGroupSpec"), *workers):
        assert group["template"]["spec"]["serviceAccountName"] == account
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray}-py311-gpu" in dockerfile
    copied = re.findall(r"^COPY (?:--\S+ )?(\S+) ", dockerfile, re.MULTILINE)
    assert copied == ["requirements.txt", "bts", "jobs"] and all((ROOT / name).exists() for name in copied)


def test_jobs_find_the_cluster_and_its_token():
    name = RAYS["cluster.yaml RayCluster bts"]["metadata"]["name"]
    assert {of["ray.io/cluster"] for of in found(RAYS, "clusterSelector")} == {name}
    nightly = MANIFESTS["cronjob.yaml CronJob bts-nightly"]
    assert f"http://{name}-head-svc:8265" in next(found(nightly, "command"))
    assert next(found(nightly, "secretKeyRef")) == {"name": name, "key": "auth_token"}
