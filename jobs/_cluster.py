"""Ray, as the jobs use it: the cluster they are on if there is one, else this machine."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path

import ray
import yaml
from ray._private import services
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.errors import DivergedError, StorageError, StudyError
from study.images import files
from study.spec import Folders, Resources, Study
from study.store import storage
from study.store.storage import Location

# What `ray up` leaves on the head: among others the kinds of nodes that its autoscaler may start.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml").expanduser()
RAYS_COPIES = "runtime_resources"  # the folder on a node under which Ray unpacks what a job brings along
SECONDS_TO_LOOK = 120


def start(own: Sequence[str] = ()) -> None:
    """Connect to the running cluster (RAY_ADDRESS, or the one started on this machine), or start one here.

    The code goes with it: every worker, on every node, imports the project's packages as they are here
    and now, whatever an earlier installation or a copy of the project on its node says; and the modules of
    a user's `own`. A cluster that does not answer is a `StudyError`.
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
    # By path: a job's own settings are merged with these, and modules cannot be copied.
    imported = [Path(importlib.import_module(name).__file__) for name in ("study", "jobs", *own)]
    code = [str(file.parent if file.name == "__init__.py" else file) for file in imported]
    patience = {storage.PATIENCE: os.environ[storage.PATIENCE]} if storage.PATIENCE in os.environ else {}
    ray.init(
        include_dashboard=False,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"py_modules": code, "excludes": ["__pycache__"], "env_vars": patience},
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


def room_for(node: dict[str, float], resources: Resources) -> int:
    """How many workers fit on a node at once."""
    room = int(node.get("CPU", 0) // resources.cpus)
    return min(room, int(node.get("GPU", 0) / resources.gpus)) if resources.gpus else room


def check(resources: Resources) -> None:
    """Refuse, by a `StudyError`, a request no node can satisfy: Ray would wait for one for ever."""
    known = nodes()
    room = sum(room_for(node, resources) for node in known)
    if not room:
        most = max(known, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)))
        raise StudyError(
            f"resources: a trial asks for {resources.cpus} CPUs and {resources.gpus:g} GPUs, but the largest "
            f"node has {most.get('CPU', 0):g} CPUs and {most.get('GPU', 0):g} GPUs; lower resources.cpus or "
            "resources.gpus"
        )
    if room < resources.workers and not BOOTSTRAP.is_file():
        raise StudyError(
            f"resources.workers: a trial asks for {resources.workers} at once, but the cluster has room for "
            f"{room}; lower it, or start more nodes"
        )


def slots(resources: Resources) -> int:
    """How many trials (or trainings) fit on the cluster at once, on the nodes that are there."""
    room = sum(room_for(node["Resources"], resources) for node in ray.nodes() if node["Alive"])
    return max(1, room // resources.workers)


# --- folders ------------------------------------------------------------------------------------


def check_lasting(folders: Folders) -> None:
    """Refuse, by a `StudyError`, folders in the copy of the project that Ray makes for a job, and deletes."""
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
    others = [
        node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and room_for(node["Resources"], study.resources)
    ]
    if not others:
        return
    probes = {name: getattr(study.folders, name) / f".seen-{uuid.uuid4().hex}" for name in written}
    images = files.folder_of(study.data.images, study.folders.data) / files.SIDECAR
    weights = [storage.at(one.weights.path) for one in study.zoo.values() if one.source == "file"]
    read = [("data", images), *(("zoo", path) for path in weights)]
    try:
        for name, probe in probes.items():
            storage.prepare(probe.parent, name)
            storage.write(probe, b"-")
        looking = []
        for node in others:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(first_unseen)
            looking.append((node["NodeManagerHostname"], look.remote(probes, read)))
        for host, looked in looking:
            # A node that has gone, or is too busy to answer, is no reason to stop.
            with contextlib.suppress(ray.exceptions.RayError):
                if unseen := ray.get(looked, timeout=SECONDS_TO_LOOK):
                    raise StudyError(
                        f"folders.{unseen[0]}: the node {host} does not see {unseen[1]}, or cannot write "
                        "there; give a folder that all nodes share, or a URL"
                    )
    finally:
        for probe in probes.values():
            storage.remove(probe)


def first_unseen(probes: dict[str, Location], read: list[tuple[str, Location]]) -> tuple[str, str] | None:
    """On a node: the first file that is not there, or a probe whose folder cannot be written."""
    for name, path in [*probes.items(), *read]:
        try:
            if not path.exists():
                return name, str(path)
            if path is probes.get(name):
                storage.make_writable(path.parent)
        except (OSError, StorageError):
            return name, str(path)
    return None


def reason(error: Exception | str) -> str:
    """Why something failed, in a line: what was raised here or in a worker, or what became of the worker."""
    error = getattr(error, "cause", None) or error
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, str | ray.exceptions.RayError):
        return lines[-1]
    told = isinstance(error, StudyError | DivergedError)
    return lines[0] if told else f"{type(error).__name__}: {lines[0]}"
