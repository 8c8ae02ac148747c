"""One trial of the demo as a good script would run it: the baseline of benchmarks/sweep.py.

    python benchmarks/plain_script.py STUDENT TEACHER METHOD [--tuned] [--seed N] [--study FILE] [--out FILE]

torch and torchvision alone do the work: torchvision's data set with its transforms, a `DataLoader` with two
workers that stay, the teacher (and for kl_dp the frozen student) run live in every step, torch has all cores
unless OMP_NUM_THREADS says otherwise, and nothing waits for a number in the middle of an epoch. Models,
weights, splits, and hyper-parameters are the study's, so that it does the same work and ends at the same
accuracies: of this project it imports what reads those (a quarter of a second), and neither its loader nor
its trials nor the outputs it keeps.

`--tuned` does better than a usual script, for images as small as these: they lie in memory as tensors, are
never PIL's, and travel to the main process as one channel.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from study import spec
from study.images import sources, splits
from study.models import weights
from study.models.timm_import import torchvision

ROOT = Path(__file__).resolve().parents[1]
CLASSES, LOADERS, EVALUATION_BATCH = 10, 2, 256


def datasets(study: spec.Study, tuned: bool = False) -> dict[str, Subset]:
    """Fashion-MNIST by split: (uint8 [3, 28, 28], label) a sample; tuned, in memory as [1, 28, 28]."""
    train, test = sources.fashion_mnist(study.folders.data / "downloads")
    labels = torch.cat([train.targets, test.targets])
    if tuned:
        images = TensorDataset(torch.cat([train.data, test.data])[:, None], labels)
    else:
        transforms = torchvision.transforms
        as_tensor = transforms.Compose([transforms.Grayscale(3), transforms.PILToTensor()])
        train.transform = test.transform = as_tensor
        images = ConcatDataset([train, test])
    subsets = {"train": (0, len(train)), "test": (len(train), len(images))}
    known = SimpleNamespace(subsets=subsets, labels=labels.numpy())
    parts = splits.split(known, study.data.splits)
    return {name: Subset(images, samples.tolist()) for name, samples in parts.items()}


def rgb(images: Tensor) -> Tensor:
    """[batch, 1 or 3, ...] as [batch, 3, ...], nothing copied."""
    return images.expand(-1, 3, -1, -1)


def kl(student: Tensor, taught: Tensor) -> Tensor:
    log_student, log_taught = F.log_softmax(student, dim=1), F.log_softmax(taught, dim=1)
    return F.kl_div(log_student, log_taught, reduction="batchmean", log_target=True)


def partitioned(teacher: Tensor, frozen: Tensor, labels: Tensor) -> Tensor:
    """KL+DP: the teacher's logits where it gives the true class more probability."""
    column = labels[:, None]
    better = teacher.softmax(dim=1).gather(1, column) > frozen.softmax(dim=1).gather(1, column)
    return torch.where(better, teacher, frozen)


def train(
    student: nn.Module,
    teacher: nn.Module,
    frozen: nn.Module | None,
    loader: DataLoader,
    budget: spec.Budget,
    lr,
) -> None:
    """KL from the teacher, or KL+DP where there is a frozen student."""
    optimizer = torch.optim.SGD(
        student.parameters(), lr=lr, momentum=budget.momentum, weight_decay=budget.weight_decay
    )
    schedule = CosineAnnealingLR(optimizer, T_max=budget.epochs * len(loader))
    student.train()
    for _ in range(budget.epochs):
        for loaded, labels in loader:
            images = rgb(loaded)
            with torch.no_grad():
                taught = teacher(images)
                if frozen:
                    taught = partitioned(taught, frozen(images), labels)
            loss = kl(student(images), taught)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    model.eval()
    right = torch.tensor(0)
    for images, labels in loader:
        right += (model(rgb(images)).argmax(dim=1) == labels).sum()
    return int(right) / len(loader.dataset)


def main() -> None:
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student")
    parser.add_argument("teacher")
    parser.add_argument("method", choices=["kl", "kl_dp"])
    parser.add_argument("--tuned", action="store_true", help="images in memory as tensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=Path, default=ROOT / "studies" / "demo.yaml")
    parser.add_argument("--out", type=Path, help="file a JSON line is added to")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    study = spec.load(arguments.study, data=str(ROOT / "data"), zoo=str(ROOT / "zoo"))

    def load(name: str) -> nn.Module:
        return weights.load(study.zoo[name], study.data, CLASSES, study.folders)

    student, teacher = load(arguments.student), load(arguments.teacher)
    frozen = load(arguments.student) if arguments.method == "kl_dp" else None
    images, workers = datasets(study, arguments.tuned), {"num_workers": LOADERS, "persistent_workers": True}
    learning = DataLoader(images["transfer"], study.budget.batch_size, shuffle=True, **workers)
    evaluation = DataLoader(images["evaluation"], EVALUATION_BATCH, **workers)

    row = {"student": arguments.student, "teacher": arguments.teacher, "method": arguments.method}
    row |= {"before": accuracy(student, evaluation), "teacher_accuracy": accuracy(teacher, evaluation)}
    begin = time.perf_counter()
    train(student, teacher, frozen, learning, study.budget, study.methods[arguments.method].lr)
    end = time.perf_counter()
    row |= {"after": accuracy(student, evaluation), "seconds_train": end - begin}
    row["seconds"] = time.perf_counter() - started
    line = json.dumps(row)
    print(line)
    if arguments.out:
        with arguments.out.open("a") as stream:
            stream.write(line + "\n")


if __name__ == "__main__":
    main()
