"""One distillation trial: this project's against torchdistill's own training loop.

    python benchmarks/torchdistill_trial.py     # needs requirements-bench.txt

torchdistill (https://github.com/yoshitomo-matsubara/torchdistill) is the established framework for
distillation. Both start from the same trained student and teacher and train the student for the demo's 5
epochs on its 6,000 images: KL at temperature 1, batches of 64, SGD, a cosine schedule stepped by batch, the
same torch threads. torchdistill runs as its own example script does (distillation box, `KDLoss` in a
`WeightedSumLoss`, torchvision's data set with its transforms, `DataLoader` with two workers), with workers
that stay, and without the example's meters, which would wait for the loss in every step; and once more with
all images in memory as tensors. Ours is `study.transfer.run` in a workspace where trials of the pair have
run before, so that the teacher's outputs are looked up: as in a sweep.

Timed is loading both models and training, without imports, process start and evaluation; a second figure
has our evaluation on 35,000 images in it, and still none of torchdistill's. Each round takes another pair of
the demo, together every student and every teacher once, so the spread is that of pairs.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from plain_script import CLASSES, EVALUATION_BATCH, LOADERS, ROOT, accuracy, datasets, rgb
from study import spec, transfer
from study.models import weights
from study.workspace import Workspace
from timing import figure

# isort: split
from torchdistill.core.distillation import get_distillation_box  # after study's, which makes torchvision load

LOGITS = {"path": ".", "io": "output"}  # of the model as a whole


def configuration(trial: spec.Trial) -> dict:
    """What torchdistill's YAML would say of a trial with KL."""
    budget = trial.budget
    steps = budget.epochs * -(-trial.data.splits.transfer // budget.batch_size)
    loader = {"batch_size": budget.batch_size, "num_workers": LOADERS, "persistent_workers": True}
    logits = {
        f"{who}_module_{what}": value for who in ("student", "teacher") for what, value in LOGITS.items()
    }
    kd = {"key": "KDLoss", "kwargs": logits | {"temperature": trial.method.temperature, "alpha": 0}}
    return {
        "num_epochs": budget.epochs,
        "train_data_loader": {
            "dataset_id": "transfer",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": loader,
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {
            "key": "SGD",
            "kwargs": {
                "lr": trial.method.lr,
                "momentum": budget.momentum,
                "weight_decay": budget.weight_decay,
            },
        },
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": int(steps)}, "scheduling_step": 1},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}},
        },
    }


def with_torchdistill(trial: spec.Trial, study: spec.Study, images: dict) -> tuple[nn.Module, float]:
    """The trained student, and the seconds for loading the models and training."""
    begin = time.perf_counter()
    torch.manual_seed(trial.seed)
    student, teacher = (
        weights.load(m, study.data, CLASSES, study.folders) for m in (trial.student, *trial.teachers)
    )
    # Without CUDA a `device_ids` or a wrapper means nothing.
    box = get_distillation_box(
        teacher,
        student,
        images,
        configuration(trial),
        torch.device("cpu"),
        None,
        distributed=False,
        lr_factor=1,
    )
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        for loaded, labels, extra in box.train_data_loader:
            loss = box.forward_process(rgb(loaded), labels, extra)
            box.post_forward_process(loss)
        box.post_epoch_process()
    seconds = time.perf_counter() - begin
    box.clean_modules()
    return student, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's, of both sides")
    threads = parser.parse_args().threads

    folders = {name: str(ROOT / name) for name in ("data", "zoo", "outputs")}
    study = spec.load(ROOT / "studies" / "demo.yaml", **folders)
    workspace = Workspace(study.data, study.folders, "cpu", threads)
    images, tuned = datasets(study), datasets(study, tuned=True)
    evaluation = DataLoader(tuned["evaluation"], EVALUATION_BATCH, num_workers=LOADERS)
    pairs = set(zip(study.pairs.students, study.pairs.teachers, strict=True))
    trials = [t for t in study.trials() if t.name == "kl" and (t.student.name, t.teacher) in pairs]
    for trial in trials:  # computes outputs that are not there yet
        transfer.run(trial, workspace)

    theirs, theirs_tuned, ours, evaluated, apart = [], [], [], [], []
    for trial in trials:
        student, seconds = with_torchdistill(trial, study, images)
        theirs.append(seconds)
        theirs_tuned.append(with_torchdistill(trial, study, tuned)[1])
        row = transfer.run(trial, workspace).row
        ours.append(row["seconds_load"] + row["seconds_train"])
        evaluated.append(row["seconds"])
        apart.append(100 * (row["student_accuracy_after"] - accuracy(student, evaluation)))
    theirs, theirs_tuned, ours, evaluated = map(np.array, (theirs, theirs_tuned, ours, evaluated))
    figure("a KL trial with torchdistill, without evaluation", theirs, "s")
    figure("training of a KL trial: ours / torchdistill's", ours / theirs, "ratio", at_most=0.5)
    figure(
        "training of a KL trial: ours / torchdistill's, images in memory",
        ours / theirs_tuned,
        "ratio",
        at_most=0.5,
    )
    figure(
        "a KL trial with evaluation on 35,000 images / torchdistill's without", evaluated / theirs, "ratio"
    )
    figure("student's accuracy after: ours - torchdistill's", apart, "points")


if __name__ == "__main__":
    main()
