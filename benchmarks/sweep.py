"""Trials an hour: the sweep against a plain script run once a trial.

The sweep is jobs/transfer_sweep.py on a part of studies/demo.yaml (KL and KL+DP for two students and three
teachers, others each round), from nothing: results and outputs of frozen models are new each round, and Ray
starts each time. Trained models and written images are there for both.

The script is benchmarks/plain_script.py on pairs and methods of the same part, one process a trial, in the
two ways that a loop in a shell would run it: one trial after another, each on all cores, and as many loops
as there are cores, with one thread each. The sweep is compared with the one that is faster. It is compared
once more with the script as someone would tune it for these images (`--tuned`), as many at a time as there
are cores, which suits it better.

A sweep starts once, however many trials it has. Hence two comparisons: once it runs (by the time between
records' `finished`, from where each worker has ended one trial), and for the whole demo, the job as it was
measured and the rest of 186 trials at that pace. The script's time is the same for each trial in both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from study import spec
from timing import figure

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "studies" / "demo.yaml"
ROUNDS, METHODS = 5, ("kl", "kl_dp")
CORES = len(os.sched_getaffinity(0))


def command(*arguments: str | Path, **environment: str) -> None:
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env=os.environ | environment,
    )


def sweep(students: list[str], teachers: list[str], folder: Path) -> tuple[float, float, int]:
    """Seconds of the whole job, seconds a trial once it runs, and the number of trials."""
    content = yaml.safe_load(DEMO.read_text())
    content["pairs"] = {"students": students, "teachers": teachers}
    content["methods"] = {name: content["methods"][name] for name in METHODS}
    part = folder / "part.yaml"
    part.write_text(yaml.safe_dump(content))
    options = [f"--{name}={folder / name}" for name in ("outputs", "results")]
    begin = time.perf_counter()
    command(ROOT / "jobs" / "transfer_sweep.py", part, *options)
    whole = time.perf_counter() - begin
    finished = pd.read_parquet(folder / "results" / "trials")["finished"].sort_values().to_numpy()
    running = (finished[-1] - finished[CORES - 1]) / np.timedelta64(1, "s")
    return whole, running / (len(finished) - CORES), len(finished)


def script(trials: list[tuple[str, ...]], at_once: int) -> float:
    """Seconds a trial; with several at once each has one thread."""
    environment = {"OMP_NUM_THREADS": "1"} if at_once > 1 else {}

    def seconds(trial: tuple[str, ...]) -> float:
        begin = time.perf_counter()
        command(ROOT / "benchmarks" / "plain_script.py", *trial, **environment)
        return time.perf_counter() - begin

    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(seconds, trials)) / at_once / len(trials)


def main() -> None:
    demo = spec.load(DEMO)
    count = len(demo.trials())
    command(ROOT / "jobs" / "zoo.py", DEMO)  # and the images
    pace, wholes, one, several, tuned = [], [], [], [], []
    for number in range(ROUNDS):
        random = np.random.default_rng(number)
        students = random.permutation(demo.pairs.students)[:2].tolist()
        teachers = random.permutation(demo.pairs.teachers)[:3].tolist()
        with tempfile.TemporaryDirectory() as folder:
            whole, each, trials = sweep(students, teachers, Path(folder))
        pace.append(each)
        wholes.append(whole + (count - trials) * each)
        # Both students and both methods, so combined that each comes once.
        methods = random.permutation(METHODS).tolist()
        drawn = [(s, str(random.choice(teachers)), m) for s, m in zip(students, methods, strict=True)]
        one.append(script(drawn[:1], 1))
        several.append(script(drawn, CORES))
        tuned.append(script([(*trial, "--tuned") for trial in drawn], CORES))

    pace, wholes, one, several, tuned = map(np.array, (pace, wholes, one, several, tuned))
    figure("plain script, one trial after another on all cores", 3600 / one, "trials/hour")
    figure(f"plain script, {CORES} at a time on one thread each", 3600 / several, "trials/hour")
    figure(f"tuned script, {CORES} at a time on one thread each", 3600 / tuned, "trials/hour")
    figure("sweep, once it runs", 3600 / pace, "trials/hour")
    figure(f"sweep of the demo's {count} trials, start included", 3600 * count / wholes, "trials/hour")
    plain = one if np.median(one) <= np.median(several) else several
    for name, seconds in (("the plain script, the faster way", plain), ("the tuned script", tuned)):
        figure(f"sweep, once it runs / {name}", seconds / pace, "ratio", at_least=4)
        figure(f"sweep of the demo, start included / {name}", seconds * count / wholes, "ratio", at_least=4)


if __name__ == "__main__":
    main()
