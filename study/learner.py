"""A learner: a student, with what its objective trains beside it, that knows how it takes a step.

One module, so that data-parallel training averages the gradients of all of it. It holds the optimiser, the
schedule of the learning rate and, where a method has them, the slow weights, and its whole state can be kept
and taken up again. Losses are computed in float32; the student computes in the study's precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from study import evaluate, spec
from study.models.zoo import Classifier
from study.objectives import partition

# isort: split
from timm.optim import create_optimizer_v2  # after study's, which makes torchvision load

# What an objective may read of the student, in the order in which `Classifier.with_maps` gives it.
STUDENT = ("student", "student_features", "student_maps")


class Learner(nn.Module):
    """What is trained.

    Args:
        student: on its device; trained in place.
        objective: called with what it needs (`objectives.make`).
        needs: the names of that, in its order.
        training: optimiser and schedule.
        lr: peak learning rate.
        steps: how many steps there will be.
        precision: what the student computes in.
        teacher: a copy of the teacher that is trained, too, where the objective reads `learning_teacher`.
        slow: the slow weights; None: the fast ones are the result.
        head: epochs, the first ones, that train the head alone, all else frozen, statistics of BatchNorm too.
        compiled: whether the student runs through torch.compile.
        fused: update all weights in one pass (4 % of a small student's step). Rounds otherwise in the last
            bit.

    Attributes:
        slow_decay: τ of the slow weights; None without.
        lr: learning rate of the last step.
    """

    def __init__(
        self,
        student: Classifier,
        objective: Callable,
        needs: tuple[str, ...],
        training: spec.Training,
        lr: float,
        steps: int,
        precision: str,
        teacher: Classifier | None = None,
        slow: spec.Slow | None = None,
        head: int = 0,
        compiled: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.student, self.needs, self.head, self.precision = student, needs, head, precision
        self.objective, self.teacher = objective, teacher
        self.maps, self.features = "student_maps" in needs, "student_features" in needs
        self.twice = "student_augmented" in needs
        self.device = student.mean.device
        if isinstance(objective, nn.Module):
            objective.to(self.device)
        run = student.with_maps if self.maps else student.with_features if self.features else student
        self._run = (torch.compile(run) if compiled else run,)  # not a second module of this one
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        # Fused, torch's SGD cannot begin with some weights later than with others.
        self.optimizer = _optimizer(trained, training, lr, fused and not head)
        self.student_trains = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.schedule = _schedule(self.optimizer, training, lr, steps)
        self.clip_grad, self.batch_norm = training.clip_grad, training.batch_norm
        # What is too small for float16 is scaled up, and a step whose gradients overflow is left out.
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "float16" else None
        self.slow_decay = slow and slow.decay(steps)
        self._slow_settings, self._steps, self.lr = slow, 0, lr
        # Not a module of this one: what is averaged is not trained.
        self._slow = None if slow is None else (slow_weights(student, self.slow_decay),)

    def forward(
        self, pixels: Tensor, labels: Tensor, frozen: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what the objective measures of each sample.

        Args:
            pixels, labels: as `views.Batch` has them.
            frozen: what frozen models say of it, and (where they are read) where its samples lie in the
                transfer set, by the names of `objectives.INPUTS`; pixels of a second input as `augmented`.
        """
        with evaluate.autocast(pixels.device, self.precision):
            said = self._run[0](pixels)
            taught = self.teacher and self.teacher(pixels)
            # Apart, so that BatchNorm normalises each input by itself, as in arXiv 2012.02909.
            again = self._run[0](frozen["augmented"]) if self.twice else None
        student = dict(zip(STUDENT, said if isinstance(said, tuple) else (said,), strict=False))
        known = {**student, "labels": labels, "learning_teacher": taught, **frozen}
        known["student_augmented"] = again[0] if isinstance(again, tuple) else again
        result = self.objective(*(known[name] for name in self.needs))
        loss, measures = result if isinstance(result, tuple) else (result, {})
        partitions = "teacher_share" in measures and {"frozen", "teachers"} <= frozen.keys()
        of_classes = labels is not None and not labels.is_floating_point()
        if partitions and of_classes and len(frozen["teachers"]) == 1:
            # For the record, and so behind the objective's back: unsupervised ones read no labels.
            taught, own, its = measures["teacher_share"], frozen["frozen"], frozen["teacher"]
            measures |= partition.flips_taught(taught, own, its, labels)
        return loss, measures

    def step(self, loss: Tensor, weight: float = 1.0) -> None:
        """Take a step down a loss, a mean that has a weight among several workers'."""
        self.optimizer.zero_grad()
        loss = loss if weight == 1 else weight * loss
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        if self.clip_grad is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], self.clip_grad)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self._steps += 1
        if self._slow and self._steps % self._slow_settings.every == 0:
            self._slow[0].update_parameters(self.student)
        self.lr = self.schedule.get_last_lr()[0]
        self.schedule.step()

    def begin_epoch(self, number: int) -> bool:
        """Into training mode, of the whole or of the head, for the `number`-th epoch of this learner.

        Returns:
            Whether something else is trained than in the epoch before.
        """
        head_alone = number < self.head
        self.train()
        for parameter in self.student_trains:
            parameter.requires_grad_(not head_alone)
        if head_alone:
            self.student.eval()
            for part in self.student.heads:
                part.train().requires_grad_(True)
        if self.batch_norm == "fixed":
            for part in self.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        return number in (0, self.head)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """The fast weights go back to the slow ones, if the method says so."""
        if self._slow and self._slow_settings.reset == "epoch":
            restore(self.student, tensors(self._slow[0].module))

    @property
    def result(self) -> Classifier:
        """What has been learnt so far: the slow weights where there are some."""
        return self._slow[0].module if self._slow else self.student

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        return {
            "learner": tensors(self),
            "slow": self._slow and tensors(self._slow[0]),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "steps": self._steps,
            "scaler": self.scaler and self.scaler.state_dict(),
        }

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        restore(self, state["learner"])
        if self._slow:
            restore(self._slow[0], state["slow"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self._steps = state["steps"]
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


def _optimizer(
    parameters: list[nn.Parameter], training: spec.Training, lr: float, fused: bool
) -> torch.optim.Optimizer:
    common = {"lr": lr, "weight_decay": training.weight_decay}
    match training.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, momentum=training.momentum, fused=fused or None, **common)
        case "adamw":
            return torch.optim.AdamW(parameters, fused=fused or None, **common)
        case name:
            return create_optimizer_v2(parameters, name, momentum=training.momentum, **common)


def _schedule(
    optimizer: torch.optim.Optimizer, training: spec.Training, lr: float, steps: int
) -> LRScheduler:
    rising = round(training.warmup * steps)
    left = steps - rising
    match training.schedule:
        case "cosine":
            then = CosineAnnealingLR(optimizer, T_max=left)
        case "linear":
            then = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=left)
        case "one_cycle":
            then = OneCycleLR(optimizer, max_lr=lr, total_steps=left)
        case spec.Drops() as drops:
            # Between epochs of the whole run, of which the first steps may be a warm-up.
            ends = [steps // training.epochs * epoch - rising for epoch in drops.epochs(training.epochs)]
            then = MultiStepLR(optimizer, ends, gamma=drops.factor)
        case _:
            then = LambdaLR(optimizer, lambda step: 1.0)
    if not rising:
        return then
    # The first step is taken at a rate above 0.
    first = LinearLR(optimizer, start_factor=1 / (rising + 1), total_iters=rising)
    return SequentialLR(optimizer, [first, then], milestones=[rising])


def slow_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Slow weights that start at the model's: each `update_parameters` is θ ← τ·θ + (1−τ)·θ_fast.

    Buffers (BatchNorm statistics) are averaged alike, as in the paper's runs: they belong to the
    weights they were collected with, and those are averaged. Those of whole numbers are taken over.

    Args:
        model: the fast weights.
        decay: τ in [0, 1).
    """
    average = get_ema_multi_avg_fn(decay)

    def update(slow: list[Tensor], fast: list[Tensor], updates: Tensor) -> None:
        """Tensors of one type: torch hands them over so."""
        if slow[0].is_floating_point():
            average(slow, fast, updates)
        else:
            # Counts, and indices into tables: torch would round their average down, next to the right one.
            for mine, theirs in zip(slow, fast, strict=True):
                mine.copy_(theirs)

    slow = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    # The first update of an AveragedModel copies: spend it on the weights as they are now.
    slow.update_parameters(model)
    return slow


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, those too that a `state_dict` leaves out."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


@torch.no_grad()
def restore(module: nn.Module, kept: dict[str, Tensor]) -> None:
    """Put kept tensors back in place."""
    for name, tensor in tensors(module).items():
        tensor.copy_(kept[name])
