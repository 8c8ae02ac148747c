"""Does the time for running a zoo's models grow linearly with their number?

The whole job (jobs/atlas.py, Ray and its start included) on 8, 16 and 32 small untrained models
over Fashion-MNIST's 10,000 test images, each time from nothing. The figure is the time that 16 more
models add to 16, divided by twice the time that 8 more add to 8: 1 where a model costs the same in any
company. Pairs, of which there are few here, are measured by benchmarks/complementarity.py.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import yaml

from timing import figure, in_turns

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, SIZES = 3, (8, 16, 32)
LOOK = {"input_size": [3, 28, 28], "crop_pct": 1.0, "mean": [0.286] * 3, "std": [0.353] * 3}


def study(folder: Path, models: int) -> Path:
    """A study of two models, trained in no time, and so many untrained ones."""
    # Wide enough for a model to take about a second, which Ray's start of 15 would hide otherwise.
    kwargs = {"embed_dim": 96, "num_blocks": 4}
    mixer = {"timm": "tiny_mixer", "family": "mlp", "config": LOOK, "kwargs": kwargs}
    trained = {"source": "trained", "images": 100, "phases": [{"epochs": 1, "lr": 1e-3}]}
    content = {
        "name": f"models{models}",
        "data": {"images": {"source": "fashion_mnist"}, "splits": {"zoo": 100, "transfer": 100}},
        "zoo": {f"trained{n}": mixer | {"weights": trained | {"seed": n}} for n in range(2)}
        | {f"blank{n}": mixer | {"weights": {"source": "seed", "seed": 10 + n}} for n in range(models)},
        "pairs": [["trained0", "trained1"]],
        "methods": {"kl": {"lr": 1e-3}},
        "budget": {"epochs": 1, "batch_size": 64},
        "folders": {name: str(folder / name) for name in ("data", "zoo", "outputs", "results")},
    }
    path = folder / f"models{models}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(path: Path) -> None:
    """The job, with outputs and results of its own."""
    with tempfile.TemporaryDirectory() as fresh:
        options = ["--outputs", f"{fresh}/outputs", "--results", f"{fresh}/results", "--embed", "none"]
        command = [sys.executable, ROOT / "jobs" / "atlas.py", path, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = {f"models{size}": study(Path(folder), size) for size in SIZES}
        run(paths["models8"])  # writes the data and trains the two
        seconds = in_turns(ROUNDS, **{name: partial(run, path) for name, path in paths.items()})
    small, middle, large = (seconds[f"models{size}"] for size in SIZES)
    for size, values in zip(SIZES, (small, middle, large), strict=True):
        figure(f"atlas of {size} untrained models, the whole job", values, "s")
    growth = (large - middle) / (2 * (middle - small))
    figure("atlas: time of 16 more models / twice that of 8 more", growth, "ratio", at_most=1.2)


if __name__ == "__main__":
    main()
