"""What a sweep of thousands of trials costs beside the trials' own work.

Trials of a real study (two small models, many seeds) go through the sweep's engine, on Ray on this
machine, to a function that does nothing but write a record that says so. A slot's time a trial is then
all overhead: Ray, Tune, the driver and the record. Afterwards the real command is started again, several
times, where almost everything is recorded: how long until its first new trial begins?

    python benchmarks/scale.py [--trials N]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from jobs import _cluster, _console, _engine
from study import spec
from study.store import records, schemas
from timing import figure

ROOT = Path(__file__).resolve().parents[1]
RESTARTS = 3
LOOK = {"input_size": [3, 28, 28], "crop_pct": 1.0, "mean": [0.286] * 3, "std": [0.353] * 3}


def write_study(folder: Path, trials: int) -> Path:
    """A study of two models, trained in no time, and so many trials and a few more."""
    kwargs = {"embed_dim": 16, "num_blocks": 1}
    mixer = {"timm": "tiny_mixer", "family": "mlp", "config": LOOK, "kwargs": kwargs}
    content = {
        "name": "scale",
        "data": {"images": {"source": "fashion_mnist"}, "splits": {"zoo": 100, "transfer": 100}},
        "zoo": {
            name: mixer
            | {"weights": {"source": "trained", "phases": [{"epochs": 1, "lr": 1e-3}], "seed": seed}}
            for seed, name in enumerate(("one", "other"))
        },
        "pairs": [["one", "other"]],
        "methods": {"kl": {"lr": 1e-3}},
        "budget": {"epochs": 1, "batch_size": 50},
        "seeds": list(range(trials + RESTARTS)),
        "folders": {name: str(folder / name) for name in ("data", "zoo", "outputs", "results")},
    }
    path = folder / "scale.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def record(trial: spec.Trial, results: Path) -> dict[str, str]:
    """A trial of no work."""
    records.write(results, "trials", trial.id, {"status": ["ok"], "finished": [datetime.now(UTC)]})
    return {"status": "ok"}


def run(job: str, *arguments: object) -> None:
    command = [sys.executable, ROOT / "jobs" / job, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def finished(results: Path) -> pd.DataFrame:
    """When each recorded trial was (`finished`), in order, and what it took (`seconds`)."""
    table = pd.read_parquet(results / "trials", columns=["finished", "seconds"])
    return table.sort_values("finished", ignore_index=True)


def sweep(study: spec.Study, trials: int) -> None:
    """Figures of a sweep of trials of no work."""
    _console.console.quiet = True  # figures alone go to the standard output
    _cluster.start()
    slots, todo = _cluster.slots(study.resources), {trial.id: trial for trial in study.trials()[:trials]}
    processor = time.process_time()
    with _console.Progress("trials", trials) as progress:
        nothing = partial(record, results=study.results)
        _engine.run(nothing, todo, resources=study.resources, progress=progress)
    processor, memory = time.process_time() - processor, peak_memory()
    seconds = finished(study.results)["finished"].diff().dt.total_seconds().to_numpy()[1:]
    part = min(500, trials // 4)
    means = np.convolve(seconds, np.ones(part) / part, mode="valid")
    what = f"sweep of {trials} trials of no work"
    figure(f"{what}: a slot's time a trial", [slots * seconds.mean()], "s")
    figure(f"{what}: the slowest {part} in a row", [slots * means.max()], "s", at_most=0.2)
    figure(f"{what}: last {part} / first {part}", [means[-1] / means[0]], "ratio", at_most=1.5)
    figure(f"{what}: the driver's processor time a trial", [processor / trials], "s")
    figure(f"{what}: the driver's peak memory", [memory], "GiB", at_most=1.5)


def peak_memory() -> float:
    """Of this process, in GiB; `getrusage` would count what it was started from."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) / 2**20


def restart(path: Path, results: Path) -> float:
    """Seconds from the start of the command to the start of its first new trial, by the latter's record."""
    begin = datetime.now(UTC)
    run("transfer_sweep.py", path, "--limit", 1)
    newest = finished(results).iloc[-1]
    return (newest["finished"] - begin).total_seconds() - newest["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000, metavar="N", help="default: %(default)s")
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as folder:
        path = write_study(Path(folder), trials)
        study = spec.load(path).absolute()
        run("zoo.py", path)
        records.prepare(study.results, schemas.TRANSFER_TABLES)
        sweep(study, trials)
        seconds = [restart(path, study.results) for _ in range(RESTARTS)]
    figure(f"start of the command to its first new trial, {trials} recorded", seconds, "s", at_most=15)


if __name__ == "__main__":
    main()
