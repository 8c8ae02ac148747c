"""Ray, as the jobs use it: the cluster they are on if there is one, else this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray

import jobs
import study
from study.errors import StudyError
from study.spec import Resources


def start() -> None:
    """Connect to the running cluster (RAY_ADDRESS, or the one started on this machine), or start one here.

    The code goes with it: every worker, on every node, imports the project's packages as they are here
    and now, whatever an earlier installation or a copy of the project on its node says.
    """
    packages = [str(Path(package.__file__).parent) for package in (study, jobs)]
    ray.init(
        include_dashboard=False,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"py_modules": packages, "excludes": ["__pycache__"]},
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
