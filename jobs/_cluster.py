"""Ray, as the jobs use it: the cluster they are on if there is one, else this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private import services
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import jobs
import study
from study.errors import StorageError, StudyError
from study.images import files
from study.spec import Folders, Resources, Study
from study.store import storage
from study.store.storage import Location

# What `ray up` leaves on the head: among others the kinds of nodes that its autoscaler may start.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml").expanduser()
RAYS_COPIES = "runtime_resources"  # the folder on a node under which Ray unpacks what a job brings along
SECONDS_TO_LOOK = 120


def start() -> None:
    """Connect to the running cluster (RAY_ADDRESS, or the one started on this machine), or start one here.

    The code goes with it: every worker, on every node, imports the project's packages as they are here
    and now, whatever an earlier installation or a copy of the project on its node says.

    Raises:
        StudyError: RAY_ADDRESS names a cluster that does not answer.
    """
    named = os.environ.get("RAY_ADDRESS")
    try:
        running = services.canonicalize_bootstrap_address(named or None)
    except ValueError as error:
        raise StudyError(
            f"RAY_ADDRESS: '{named}' is not an address, 'host:port'; correct or unset it"
        ) from error
    if running and not answers(running):  # Ray would try for minutes
        raise StudyError(
            f"the Ray cluster ({running}) does not answer; start it, or, if it is gone for good, run "
            "`ray stop` and unset RAY_ADDRESS"
        )
    packages = [str(Path(package.__file__).parent) for package in (study, jobs)]
    patience = {storage.PATIENCE: os.environ[storage.PATIENCE]} if storage.PATIENCE in os.environ else {}
    ray.init(
        include_dashboard=False,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"py_modules": packages, "excludes": ["__pycache__"], "env_vars": patience},
    )
    # Ray has replaced the handler there was by one that aborts; Ctrl-C is what Tune, too, ends in order for.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def answers(address: str) -> bool:
    """Whether somebody listens at an address, 'host:port'."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def nodes() -> list[dict[str, float]]:
    """What each node has that is there or that the autoscaler may start: its resources by name."""
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if BOOTSTRAP.is_file():
        types = yaml.safe_load(BOOTSTRAP.read_text()).get("available_node_types", {})
        there += [kind.get("resources", {}) for kind in types.values() if kind.get("max_workers", 1)]
    return there


def fits(node: dict[str, float], resources: Resources) -> bool:
    """Whether a worker of a trial fits on a node."""
    return node.get("CPU", 0) >= resources.cpus and node.get("GPU", 0) >= resources.gpus


def check(resources: Resources) -> None:
    """Refuse a request no node can satisfy: Ray would wait for one for ever.

    Raises:
        StudyError: names what a trial asks for and the most a node has.
    """
    known = nodes()
    if not any(fits(node, resources) for node in known):
        most = max(known, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)))
        raise StudyError(
            f"resources: a trial asks for {resources.cpus} CPUs and {resources.gpus:g} GPUs, but the largest "
            f"node has {most.get('CPU', 0):g} CPUs and {most.get('GPU', 0):g} GPUs; lower resources.cpus or "
            "resources.gpus"
        )
    room = sum(room_for(node, resources) for node in known)
    if room < resources.workers and not BOOTSTRAP.is_file():
        raise StudyError(
            f"resources.workers: a trial asks for {resources.workers} at once, but the cluster has room for "
            f"{room}; lower it, or start more nodes"
        )


def room_for(node: dict[str, float], resources: Resources) -> int:
    """How many workers fit on a node at once."""
    room = int(node.get("CPU", 0) // resources.cpus)
    return min(room, int(node.get("GPU", 0) / resources.gpus)) if resources.gpus else room


def slots(resources: Resources) -> int:
    """How many trials (or trainings) fit on the cluster at once, on the nodes that are there."""
    room = sum(room_for(node["Resources"], resources) for node in ray.nodes() if node["Alive"])
    return max(1, room // resources.workers)


# --- folders ------------------------------------------------------------------------------------


def check_lasting(folders: Folders) -> None:
    """Refuse folders inside the copy of the project that Ray makes for a submitted job, and deletes.

    Raises:
        StudyError: names the folder and the remedy.
    """
    for name, folder in folders:
        if isinstance(folder, Path) and RAYS_COPIES in folder.parts:
            raise StudyError(
                f"folders.{name}: {folder} is in the copy of the project that Ray made for this job, and is "
                "deleted with it; give an absolute path that all nodes see, or a URL"
            )


def check_seen(study: Study, *written: str) -> None:
    """Refuse folders that a node that may run trials does not see, before the first one starts.

    Args:
        study: what is to be run; its images are prepared.
        written: the folders that nodes write to (fields of `spec.Folders`).

    Raises:
        StudyError: names the node, the folder and the remedy.
    """
    here = ray.get_runtime_context().get_node_id()
    others = {
        node["NodeID"]: node["NodeManagerHostname"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and fits(node["Resources"], study.resources)
    }
    if not others:
        return
    folders = {name: getattr(study.folders, name) for name in written}
    probes = {name: folder / f".seen-{uuid.uuid4().hex}" for name, folder in folders.items()}
    images = files.folder_of(study.data.images, study.folders.data) / files.SIDECAR
    weights = [storage.at(model.checkpoint) for model in study.zoo.values() if model.checkpoint]
    wanted = [*probes.items(), ("data", images), *(("zoo", path) for path in weights)]
    try:
        for name, probe in probes.items():
            storage.prepare(folders[name], name)
            storage.write(probe, b"-")
        looking = {
            ray.remote(num_cpus=0)(first_unseen)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False), max_retries=0)
            .remote(wanted, set(folders.values())): node
            for node in others
        }
        for reference, node in looking.items():
            try:
                unseen = ray.get(reference, timeout=SECONDS_TO_LOOK)
            except ray.exceptions.RayError:
                continue  # a node that has gone, or is too busy to answer, is no reason to stop
            if unseen:
                name, path = unseen
                raise StudyError(
                    f"folders.{name}: the node {others[node]} does not see {path}, or cannot write there; "
                    "give a folder that all nodes share, or a URL"
                )
    finally:
        for probe in probes.values():
            storage.remove(probe)


def first_unseen(files: Sequence[tuple[str, Location]], written: set[Location]) -> tuple[str, str] | None:
    """On a node: the first file that is not there, or whose folder is to be written and cannot be."""
    for name, path in files:
        try:
            if not path.exists():
                return name, str(path)
            if path.parent in written:
                storage.make_writable(path.parent)
        except (OSError, StorageError):
            return name, str(path)
    return None


# --- tasks --------------------------------------------------------------------------------------


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
