"""Ray, as the jobs use it: the cluster they are on if there is one, else this machine."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import ray

from study.errors import StudyError
from study.spec import Resources


def start() -> None:
    """Connect to the running cluster (RAY_ADDRESS, or the one started on this machine), or start one here.

    Workers find the modules of this folder and of the project whatever folder they start in.
    """
    here = Path(__file__).resolve().parent
    paths = os.pathsep.join(p for p in (str(here), os.environ.get("PYTHONPATH", "")) if p)
    ray.init(
        include_dashboard=False,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )


def check(resources: Resources) -> None:
    """Refuse a request no node can satisfy: Ray would wait for one for ever.

    Raises:
        StudyError: names what a trial asks for and the most a node has.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(n.get("CPU", 0) >= resources.cpus and n.get("GPU", 0) >= resources.gpus for n in nodes):
        most = max(nodes, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)))
        raise StudyError(
            f"resources: a trial asks for {resources.cpus} CPUs and {resources.gpus:g} GPUs, but the largest "
            f"node has {most.get('CPU', 0):g} CPUs and {most.get('GPU', 0):g} GPUs; lower resources.cpus or "
            "resources.gpus"
        )


def slots(resources: Resources) -> int:
    """How many trials (or trainings) fit on the cluster at once."""
    total = ray.cluster_resources()
    fits = [int(total.get("CPU", 0) // resources.cpus)]
    if resources.gpus:
        fits.append(int(total.get("GPU", 0) / resources.gpus))
    return max(1, min(fits))
