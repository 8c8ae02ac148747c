"""What a trial's training costs beside the student's own, and what each setting of a step is worth.

The limit is the bare student loop: forward, cross-entropy, backward and optimiser step on batches that
lie in memory, with the trial's optimiser. A KL+DP trial (`seconds_train` of its record) is held against
it, with outputs of the frozen models from the cache and live; live also computes two forward passes, so
that loop does, too. Students are the demo's, one thread, two epochs over its transfer set; each figure is
the time of all six against that of their loops.

A trial with a second input (CutMix, outputs from the cache) is held against the bare loop with two passes of
the student.

Then, for students alone: channels-last weights, the fused optimiser, bfloat16 and torch.compile, each with
and without, and how many steps it takes until compiling has repaid itself.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from study import spec, transfer
from study.images import files
from study.workspace import Workspace
from timing import figure

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, EPOCHS, STEPS = 5, 2, 40
COMPILED = ("densenet", "vit", "mixer")  # a family each


def demo(folder: str) -> spec.Study:
    """The demo, evaluated on the test images alone; its models untrained, which changes no time."""
    study = spec.load(ROOT / "studies" / "demo.yaml").absolute()
    zoo = {name: m.model_copy(update={"weights": spec.Random(seed=0)}) for name, m in study.zoo.items()}
    splits = study.data.splits.model_copy(update={"evaluate_rest": False})
    folders = study.folders.model_copy(update={"outputs": Path(folder)})
    return study.model_copy(
        update={
            "zoo": zoo,
            "data": study.data.model_copy(update={"splits": splits}),
            "budget": study.budget.model_copy(update={"epochs": EPOCHS}),
            "folders": folders,
        }
    )


def seconds_of(trial: spec.Trial, workspace: Workspace) -> float:
    """Seconds of a trial's training."""
    return transfer.run(trial, workspace).row["seconds_train"]


def bare_seconds(
    trial: spec.Trial, workspace: Workspace, frozen_passes: bool = False, twice: bool = False
) -> float:
    """Seconds of the bare loop of a trial's student, on the trial's batches, passed once or twice."""
    student, budget = workspace.student(trial.student).train(), trial.budget
    frozen = [workspace.frozen(model) for model in (*trial.teachers, trial.student)]
    samples, pixels = workspace.splits["transfer"], workspace.pixels(student.crop, "transfer")
    orders = [np.random.default_rng((0, epoch)).permutation(samples) for epoch in range(budget.epochs)]
    batches = [batch for order in orders for batch in pixels.epoch(order, budget.batch_size)]
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3, fused=True)
    begin = time.perf_counter()
    for images, labels, _ in batches:
        if frozen_passes:
            with torch.inference_mode():
                for model in frozen:
                    model(images)
        loss = F.cross_entropy(student(images), labels)
        if twice:
            loss = loss + F.cross_entropy(student(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - begin


def steps(
    model: spec.Model,
    workspace: Workspace,
    *,
    channels_last: bool = False,
    fused: bool = False,
    bfloat16: bool = False,
    compiled: bool = False,
) -> tuple[float, float]:
    """Seconds of the first two steps, and the median of a later one, of a student alone."""
    student = workspace.student(model).train()
    student.network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    forward = torch.compile(student) if compiled else student
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3, fused=fused)
    order = workspace.splits["transfer"][: 64 * STEPS]
    seconds = []
    for images, labels, _ in workspace.pixels(student.crop, "transfer").epoch(order, 64):
        x = images if channels_last else images.contiguous()
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = forward(x)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    return sum(seconds[:2]), statistics.median(seconds[2:])


def trial_figures(study: spec.Study, workspaces: dict[str, Workspace]) -> None:
    trials = [trial for trial in study.trials() if trial.name == "kl_dp" and trial.teacher == "convnext"]
    again = {"method": "xe_kl_augmented", "lr": 1e-2, "augmentation": {"transforms": ["cutmix"]}}
    method = spec.Method.model_validate(again)

    def seconds_twice(trial: spec.Trial) -> float:
        return seconds_of(trial.model_copy(update={"method": method}), workspaces["cached"])

    runs = {
        "twice": seconds_twice,
        "bare_twice": partial(bare_seconds, workspace=workspaces["cached"], twice=True),
        "bare": partial(bare_seconds, workspace=workspaces["cached"]),
        "cached": partial(seconds_of, workspace=workspaces["cached"]),
        "bare_passes": partial(bare_seconds, workspace=workspaces["cached"], frozen_passes=True),
        "live": partial(seconds_of, workspace=workspaces["live"]),
    }
    for trial in trials:  # images are decoded, and outputs computed, once
        seconds_of(trial, workspaces["cached"])
        seconds_twice(trial)
    rounds = []
    for _ in range(ROUNDS):
        # A student after the other, so that what is compared lies seconds apart.
        seconds = [[run(trial) for run in runs.values()] for trial in trials]
        rounds.append(np.sum(seconds, axis=0))
    twice, bare_twice, bare, cached, bare_passes, live = np.array(rounds).T
    figure("kl_dp trial's training, outputs cached / bare student loop", cached / bare, "ratio", at_most=1.10)
    figure(
        "kl_dp trial's training, outputs live / bare student loop and two forward passes",
        live / bare_passes,
        "ratio",
        at_most=1.10,
    )
    figure("kl_dp trial's training, outputs live / cached", live / cached, "ratio")
    figure(
        "training with a second input, outputs cached / bare student loop with two passes",
        twice / bare_twice,
        "ratio",
        at_most=1.10,
    )


def setting_figures(study: spec.Study, workspace: Workspace) -> None:
    chosen = {"channels_last": True, "fused": True}
    settings = {
        "channels-last weights": ({"fused": True}, chosen),
        "fused optimiser": ({"channels_last": True}, chosen),
        "bfloat16": (chosen, chosen | {"bfloat16": True}),
    }
    for name in study.pairs.students:
        for what, (without, with_it) in settings.items():
            pairs = [
                (
                    steps(study.zoo[name], workspace, **with_it),
                    steps(study.zoo[name], workspace, **without),
                )
                for _ in range(ROUNDS)
            ]
            figure(f"{name}: step with {what} / without", [a[1] / b[1] for a, b in pairs], "ratio")


def compile_figures(study: spec.Study, workspace: Workspace, folder: str) -> None:
    chosen = {"channels_last": True, "fused": True}
    for name in COMPILED:
        ratios, new, known = [], [], []
        for number in range(ROUNDS):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/compiled-{name}-{number}"
            _, plain = steps(study.zoo[name], workspace, **chosen)
            for first in (new, known):  # the second time as in another process of the machine
                torch.compiler.reset()
                begin, step = steps(study.zoo[name], workspace, **chosen, compiled=True)
                first.append(begin)
            ratios.append(step / plain)
        figure(f"{name}: step with torch.compile / without", ratios, "ratio")
        saved = plain * (1 - np.array(ratios))
        for what, first in (("nothing cached", new), ("cached on disk", known)):
            figure(f"{name}: first two steps with torch.compile, {what}", first, "s")
            if (saved > 0).all():  # else it never is
                figure(f"{name}: steps until that has repaid itself, {what}", first / saved, "steps")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = demo(folder)
        files.prepare(study.data.images, study.folders.data)
        workspaces = {
            name: Workspace(study.data, study.folders, "cpu", threads=1, cached=name == "cached")
            for name in ("cached", "live")
        }
        trial_figures(study, workspaces)
        setting_figures(study, workspaces["cached"])
        compile_figures(study, workspaces["cached"], folder)


if __name__ == "__main__":
    main()
