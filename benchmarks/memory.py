"""Does a worker's memory grow with the number of trials it has run?

200 trials of the demo's models, one after another in one process, as a worker of a sweep runs them: small
ones (500 images, one epoch), because what could grow grows by the trial. The figure is the resident memory
after all of them against that after the first 20, when every model was met; rounds are fresh processes.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

from step import demo
from study import transfer
from study.images import files
from study.workspace import Workspace
from timing import figure

ROUNDS, TRIALS, SETTLED = 3, 200, 20


def resident() -> int:
    """Bytes of this process in memory, files it has mapped included."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def run(folder: str) -> None:
    """The trials of one process; prints the two sizes."""
    study = demo(folder)
    splits = study.data.splits.model_copy(update={"transfer": 500})
    study = study.model_copy(
        update={
            "data": study.data.model_copy(update={"splits": splits}),
            "budget": study.budget.model_copy(update={"epochs": 1}),
        }
    )
    files.prepare(study.data.images, study.folders.data)
    workspace = Workspace(study.data, study.folders, "cpu", threads=1)
    trials = sorted(study.trials(), key=lambda trial: trial.id)  # as good as any order, and always the same
    sizes = []
    for trial in itertools.islice(itertools.cycle(trials), TRIALS):
        transfer.run(trial, workspace)
        sizes.append(resident())
    print(sizes[SETTLED - 1], sizes[-1])


def main() -> None:
    growth, size = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, folder]
            settled, last = map(int, subprocess.check_output(command, text=True).split())
        growth.append(100 * (last / settled - 1))
        size.append(last / 2**20)
    figure(
        f"a worker's resident memory after {TRIALS} trials / after {SETTLED}, less 1", growth, "%", at_most=5
    )
    figure(f"a worker's resident memory after {TRIALS} trials", size, "MiB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(sys.argv[1])
    else:
        main()
