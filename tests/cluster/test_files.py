"""The cluster's files say what Ray understands, and copy what a node needs."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config  # Ray has no public check

ROOT = Path(__file__).resolve().parents[2]
FILES = ("cluster.yaml", "cluster-onprem.yaml")


@pytest.fixture(params=FILES)
def config(request) -> dict:
    return yaml.safe_load((ROOT / request.param).read_text())


def test_ray_understands_it(config):
    validate_config(prepare_config(config))


def test_a_node_gets_what_the_installation_and_the_jobs_read(config):
    mounts = {remote: local for remote, local in config["file_mounts"].items() if "transfer" in remote}
    assert all(remote == f"~/transfer/{local}" for remote, local in mounts.items())
    assert all((ROOT / local).exists() for local in mounts.values())
    needed = {"study", "jobs", "studies", "setup.sh", "requirements.txt", "pyproject.toml"}
    assert needed <= set(mounts.values())


def test_only_who_has_the_token_may_use_it_and_only_through_ssh(config):
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "IpPermissions" not in config["provider"].get("security_group", {})


def test_both_files_copy_and_install_the_same():
    cloud, onprem = (yaml.safe_load((ROOT / file).read_text()) for file in FILES)
    assert cloud["file_mounts"] == onprem["file_mounts"]
    assert cloud["setup_commands"][1:] == onprem["setup_commands"][1:]
    assert cloud["setup_commands"][0].replace("PYTHON=python3.11 ", "") == onprem["setup_commands"][0]
