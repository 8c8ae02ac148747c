"""What a trial costs on a GPU: `make bench-gpu`, on a machine with one; needs no Ray.

The limit is the bare student loop: forward in the trial's precision, cross-entropy, backward and the same
optimiser's step, on batches that lie on the GPU already. A KL+DP trial's training (`seconds_train` of its
record) is held against it, with outputs of the frozen models looked up and, beside two forward passes in the
loop, computed; so is its peak memory. ResNet-50 and ViT-S learn from each other on crops of photographs of
1,000 classes, mirrored as in the paper, with random weights: what they know changes no time.

Then several trials at once on the one GPU, each in a process of its own as workers are: ResNet-50, which
fills it, and the demo's mixer on images of 28 x 28, which does not.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images

from study import evaluate, spec, transfer
from study.images import files
from study.workspace import Workspace
from timing import figure

ROUNDS, EPOCHS, CLASSES, BATCH = 3, 2, 1000, 128
AT_ONCE = (1, 2, 4)
MODELS = {
    "resnet50": {"timm": "resnet50", "family": "cnn"},
    "vit_small": {"timm": "vit_small_patch16_224", "family": "transformer"},
}
SMALL = {"input_size": [3, 28, 28], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
TINY = {
    "mixer": {"timm": "tiny_mixer", "family": "mlp", "config": SMALL},
    "resnet": {"timm": "resnet10t", "family": "cnn", "config": SMALL},
}


def photographs(folder: Path, train: int, test: int, side: int, classes: int) -> None:
    """Crops of scikit-learn's two photographs, as JPEG, a folder a class."""
    random, whole = np.random.default_rng(0), load_sample_images().images
    for part, count in (("train", train), ("test", test)):
        for number in range(count):
            top, left = random.integers(0, 420 - side), random.integers(0, 630 - side)
            crop = whole[number % 2][top : top + side, left : left + side]
            path = folder / part / f"{number % classes:04}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(crop).save(path, quality=90)


def study_of(folder: Path, zoo: dict, side: int, classes: int, samples: int, batch: int) -> spec.Study:
    """All models of a zoo with each other, by KL+DP; its images are written."""
    images = folder / f"images{side}"
    photographs(images, samples, classes, side, classes)
    study = spec.Study.model_validate(
        {
            "name": "gpu",
            "data": {
                "images": {
                    "source": "image_folder",
                    "train": str(images / "train"),
                    "test": str(images / "test"),
                },
                "splits": {"transfer": 1.0},
            },
            "zoo": {name: model | {"weights": {"source": "seed", "seed": 0}} for name, model in zoo.items()},
            "pairs": "all",
            "methods": {"kl_dp": {"lr": 1e-3}},
            "budget": {"epochs": EPOCHS, "batch_size": batch, "transforms": ["flip"]},
            "folders": {name: str(folder / name) for name in ("data", "zoo", "outputs", "results")},
        }
    )
    files.prepare(study.data.images, study.folders.data)
    return study


def workspace_of(study: spec.Study, cached: bool = True, compiled: bool = False) -> Workspace:
    return Workspace(study.data, study.folders, "cuda", threads=4, cached=cached, compiled=compiled)


def bare(trial: spec.Trial, workspace: Workspace, frozen_passes: bool = False) -> tuple[float, float]:
    """Seconds of the bare loop of a trial's student, on batches that lie there, and its peak GiB."""
    budget, samples = trial.budget, workspace.splits["transfer"]
    frozen = [workspace.frozen(model) for model in (*trial.teachers, trial.student)]
    resident = workspace.pixels(frozen[-1].crop, "transfer")
    batches = list(resident.epoch(samples, budget.batch_size, workspace.device))
    before = begin_memory()
    student = workspace.student(trial.student).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3, fused=True)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for pixels, labels, _ in budget.epochs * batches:
        with evaluate.autocast(workspace.device, workspace.precision):
            if frozen_passes:
                with torch.inference_mode():
                    for model in frozen:
                        model(pixels)
            logits = student(pixels)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.cuda.synchronize()
    return time.perf_counter() - begin, peak_since(before)


def whole(trial: spec.Trial, workspace: Workspace) -> tuple[float, float]:
    """Seconds of a trial's training, and its peak GiB, evaluation included."""
    before = begin_memory()
    return transfer.run(trial, workspace).row["seconds_train"], peak_since(before)


