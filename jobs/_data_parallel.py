"""One function on several workers, through Ray Train: wherever on the cluster there is room for them.

`run` starts `resources.workers` workers, each with `resources.cpus` CPUs and `resources.gpus` GPUs, in one
torch process group (NCCL on GPUs, else Gloo), in which a function of `study` trains data-parallel, and the
first worker writes what comes of it. Where a worker dies all are started again; a transfer then goes on from
its checkpoint, which also outlives this process.

Left out on purpose: Ray Train's own reports, checkpoints and metrics. Its storage is an empty folder on
this node, which no worker looks at.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

from ray import train
from ray.train.torch import TorchConfig, TorchTrainer

from study.errors import DivergedError, StudyError
from study.spec import Resources

T = TypeVar("T")

# Workers that die are replaced so often.
RETRIES = 2
# What a worker waits for another one: the first computes outputs of frozen models for all. One that dies
# ends the wait of the others at once.
PATIENCE_SECONDS = 24 * 3600
# Ray Train's habit of changing to a folder of its own would break relative paths; its counters serve a
# dashboard that is not there; and a trial that has ended is to be noticed soon.
QUIET_TRAIN = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}


def run(function: Callable[..., T], arguments: tuple, resources: Resources, name: str) -> T:
    """Call a function in each of so many workers; where one is enough, here.

    Needs Ray, but no resources where it is called (see `_engine.CALLER`).

    Args:
        function: what each worker calls; it finds the others as torch.distributed does.
        arguments: what it is called with (paths in it absolute, and seen by all nodes).
        resources: how many workers, and what each needs.
        name: what Ray Train calls it.

    Returns:
        What the function gave in the first worker.

    Raises:
        DivergedError, StudyError: as the function does; no worker is then replaced.
        ray.train.TrainingFailedError: workers died, more often than they are replaced.
    """
    if resources.workers == 1:
        return function(*arguments)
    os.environ |= QUIET_TRAIN
    with tempfile.TemporaryDirectory(prefix="data-parallel-") as scratch:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"function": function, "arguments": arguments},
            torch_config=TorchConfig(timeout_s=PATIENCE_SECONDS),
            scaling_config=train.ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker={"CPU": resources.cpus, "GPU": resources.gpus},
            ),
            run_config=train.RunConfig(
                name=name,
                storage_path=scratch,
                failure_config=train.FailureConfig(max_failures=RETRIES),
                logging_config=train.LoggingConfig(log_level="CRITICAL"),
            ),
        )
        try:
            outcome = trainer.fit().return_value
        except train.WorkerGroupError as failed:
            outcome = next(filter(_told, failed.worker_failures.values()), failed)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _told(error: Exception) -> bool:
    return isinstance(error, DivergedError | StudyError)


def _work(config: dict) -> Any:
    """The function, in one of the workers; what all of them must give up is no reason to try again."""
    try:
        return config["function"](*config["arguments"])
    except (DivergedError, StudyError) as error:
        return error
