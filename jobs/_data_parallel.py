"""One trial on several workers, through Ray Train: wherever on the cluster there is room for them.

`run` starts `resources.workers` workers, each with `resources.cpus` CPUs and `resources.gpus` GPUs, in one
torch process group (NCCL on GPUs, else Gloo), in which `study.transfer.run` trains data-parallel. The
first worker writes the record. Where a worker dies all are started again, and go on from the trial's
checkpoint, which also outlives this process.

Left out on purpose: Ray Train's own reports, checkpoints and metrics. Its storage is an empty folder on
this node, which no worker looks at.
"""

from __future__ import annotations

import os
import tempfile

from ray import train
from ray.train.torch import TorchConfig, TorchTrainer

from study import spec, transfer, workspace
from study.errors import DivergedError, StudyError

# What a trial of Ray Tune asks for that calls `run`. It must hold no CPU that its workers wait for, and Tune
# refuses a trial that asks for nothing. On the head node, because Ray gives back what the workers hold when
# the sweep ends, but not when the process that called `run` is lost alone.
CALLER = {"cpu": 0, "gpu": 0, "node:__internal_head__": 0.001}
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


def run(trial: spec.Trial, study: spec.Study) -> None:
    """Run a trial with the study's workers, and record it. Needs Ray, but no resources where it is called.

    Args:
        trial: what to run.
        study: where its data and results lie (absolute, and seen by all nodes), and its resources.

    Raises:
        DivergedError, StudyError: as `transfer.run` does; nothing is recorded.
        ray.train.TrainingFailedError: workers died, more often than they are replaced.
    """
    os.environ |= QUIET_TRAIN
    resources = study.resources
    with tempfile.TemporaryDirectory(prefix="data-parallel-") as scratch:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"trial": trial, "study": study},
            torch_config=TorchConfig(timeout_s=PATIENCE_SECONDS),
            scaling_config=train.ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker={"CPU": resources.cpus, "GPU": resources.gpus},
            ),
            run_config=train.RunConfig(
                name=trial.id,
                storage_path=scratch,
                failure_config=train.FailureConfig(max_failures=RETRIES),
                logging_config=train.LoggingConfig(log_level="CRITICAL"),
            ),
        )
        try:
            error = trainer.fit().return_value
        except train.WorkerGroupError as failed:
            error = next(filter(_told, failed.worker_failures.values()), failed)
    if error is not None:
        raise error


def _told(error: Exception) -> bool:
    return isinstance(error, DivergedError | StudyError)


def _work(config: dict) -> DivergedError | StudyError | None:
    """The trial, as one of its workers; a trial that all of them must give up is no reason to try again."""
    trial, study = config["trial"], config["study"]
    place = workspace.of(study)
    try:
        transfer.run_and_record(trial, place, study)
    except (DivergedError, StudyError) as error:
        return error
    return None
