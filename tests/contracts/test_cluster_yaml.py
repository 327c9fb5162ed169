"""The clusters of `ray up` as it reads them, without a cloud: Ray's own schema, defaults and checks."""

import importlib.metadata
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tyro
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs import segment

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
AT_HAND = (ROOT / "cluster-local.yaml").read_text()


@pytest.fixture
def token(tmp_path, monkeypatch) -> None:
    """What `ray get-auth-token --generate` leaves where `ray up` is called."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a token")


@pytest.fixture
def config(token) -> dict:
    return prepare_config(yaml.safe_load(TEXT))


def test_ray_accepts_it(config):
    validate_config(config)
    assert config["provider"]["type"] == "aws"
    assert sum(t["max_workers"] for n, t in config["available_node_types"].items() if n != "head") <= 12


def test_ray_would_refuse_a_misspelt_field(config):
    config["available_node_types"]["cpu-spot"]["max_worker"] = 1
    with pytest.raises(Exception, match="max_worker"):
        validate_config(config)


def test_nothing_runs_until_a_job_asks(config):
    workers = {name: kind for name, kind in config["available_node_types"].items() if name != "head"}
    assert [kind["min_workers"] for kind in workers.values()] == [0] * len(workers)
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    for kind in workers.values():
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_nodes_reach_the_bucket_by_their_role_and_carry_no_keys(config):
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["IamInstanceProfile"]["Arn"]
    assert not re.search(r"AKIA|aws_secret|secret_access_key", TEXT, re.IGNORECASE)


def test_all_nodes_run_the_ray_of_the_requirements(config):
    ray = importlib.metadata.version("ray")
    images = re.findall(r"rayproject/ray:([\d.]+)-py311", TEXT)
    assert len(images) == 3 and set(images) == {ray}
    assert f"ray[default]=={ray}" in TEXT
    mounts = config["file_mounts"]
    assert mounts.pop("/home/ray/requirements.txt") == "requirements.txt"
    assert mounts.pop("/home/ray/.ray/auth_token").endswith(".ray/auth_token")
    assert mounts == {"/home/ray/nightly/bts": "bts", "/home/ray/nightly/jobs": "jobs"}
    requirements = (ROOT / "requirements.txt").read_text()
    assert re.search(rf"^ray\[.*\]=={re.escape(ray)}\b", requirements, re.MULTILINE)


def test_the_head_s_crontab_is_sound_and_the_job_takes_its_flags(config):
    (command,) = (c for c in config["head_setup_commands"] if "crontab" in c)
    crontab = subprocess.run(
        ["bash", "-c", command.removesuffix("| crontab -")], capture_output=True, text=True, check=True
    ).stdout
    path, line = crontab.splitlines()
    assert path.startswith("PATH=/")
    start = "cd /home/ray/nightly && RAY_AUTH_MODE=token flock -n /home/ray/nightly.lock ray job submit "
    assert line.startswith(f"0 2 * * * {start}")
    assert "%" not in line.replace("\\%", "")  # cron would read it as a new line
    flags = line.partition("jobs.segment ")[2].partition(" >")[0]
    settings = tyro.cli(segment.Settings, args=shlex.split(flags))
    settings.check()
    assert settings.model[0].startswith("s3://")  # there is no tracking server that knows models:/


@pytest.mark.parametrize("text", [TEXT, AT_HAND])
def test_every_node_starts_with_the_token(text, token):
    found = prepare_config(yaml.safe_load(text))
    for kind in ("head", "worker"):
        assert "RAY_AUTH_MODE=token" in found[f"{kind}_start_ray_commands"][-1]
    assert any(place.endswith(".ray/auth_token") for place in found["file_mounts"])


def test_ray_accepts_the_one_of_machines_at_hand(token):
    found = prepare_config(yaml.safe_load(AT_HAND))
    validate_config(found)
    assert found["max_workers"] == len(found["provider"]["worker_ips"])
    head, worker = (found[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker"))
    assert "--num-cpus=0" in head and "--autoscaling-config=" in head and "$RAY_HEAD_IP:6379" in worker
    for command in (head, worker):  # a job's `python` is the one that ray's own process finds
        assert re.search(r"PATH=\S*/bts/\.venv/bin:\\?\$PATH RAY_AUTH_MODE=token ray start", command)


@pytest.mark.parametrize("text", [TEXT, AT_HAND])
def test_every_value_to_change_is_marked_and_explained_at_the_top(text):
    head, _, body = text.partition("\ncluster_name")
    marked = set(re.findall(r"CHANGE \((\d)\)", body))
    assert marked == set(re.findall(r"^#   (\d)\. ", head, re.MULTILINE))