def begin_memory() -> int:
    """Bytes in use on the GPU, from which the peak is counted anew."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_since(before: int) -> float:
    """The most GiB in use since, beyond what was."""
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def trial_figures(study: spec.Study) -> None:
    cached, live = workspace_of(study), workspace_of(study, cached=False)
    images = EPOCHS * len(cached.splits["transfer"])
    for trial in study.trials():
        runs = {
            "bare loop": partial(bare, trial, cached),
            "outputs cached": partial(whole, trial, cached),
            "bare loop and two passes": partial(bare, trial, cached, frozen_passes=True),
            "outputs live": partial(whole, trial, live),
        }
        for run in runs.values():  # kernels are chosen, outputs computed, images decoded, once
            run()
        rounds = np.array([[run() for run in runs.values()] for _ in range(ROUNDS)])
        loop, kept, passes, computed = rounds[:, :, 0].T
        name = f"{trial.student.name}, KL+DP"
        figure(f"{name}: bare loop", images / loop, "images/s")
        figure(f"{name}: images a second, cached / bare loop", loop / kept, "ratio", at_least=0.95)
        figure(
            f"{name}: images a second, live / bare loop and two passes",
            passes / computed,
            "ratio",
            at_least=0.95,
        )
        for what, peaks in zip(runs, rounds[:, :, 1].T, strict=True):
            figure(f"{name}: peak memory, {what}", peaks, "GiB")


def decoding_figures(study: spec.Study) -> None:
    """A trial whose images are decoded anew in each epoch."""
    trial, kept = study.trials()[0], workspace_of(study)
    anew = Workspace(study.data, study.folders, "cuda", threads=16, keep=512 << 20)
    for place in (kept, anew):
        whole(trial, place)
    ratios = [whole(trial, kept)[0] / whole(trial, anew)[0] for _ in range(ROUNDS)]
    figure(f"{trial.student.name}: images a second, decoded anew by 16 threads / kept", ratios, "ratio")


def compile_figures(study: spec.Study) -> None:
    trial = study.trials()[1]
    plain, compiled = workspace_of(study), workspace_of(study, compiled=True)
    first, _ = whole(trial, compiled)
    whole(trial, plain)
    ratios = [whole(trial, compiled)[0] / whole(trial, plain)[0] for _ in range(ROUNDS)]
    figure(f"{trial.student.name}: seconds of training with torch.compile / without", ratios, "ratio")
    figure(f"{trial.student.name}: first training with torch.compile", [first], "s")


def _one_of_several(content: str, share: float, barrier, repeats: int, seconds) -> None:
    study = spec.Study.model_validate(json.loads(content))
    keep = int(0.4 * share * torch.cuda.get_device_properties(0).total_memory)
    workspace = Workspace(study.data, study.folders, "cuda", threads=4, keep=keep)
    trial = study.trials()[0]
    transfer.run(trial, workspace)
    barrier.wait()
    begin = time.perf_counter()
    for _ in range(repeats):
        transfer.run(trial, workspace)
    seconds.put((time.perf_counter() - begin, torch.cuda.mem_get_info()))


def several_figures(study: spec.Study, repeats: int) -> None:
    """Trials an hour of several processes on one GPU, against those of one."""
    context = multiprocessing.get_context("spawn")
    content = study.model_dump_json()
    alone, name = None, study.trials()[0].student.name
    for count in AT_ONCE:
        barrier, seconds = context.Barrier(count), context.Queue()
        arguments = (content, 1 / count, barrier, repeats, seconds)
        workers = [context.Process(target=_one_of_several, args=arguments) for _ in range(count)]
        for worker in workers:
            worker.start()
        results = [seconds.get(timeout=300) for _ in workers]
        for worker in workers:
            worker.join()
        rate = count * repeats / max(took for took, _ in results)
        alone = alone or rate
        least = min(free for _, (free, _) in results)
        used = (results[0][1][1] - least) / 2**30
        figure(f"{name}: {count} at once on one GPU, trials an hour / one", [rate / alone], "ratio")
        figure(f"{name}: {count} at once on one GPU, memory in use", [used], "GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("trial", "decoding", "compile", "several"))
    only = parser.parse_args().only
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)
    torch.cuda.init()
    with tempfile.TemporaryDirectory() as folder:
        large = study_of(Path(folder) / "large", MODELS, 256, CLASSES, 4 * CLASSES, BATCH)
        small = study_of(Path(folder) / "small", TINY, 28, 10, 10_000, 64)
        for name, run in {
            "trial": lambda: trial_figures(large),
            "decoding": lambda: decoding_figures(large),
            "several": lambda: [several_figures(one, 2) for one in (small, large)],
            "compile": lambda: compile_figures(large),
        }.items():
            if only in (None, name):
                run()
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
