"""Are frozen models' outputs on the transfer set kept, or computed anew in each trial? What either costs.

A trial learns from what its teacher and its frozen student say of the views it trains on. Kept, that is
one forward pass a model, crop and view, and its logits as float16 on disk; live, it is one in each epoch
of each trial. `decide` chooses for a study that says `auto`: kept where trials share passes, or epochs
do, and the disk has room to spare.

Left out on purpose: what a forward pass takes. Reading logits is cheaper than computing them for every
model that is worth a transfer.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from study import spec, transfer
from study.models import zoo
from study.store import outputs
from study.store.storage import Location

DISK_SHARE = 0.5  # of what is free, the most that outputs take without being asked to


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
        return f"live: cached would take {size} of disk, more than the {room} to spare"


def decide(study: spec.Study, trials: Sequence[spec.Trial], samples: int, classes: int) -> Decision:
    """What becomes of frozen models' outputs: as the study says, or else by reuse and disk.

    Args:
        study: the study.
        trials: all of its trials.
        samples: how many the transfer set holds.
        classes: how many classes the data have.
    """
    budget = study.budget
    crop_of = functools.cache(lambda name: zoo.crop_of(study.zoo[name]))
    live, shared = 0, set()
    for trial in trials:
        models = transfer.frozen_models(trial).values()
        live += budget.epochs * len(models)
        shared |= {(model.name, crop_of(trial.student.name)) for model in models}
    passes = len(shared) * len(budget.views)
    gib = passes * outputs.size_of(samples, classes, None) / 2**30
    room = _room(study.folders)
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
