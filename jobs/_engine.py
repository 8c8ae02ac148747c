"""One function, once for each of many configurations, on Ray: Tune as the sweeps use it.

Tune hands the configurations to workers that stay (`reuse_actors`), so that a trial pays for no import and
finds models and images in memory. One Tuner takes as many as it is given at a flat price a trial, but keeps
some 35 kB of each until it ends; hence waves, so large that their ends cost next to nothing (figures in
docs/scale.md): at a wave's end slots stand idle until its last trial is done, and workers start anew.

A trial that raises, or whose worker or node died, is tried again. A sweep ends early, in a sentence,
where going on is in vain: results cannot be stored, or the cluster is gone.

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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from jobs import _cluster, _console
from study.errors import StudyError

T = TypeVar("T")

WAVE = 20_000
# A trial among nodes that come and go loses several without fault; one that kills its worker must end.
RETRIES = 3
# Seconds. Ray ends this process 60 seconds after the cluster's head fell silent, and soon after the node it
# runs on did, in a way that tells a user nothing; a head may come back before that, a node never does.
HEAD_PATIENCE, NODE_PATIENCE = 40, 6

# Tune's own tables and log files would bury the progress line, and cost time a trial; its habit of
# changing to a folder a trial would break relative paths.
QUIET_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run(
    function: Callable[[T], dict[str, Any]],
    configurations: dict[str, T],
    *,
    request: dict[str, float],
    tracker: _console.Tracker,
    at_once: int | None = None,
    wave: int = WAVE,
    callbacks: Sequence[tune.Callback] = (),
) -> dict[str, str]:
    """Run a function once for each configuration. Needs Ray to be started.

    Args:
        function: what a worker calls. It returns a report: `status` is 'ok', 'failed' (told by the
            function itself; not tried again) or 'unrecorded' (which ends the sweep; `reason` says why).
        configurations: by name, what the function is called with.
        request: what a trial needs of a node, as Tune names it (`cpu`, `gpu`).
        tracker: shows what happens.
        at_once: the most trials at a time; None for as many as the cluster holds.
        wave: the most configurations given to one Tuner.
        callbacks: of Tune's, each for all the Tuners. What a trial reports before its end is for them alone.

    Returns:
        By name, why those trials ended that raised, or lost their workers, each time they were tried.
        Fewer may have run than were given: Ctrl-C ends it in an orderly way.

    Raises:
        StudyError: a trial came back 'unrecorded', or the cluster is gone.
    """
    os.environ |= QUIET_TUNE
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    names, watch, errors = list(configurations), Watch(tracker), {}
    with cluster_watched(tracker):
        for start in range(0, len(names), wave):
            left = names[start : start + wave]
            while left:
                ended = watch.ended
                watch.lost = []
                errors |= _wave(
                    function,
                    {name: configurations[name] for name in left},
                    request,
                    at_once,
                    watch,
                    callbacks,
                )
                if watch.ended + len(watch.lost) < ended + len(left):
                    return errors  # by Ctrl-C
                left = watch.lost
    return errors


def _wave(
    function: Callable,
    configurations: dict,
    request: dict,
    at_once: int | None,
    watch: Watch,
    callbacks: Sequence[tune.Callback],
) -> dict[str, str]:
    unrecorded = Unrecorded()
    with tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
        tune.Tuner(
            # All configurations go to each worker, once: 0.5 MB for 5,000 transfer trials.
            tune.with_resources(
                tune.with_parameters(_trial, function=function, configurations=configurations), request
            ),
            param_space={"name": tune.grid_search(list(configurations))},
            tune_config=tune.TuneConfig(
                reuse_actors=True, max_concurrent_trials=at_once, scheduler=InOrder()
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                stop=unrecorded,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[watch, *callbacks],
                verbose=0,
            ),
        ).fit()
        # Only now is every error in the scratch folder.
        given_up, watch.given_up = watch.given_up, []
        errors = {trial.config["name"]: trial.get_pickled_error() or trial.get_error() for trial in given_up}
    if unrecorded.reason:
        raise StudyError(unrecorded.reason)
    return {
        name: str(error).strip().splitlines()[-1] if error else "its worker died"
        for name, error in errors.items()
    }


def _trial(config: dict, function: Callable, configurations: dict) -> None:
    """In a worker: what Tune calls a trial."""
    tune.report(function(configurations[config["name"]]))


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


class Unrecorded(tune.Stopper):
    """Stops everything once a trial could not be recorded."""

    reason: str | None = None

    def __call__(self, trial_id, result):
        if result.get("status") == "unrecorded":
            self.reason = result["reason"]
        return False

    def stop_all(self):
        return self.reason is not None


class Watch(tune.Callback):
    """Counts what happens to the trials, for the progress line, and keeps those Tune gave up."""

    def __init__(self, tracker: _console.Tracker) -> None:
        self.tracker = tracker
        self.running: set[str] = set()
        self.done = self.failed = 0
        self.given_up: list[Trial] = []
        self.lost: list[str] = []  # names of those to be tried again by another Tuner
        self.losses: Counter[str] = Counter()

    def __getstate__(self):
        return {}  # Tune pickles its callbacks to restore a run, which this project never asks it to

    @property
    def ended(self) -> int:
        return self.done + self.failed

    def on_trial_start(self, iteration, trials, trial, **info):
        self.running.add(trial.trial_id)

    def on_trial_recover(self, iteration, trials, trial, **info):
        self.running.discard(trial.trial_id)

    def on_trial_complete(self, iteration, trials, trial, **info):
        self.running.discard(trial.trial_id)
        failed = (trial.last_result or {}).get("status") == "failed"
        self.failed += failed
        self.done += not failed

    def on_trial_error(self, iteration, trials, trial, **info):
        self.running.discard(trial.trial_id)
        name = trial.config["name"]
        # A worker that dies while it is handed its next trial: Tune gives that one up without a retry.
        if trial.should_recover() and self.losses[name] < RETRIES:
            self.losses[name] += 1
            self.lost.append(name)
            return
        self.failed += 1
        self.given_up.append(trial)

    def on_step_end(self, iteration, trials, **info):
        total = int(self.tracker.total)
        text = f"{self.done} of {total} done, {len(self.running)} running, {self.failed} failed"
        self.tracker.update(self.ended, text)


@contextlib.contextmanager
def cluster_watched(tracker: _console.Tracker) -> Iterator[None]:
    """End with a sentence if the cluster's head, or Ray on this node, is gone while something runs.

    Some of Ray's calls then raise whatever they please; most wait inside Ray, where no exception and no
    Ctrl-C reaches them, until Ray ends the process. Hence a thread of our own, which ends it first.

    Raises:
        StudyError: the cluster is gone.
    """
    context = ray.get_runtime_context()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    here = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    patience = {context.gcs_address: HEAD_PATIENCE, here: NODE_PATIENCE}
    over = threading.Event()

    def watch() -> None:
        heard = dict.fromkeys(patience, time.monotonic())
        while not over.wait(NODE_PATIENCE / 3):
            heard |= {address: time.monotonic() for address in patience if _cluster.answers(address)}
            lost = [address for address in patience if time.monotonic() - heard[address] > patience[address]]
            if lost and not over.is_set():
                tracker.bar.stop()
                print(f"error: {_gone(lost[0])}", file=sys.stderr, flush=True)
                os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        silent = [address for address in patience if not _cluster.answers(address)]
        if silent:
            raise StudyError(_gone(silent[0])) from error
        raise
    finally:
        over.set()


def _gone(address: str) -> str:
    return (
        f"the Ray cluster is gone ({address} does not answer); start it and run the same command again: what "
        "is recorded stays"
    )
