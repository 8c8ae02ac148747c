"""What is installed where: ranges and lock, container image, Kubernetes. Scripts have `make lint`."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RANGES = {canonicalize_name(one.name): one for one in map(Requirement, PROJECT["project"]["dependencies"])}


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    """By package, the one version in requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if not line.startswith("#")]
    assert all(pins), lines
    return {canonicalize_name(pin[1]): pin[2] for pin in pins}


def test_a_cluster_runs_versions_within_the_ranges(lock):
    outside = {
        name: lock.get(name)
        for name, one in RANGES.items()
        if not one.specifier.contains(lock.get(name, "0"))
    }
    assert outside == {}


def test_each_range_has_a_lowest_version():
    operators = {name: [bound.operator for bound in one.specifier] for name, one in RANGES.items()}
    assert [name for name, bounds in operators.items() if ">=" not in bounds] == []


def test_the_image_makes_each_package_before_it_installs():
    made = re.search(r"mkdir -p ([\w/ ]+)", (ROOT / "Dockerfile").read_text())[1].split()
    packages = {name.replace(".", "/") for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert {
        folder for folder in packages if not any(one.startswith(f"{folder}/") for one in packages)
    } <= set(made)
    assert set(made) <= packages


class TestKubernetes:
    @pytest.fixture
    def job(self) -> dict:
        return yaml.safe_load((ROOT / "kubernetes" / "sweep.yaml").read_text())

    @pytest.fixture
    def templates(self, job) -> list[dict]:
        cluster = job["spec"]["rayClusterSpec"]
        return [
            cluster["headGroupSpec"]["template"],
            *(one["template"] for one in cluster["workerGroupSpecs"]),
        ]

    def test_the_job_has_the_fields_of_a_ray_job(self, job):
        schema = json.loads((ROOT / "tests" / "cluster" / "rayjob.json").read_text())
        jsonschema.validate(job, schema)
        job["spec"]["entryPoint"] = job["spec"].pop("entrypoint")
        with pytest.raises(jsonschema.ValidationError, match="entrypoint"):
            jsonschema.validate(job, schema)

    def test_its_pods_are_pods(self, templates):
        for template in templates:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": template["spec"]}
            kubernetes_validate.validate(pod, "1.31", strict=True)
            pod["spec"]["containers"][0]["volumeMount"] = []
            with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
                kubernetes_validate.validate(pod, "1.31", strict=True)

    def test_it_says_the_version_of_ray_that_the_image_has(self, job, lock):
        assert job["spec"]["rayClusterSpec"]["rayVersion"] == lock["ray"]

    def test_only_pods_with_the_token_may_use_it(self, job):
        assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}

    def test_all_pods_run_one_image_on_one_volume(self, templates):
        specs = [template["spec"] for template in templates]
        assert len({spec["containers"][0]["image"] for spec in specs}) == 1
        assert all(spec["volumes"] == specs[0]["volumes"] for spec in specs)
        mounts = [
            {one["name"]: one["mountPath"] for one in spec["containers"][0]["volumeMounts"]} for spec in specs
        ]
        assert all(paths == {"shared": "/shared", "memory": "/dev/shm"} for paths in mounts)
