"""What frozen models say of the views that a student learns from: kept and looked up, or computed in each
step.

One question: `Frozen.epoch(n)(pixels, indices)` gives logits, and features where they are wanted. Kept, the
answers are one file a model and view (`study.store.outputs`), float16: one forward pass for all trials,
methods and seeds. Views that differ in few ways are kept by what differs: with mirroring alone a sample has
two, so two passes serve every epoch. Live, it is a forward pass in each step. Both give the same to float16's
precision.

`decide` chooses for a study that says `auto`: kept where trials share passes, or epochs do, and the disk has
room to spare. Maps of a network's stages are never kept, which take many times what an image does: who is
asked for them is asked live, whatever becomes of the others' outputs.

Left out on purpose: what a forward pass takes. Reading is cheaper than computing for every
model that is worth a transfer.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from study import evaluate, spec
from study.errors import StudyError
from study.models import zoo
from study.models.zoo import Classifier
from study.store import outputs
from study.store.storage import Location
from study.views import View
from study.workspace import Workspace

# Logits [batch, classes], features [batch, dim], and of each stage maps [batch, channels, height, width]; all
# float32.
Said = tuple[Tensor, Tensor | None, list[Tensor] | None]

FEW = 64  # samples that live models are asked about beforehand
DISK_SHARE = 0.5  # of what is free, the most that outputs take without being asked to


def kept_views(view: View, epochs: int) -> list[dict[str, int]]:
    """The different views that a run of epochs shows, as keywords of `Workspace.shown`.

    Its variants if there are no more of them than epochs, else its epochs.
    """
    if view.variants is not None and view.variants <= epochs:
        return [{"variant": number} for number in range(view.variants)]
    return [{"epoch": number} for number in range(epochs)]


class Frozen:
    """One frozen model, asked about the transfer set.

    Args:
        workspace: where it runs, and whether its answers are kept.
        classifier: the model; never changed.
        view: how samples are shown.
        epochs: how many there will be.
        features, maps: whether they are wanted.
        kept: whether the answers may be kept, where the workspace keeps any.
    """

    def __init__(
        self,
        workspace: Workspace,
        classifier: Classifier,
        view: View,
        epochs: int,
        features: bool = False,
        maps: bool = False,
        kept: bool = True,
    ) -> None:
        self.workspace, self.classifier, self.view = workspace, classifier, view
        self.features, self.maps = features, maps
        self.cached = workspace.cached and kept and not maps
        self.views = kept_views(view, epochs)

    def prefetch(self, begin: int = 0) -> None:
        """Keep all answers that are not yet, from the `begin`-th view on: several trials share the work.

        Raises:
            StudyError: one is not finite; where they are not kept, one of the first few. Data partitioning
                would never listen to it, without a word.
        """
        if self.cached:
            begin %= len(self.views)
            for which in self.views[begin:] + self.views[:begin]:
                self._kept(which)
            return
        place, samples = self.workspace, self.workspace.splits["transfer"][:FEW]
        loader = place.shown(self.view, "transfer")
        for logits, _ in evaluate.stream(
            self.classifier, loader, samples, place.device, place.precision, epoch=0
        ):
            if not logits.isfinite().all():
                raise StudyError(
                    f"zoo.{self.classifier.model.name}: its outputs are not finite; give it other weights"
                )

    def _kept(self, which: dict[str, int]) -> tuple[Tensor, Tensor | None]:
        return self.workspace.transfer_outputs(self.classifier, self.view, self.features, **which)

    def epoch(self, number: int) -> Callable[[Tensor, Tensor], Said]:
        """What to ask about the batches of an epoch: pixels as shown, and indices."""
        if not self.cached:
            return self._compute
        if "epoch" in self.views[0]:
            kept = [self._kept({"epoch": number})]
        else:
            kept = [self._kept(which) for which in self.views]
        samples = torch.from_numpy(self.workspace.splits["transfer"]).to(self.workspace.device)

        def look_up(pixels: Tensor, indices: Tensor) -> Said:
            rows = torch.searchsorted(samples, indices)
            variant = self.view.variant(indices, number) if len(kept) > 1 else None
            logits, features = (self._rows(tensors, rows, variant) for tensors in zip(*kept, strict=True))
            return logits, features, None

        return look_up

    def _rows(self, kept: Sequence[Tensor | None], rows: Tensor, variant: Tensor | None) -> Tensor | None:
        """Of each sample the row that is kept for its variant, float32 on the device."""
        if kept[0] is None:
            return None
        device = self.workspace.device
        found = kept[0][rows.to(kept[0].device)].to(device)
        for number, tensor in enumerate(kept[1:], 1):
            other = tensor[rows.to(tensor.device)].to(device)
            found = torch.where((variant == number)[:, None], other, found)
        return found.float()

    def _compute(self, pixels: Tensor, indices: Tensor) -> Said:
        with torch.no_grad(), evaluate.autocast(pixels.device, self.workspace.precision):
            if self.maps:
                logits, features, maps = self.classifier.with_maps(pixels)
                return logits.float(), features.float(), [one.float() for one in maps]
            if self.features:
                logits, features = self.classifier.with_features(pixels)
                return logits.float(), features.float(), None
            return self.classifier(pixels).float(), None, None


class Panel:
    """All frozen models that an objective reads, asked at once.

    Args:
        frozen: the original student, if it is read.
        teachers: in their order.
        samples: int64 [samples], the transfer set, sorted, if it is read where a sample lies in it.
    """

    def __init__(
        self, frozen: Frozen | None, teachers: Sequence[Frozen], samples: Tensor | None = None
    ) -> None:
        self.frozen, self.teachers, self.samples = frozen, tuple(teachers), samples

    def prefetch(self, begin: int) -> None:
        for one in (self.frozen, *self.teachers):
            if one is not None:
                one.prefetch(begin)

    def epoch(self, number: int) -> Callable[[Tensor, Tensor], dict[str, Any]]:
        """As `Frozen.epoch`, by the names that objectives use."""
        frozen = self.frozen and self.frozen.epoch(number)
        teachers = [teacher.epoch(number) for teacher in self.teachers]

        def ask(pixels: Tensor, indices: Tensor) -> dict[str, Any]:
            said: dict[str, Any] = {}
            if self.samples is not None:
                said["indices"] = torch.searchsorted(self.samples, indices)
            if frozen is not None:
                said["frozen"], said["frozen_features"], _ = frozen(pixels, indices)
            if teachers:
                answers = [teacher(pixels, indices) for teacher in teachers]
                said["teachers"], said["teachers_features"], _ = zip(*answers, strict=True)
                said["teacher"], said["teacher_features"], said["teacher_maps"] = answers[0]
            return said

        return ask


def panel(
    workspace: Workspace,
    method: spec.Method,
    view: View,
    epochs: int,
    student: Classifier,
    teachers: Sequence[Classifier],
) -> Panel:
    """The frozen models that a method reads; those it does not are not asked."""
    needs = method.needs

    def ask(classifier: Classifier, *names: str) -> Frozen:
        features, maps = (any(f"{name}_{of}" in needs for name in names) for of in ("features", "maps"))
        return Frozen(workspace, classifier, view, epochs, features, maps)

    read = {"frozen", "frozen_features"} & set(needs)
    samples = torch.from_numpy(workspace.splits["transfer"]).to(workspace.device)
    return Panel(
        ask(student, "frozen") if read else None,
        [ask(teacher, "teacher", "teachers") for teacher in teachers] if method.asks_teachers else [],
        samples if "indices" in needs else None,
    )


# --- planning -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """What becomes of the outputs, and why.

    `live_passes` and `cached_passes` are forward passes over the transfer set that either way takes,
    `gib` what the outputs take on disk, in GiB; `room` what they may take.
    """

    transfer: Literal["cached", "live"]
    live_passes: int
    cached_passes: int
    gib: float
    room: float
    asked: bool

    def __str__(self) -> str:
        passes = f"{self.cached_passes:,} forward passes over the transfer set, not {self.live_passes:,}"
        size, room = (f"{gib:,.0f} GiB" if gib >= 10 else f"{gib:.1g} GiB" for gib in (self.gib, self.room))
        if self.asked:
            return f"{self.transfer}, as the study says (cached: {passes}, {size} on disk)"
        if self.transfer == "cached":
            return f"cached: {passes}, and {size} of the {room} of disk to spare"
        if self.cached_passes >= self.live_passes:
            return f"live: no two trials share a forward pass (cached would take {size} of disk)"
        return f"live: cached would take {size} of disk, more than the {room} to spare ({passes})"


def decide(study: spec.Study, trials: Sequence[spec.Trial], samples: int, classes: int) -> Decision:
    """What becomes of frozen models' outputs: as the study says, or else by reuse and disk.

    Features, where an objective reads them, are counted as if there were 2,048.

    Args:
        study: the study.
        trials: all of its trials.
        samples: how many the transfer set holds.
        classes: how many classes the data have.
    """
    crop_of = functools.cache(lambda name: zoo.crop_of(study.zoo[name]))
    live = alone = 0
    kept: dict[tuple[str, View, bool], int] = {}  # epochs, by model, view, and whether with features
    for trial in trials:
        if trial.combine in spec.SOUPS:  # an average: its students are transfers of their own
            continue
        method, budget = trial.method, trial.budget
        needs = set(method.needs)
        view = View(crop_of(trial.student.name), budget.transforms, budget.view_seed)
        # A later stage of a sequence freezes the student of the stage before, which is no one else's.
        stages = len(trial.teachers) - 1 if trial.combine == "sequential" else 0
        models = [model.name for model in trial.teachers if method.asks_teachers]
        if "teacher_maps" in needs:  # never kept
            alone, models = alone + budget.epochs * len(models), []
        if {"frozen", "frozen_features"} & needs:
            models += [trial.student.name, *(f"{trial.id} {stage}" for stage in range(stages))]
        features = any(name.endswith("_features") for name in needs - {"student_features"})
        asked_about = [(model, view, features) for model in models]
        if method.augmentation:
            copies = [(trial.teachers[-1].name, copy, False) for copy in method.augmentation.views(view)]
            if method.augmentation.draw == "sample":
                asked_about += copies
            else:  # of a batch: they are never kept
                alone += budget.epochs * len(copies)
        live += budget.epochs * len(asked_about)
        for what in asked_about:
            kept[what] = max(budget.epochs, kept.get(what, 0))
    files = [(len(kept_views(view, epochs)), features) for (_, view, features), epochs in kept.items()]
    sizes = [many * outputs.size_of(samples, classes, None, 2048 * features) for many, features in files]
    gib, room = sum(sizes) / 2**30, _room(study.folders)
    live, passes = live + alone, sum(many for many, _ in files) + alone
    asked = study.outputs.transfer
    automatic = "cached" if passes < live and gib <= room else "live"
    return Decision(automatic if asked == "auto" else asked, live, passes, gib, room, asked != "auto")


def _room(folders: spec.Folders) -> float:
    """GiB that outputs may take: at a URL, what a node's copies of them may."""
    if not isinstance(folders.outputs, Path):
        return DISK_SHARE * folders.cache_gib
    return DISK_SHARE * shutil.disk_usage(_existing(folders.outputs)).free / 2**30


def _existing(folder: Location) -> Location:
    return next(place for place in (folder, *folder.parents) if place.exists())
