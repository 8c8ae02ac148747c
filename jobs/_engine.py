"""One function, once for each of many configurations, on Ray: Tune as all commands use it.

Tune hands the configurations to workers that stay (`reuse_actors`), so that a trial pays for no import and
finds models and images in memory. One Tuner takes as many as it is given at a flat price a trial, but keeps
some 35 kB of each until it ends; hence waves, so large that their ends cost next to nothing (figures in
docs/scale.md): at a wave's end slots stand idle until its last trial is done, and workers start anew.

A trial that raises, or whose worker or node died, is tried again. All ends early, in a sentence, where
going on is in vain: results cannot be stored, no trial may raise, or the cluster is gone.

Left out on purpose: schedulers that stop trials early, and Tune's own way of resuming. Records say what
is done, so all that Tune writes is scratch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray import tune
from ray.air.execution._internal import actor_manager
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from jobs import _cluster, _console
from study.errors import FatalError, StudyError
from study.spec import Resources

T = TypeVar("T")

# Where a node runs out of memory, Ray ends a worker by an error that Tune does not know, and that would end
# everything. To Tune it shall be a worker that died. (Private parts of Ray, whose minor version is pinned.)
LOST = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
actor_manager.RayActorError = tune_controller.RayActorError = LOST

# What a trial asks for whose work is done by workers that ask for themselves. It must hold no CPU that they
# wait for, and Tune refuses a trial that asks for nothing. On the head node, because Ray gives back what the
# workers hold when all ends, but not when the process that asked for them is lost alone.
CALLER = {"cpu": 0, "gpu": 0, "node:__internal_head__": 0.001}
WAVE = 20_000
# A trial among nodes that come and go loses several without fault; one that kills its worker must end.
RETRIES = 3
# Seconds. Ray ends this process 60 seconds after the cluster's head fell silent, and soon after the node it
# runs on did, in a way that tells a user nothing; a head may come back before that, a node never does.
HEAD_PATIENCE, NODE_PATIENCE = 40, 6
GONE = (
    "the Ray cluster is gone ({} does not answer); start it and run the same command again: what is recorded "
    "stays"
)

# Tune's own tables and log files would bury the progress line, and cost time a trial; its habit of
# changing to a folder a trial would break relative paths.
QUIET_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run(
    function: Callable[[T], dict[str, Any]],
    configurations: Mapping[str, T],
    *,
    resources: Resources,
    progress: _console.Progress,
    work: Mapping[str, float] | None = None,
    fatal: str | None = None,
    retries: int = RETRIES,
    wave: int = WAVE,
    callbacks: Sequence[tune.Callback] = (),
) -> dict[str, str]:
    """Run a function once for each configuration. Needs Ray to be started.

    Args:
        function: what a worker calls. It returns a report: `status` is 'ok' or 'failed' (told by the function
            itself; not tried again), `notice` a line to print as it comes, if any. A `FatalError` ends all.
        configurations: by name, what the function is called with, in this order.
        resources: what a trial needs. With several workers the function starts them (`_data_parallel.run`)
            and holds nothing itself.
        progress: shows what happens, from where it stands: several calls may share one.
        work: by name, the part of the progress's total that a trial is; None: 1 each.
        fatal: the sentence, with {name} and {reason}, in which all ends if a trial raises; None: tried again.
        retries: how often a trial that raised, or whose worker died, is tried again.
        wave: the most configurations given to one Tuner.
        callbacks: of Tune's, each for all the Tuners. What a trial reports before its end is for them alone.

    Returns:
        By name, why those trials ended that raised, or lost their workers, each time they were tried.

    Raises:
        StudyError: as `fatal` says, or results cannot be stored, or the cluster is gone.
        KeyboardInterrupt: by Ctrl-C, after all has ended in an orderly way.
    """
    os.environ |= QUIET_TUNE
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    request, at_once = {"cpu": resources.cpus, "gpu": resources.gpus}, None
    if resources.workers > 1:
        request, at_once = CALLER, _cluster.slots(resources)
    names, watch, errors = list(configurations), Watch(progress, work or dict.fromkeys(configurations, 1)), {}
    waves = deque(names[start : start + wave] for start in range(0, len(names), wave))
    with cluster_watched(progress):
        while waves:
            left, stop, watch.lost, watch.given_up = waves.popleft(), Stop(), [], []
            # All configurations go to each worker, once: 0.5 MB for 5,000 transfer trials.
            bound = tune.with_parameters(
                _trial,
                function=function,
                configurations={name: configurations[name] for name in left},
                fatal=fatal,
            )
            with tempfile.TemporaryDirectory(prefix="ray-tune-") as scratch:
                tune.Tuner(
                    tune.with_resources(bound, request),
                    param_space={"name": tune.grid_search(left)},
                    tune_config=tune.TuneConfig(
                        reuse_actors=True, max_concurrent_trials=at_once, scheduler=InOrder()
                    ),
                    run_config=tune.RunConfig(
                        name="trials",
                        storage_path=scratch,
                        stop=stop,
                        failure_config=tune.FailureConfig(max_failures=retries),
                        callbacks=[watch, *callbacks],
                        verbose=0,
                    ),
                ).fit()
                # Only now is every error in the scratch folder.
                for trial in watch.given_up:
                    error = trial.get_pickled_error() or trial.get_error() or "its worker died"
                    errors[trial.config["name"]] = _cluster.reason(error)
            if stop.sentence:
                raise StudyError(stop.sentence)
            if not watch.ended.issuperset({*left} - {*watch.lost}):
                raise KeyboardInterrupt
            if watch.lost:
                waves.append(watch.lost)
    return errors


def run_few(
    function: Callable[[T], dict[str, Any]],
    configurations: Mapping[str, T],
    *,
    resources: Resources,
    progress: _console.Progress,
) -> dict[str, str]:
    """As `run`, for a few configurations at a time, again and again: Ray's own tasks, without Tune.

    A Tuner's workers start anew, which takes as long as a short trial; those of tasks stay, with what they
    have in memory.
    """
    caller = resources.workers > 1
    task = ray.remote(
        num_cpus=0 if caller else resources.cpus,
        num_gpus=0 if caller else resources.gpus,
        max_retries=RETRIES,
        max_calls=0,  # else a worker that had a GPU ends after its task
    )(_call)
    errors: dict[str, str] = {}
    with cluster_watched(progress):
        running = {task.remote(function, one): name for name, one in configurations.items()}
        total = len(running)
        try:
            while running:
                done = total - len(running)
                progress.update(done, f"{done} of {total} done, {len(errors)} failed")
                for ended in ray.wait([*running], timeout=1)[0]:
                    name = running.pop(ended)
                    try:
                        ray.get(ended)
                    except ray.exceptions.RayError as error:
                        if isinstance(getattr(error, "cause", None), FatalError):
                            raise StudyError(str(error.cause)) from error
                        errors[name] = _cluster.reason(error)
        except BaseException:
            for left in running:
                ray.cancel(left, force=True)
            raise
        progress.update(total, f"{total - len(errors)} of {total} done, {len(errors)} failed")
    return errors


def _call(function: Callable[[T], dict[str, Any]], configuration: T) -> dict[str, Any]:
    return function(configuration)


def _trial(config: dict, function: Callable, configurations: dict, fatal: str | None) -> None:
    """In a worker: what Tune calls a trial."""
    name = config["name"]
    try:
        report = function(configurations[name])
    except FatalError as error:
        report = {"stop": str(error)}
    except Exception as error:
        if fatal is None:
            raise
        report = {"stop": fatal.format(name=name, reason=_cluster.reason(error))}
    tune.report(report)


class InOrder(FIFOScheduler):
    """Gives a free worker the next trial, but none whose own worker is just starting.

    Tune's own choice is the first trial that does not run yet, and ends the worker that starts for it: where
    some worker gets free more often than a start takes (short trials, or many workers), a node that joins
    late would never get to run one. Reads private parts of Tune (requirements.txt pins its minor version),
    which has no other way to tell; Tune itself starts workers wherever there is room for them.
    """

    def choose_trial_to_run(self, tune_controller) -> Trial | None:
        tune_itself = tune_controller._tune_controller
        if not tune_itself._actor_cache.num_cached_objects:
            return None
        without_room = set(tune_itself._actor_manager.pending_actors)
        for trial in tune_controller.get_trials():
            if trial.status == Trial.PENDING:
                worker = tune_itself._trial_to_actor.get(trial)
                if worker is None or worker in without_room:
                    return trial
        return None


class Stop(tune.Stopper):
    """Stops everything once a trial says so."""

    sentence: str | None = None

    def __call__(self, trial_id, result):
        self.sentence = result.get("stop", self.sentence)
        return False

    def stop_all(self):
        return self.sentence is not None


class Watch(tune.Callback):
    """Shows what happens to the trials, and keeps those Tune gave up."""

    def __init__(self, progress: _console.Progress, work: Mapping[str, float]) -> None:
        self.progress, self.work = progress, work
        self.running: set[str] = set()
        self.ended: set[str] = set()
        self.failed, self.work_done = 0, progress.done
        self.given_up: list[Trial] = []
        self.lost: list[str] = []  # to be tried again by another Tuner
        self.losses: Counter[str] = Counter()

    def __getstate__(self):
        return {}  # Tune pickles its callbacks to restore a run, which this project never asks it to

    def on_trial_start(self, iteration, trials, trial, **info):
        self.running.add(trial.config["name"])

    def on_trial_recover(self, iteration, trials, trial, **info):
        self.running.discard(trial.config["name"])

    def on_trial_complete(self, iteration, trials, trial, **info):
        report = trial.last_result or {}
        if "status" not in report:  # interrupted
            return
        self._end(trial.config["name"], failed=report["status"] == "failed")
        if report.get("notice"):
            _console.console.print(f"{self.progress.title}: {report['notice']}")

    def on_trial_error(self, iteration, trials, trial, **info):
        name = trial.config["name"]
        # A worker that dies while it is handed its next trial: Tune gives that one up without a retry.
        if name not in self.running and self.losses[name] < RETRIES:
            self.losses[name] += 1
            self.lost.append(name)
            return
        self._end(name, failed=True)
        self.given_up.append(trial)

    def _end(self, name: str, failed: bool) -> None:
        self.running.discard(name)
        self.ended.add(name)
        self.failed += failed
        self.work_done += self.work[name]

    def on_step_end(self, iteration, trials, **info):
        text = f"{len(self.ended) - self.failed} of {len(self.work)} done, {len(self.running)} running"
        self.progress.update(self.work_done, f"{text}, {self.failed} failed")


@contextlib.contextmanager
def cluster_watched(progress: _console.Progress) -> Iterator[None]:
    """End with a sentence if the cluster's head, or Ray on this node, is gone while something runs.

    Some of Ray's calls then raise whatever they please; most wait inside Ray, where no exception and no
    Ctrl-C reaches them, until Ray ends the process. Hence a thread of our own, which ends it first.

    Raises:
        StudyError: the cluster is gone.
    """
    context = ray.get_runtime_context()
    node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    here = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    patience = {context.gcs_address: HEAD_PATIENCE, here: NODE_PATIENCE}
    over = threading.Event()

    def watch() -> None:
        heard = dict.fromkeys(patience, time.monotonic())
        while not over.wait(NODE_PATIENCE / 3):
            heard |= {address: time.monotonic() for address in patience if _cluster.answers(address)}
            lost = [address for address in patience if time.monotonic() - heard[address] > patience[address]]
            if lost and not over.is_set():
                progress.bar.stop()
                print("error:", GONE.format(lost[0]), file=sys.stderr, flush=True)
                os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        for address in patience:
            if not _cluster.answers(address):
                raise StudyError(GONE.format(address)) from error
        raise
    finally:
        over.set()
