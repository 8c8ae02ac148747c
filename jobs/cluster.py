"""Ray, as the jobs use it: the cluster they are on if there is one, else this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def as_completed(
    function: Callable, arguments: dict[str, tuple], resources: Resources, retries: int = 2
) -> Iterator[tuple[str, Any] | None]:
    """Run a function once a key, each as a Ray task of its own.

    Args:
        function: what to run.
        arguments: by key, what it is called with.
        resources: what a task needs.
        retries: how often a task whose worker died is tried again.

    Yields:
        (key, outcome) as the tasks end: what the function gave, or the `RayError` that says why there is
        nothing; None once a second in between, for a progress line.
    """
    remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=retries)(function)
    running = {remote.remote(*values): key for key, values in arguments.items()}
    while running:
        ended, _ = ray.wait(list(running), timeout=1)
        for reference in ended:
            key = running.pop(reference)
            try:
                yield key, ray.get(reference)
            except ray.exceptions.RayError as error:
                yield key, error
        yield None


def reason(error: ray.exceptions.RayError) -> str:
    """Why a task failed, in a line: what its function raised, or what became of its worker."""
    return str(getattr(error, "cause", None) or error).strip().splitlines()[-1]


def slots(resources: Resources) -> int:
    """How many trials (or trainings) fit on the cluster at once."""
    total = ray.cluster_resources()
    fits = [int(total.get("CPU", 0) // resources.cpus)]
    if resources.gpus:
        fits.append(int(total.get("GPU", 0) / resources.gpus))
    return max(1, min(fits))
