"""Trials of the small study, changed for a test, and what tests do with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from study import spec, transfer
from study.images.batches import Crop
from study.workspace import Workspace

TIMINGS = {"seconds_load", "seconds_train", "seconds_evaluate", "seconds", "finished"}


def trial_of(study: spec.Study, method: str, student: str = "mixer") -> spec.Trial:
    return next(t for t in study.trials() if t.name == method and t.student.name == student)


def changed(trial: spec.Trial, **changes) -> spec.Trial:
    """The trial with other fields; checked as any other one."""
    kept = {name: getattr(trial, name) for name in type(trial).model_fields}
    return type(trial)(**(kept | changes))


def budget(trial: spec.Trial, **changes) -> spec.Trial:
    return changed(trial, budget=spec.Budget.model_validate(trial.budget.model_dump() | changes))


def method(trial: spec.Trial, **content) -> spec.Trial:
    """The trial by another method."""
    return changed(trial, method=spec.Method.model_validate(content), name=content["method"])


def blank(model: spec.Model, seed: int, name: str = "") -> spec.Model:
    """The model with initial weights."""
    return model.model_copy(update={"weights": spec.Random(seed=seed), "name": name or f"blank{seed}"})


def dropping(trial: spec.Trial) -> spec.Trial:
    """With a student that draws random numbers in every step: dropout."""
    kwargs = {"embed_dim": 16, "num_blocks": 1, "proj_drop_rate": 0.3, "drop_rate": 0.3}
    student = spec.Model(
        timm="tiny_mixer",
        family="mlp",
        kwargs=kwargs,
        config=trial.student.config,
        weights=spec.Random(seed=0),
        name="drops",
    )
    return changed(trial, student=student)


def elsewhere(workspace: Workspace, outputs: Path | None = None, zoo: Path | None = None, **options):
    """A workspace like another one, but with outputs, or a zoo, of its own."""
    given = {"outputs": outputs, "zoo": zoo}
    folders = workspace.folders.model_copy(update={name: f for name, f in given.items() if f is not None})
    place = Workspace(workspace.data, folders, options.pop("device", "cpu"), threads=1, **options)
    place.batches = workspace.batches
    return place


def assert_same(first: transfer.Outcome, second: transfer.Outcome) -> None:
    """Bit for bit, timings aside; the weights by their digest in the row."""
    assert {k: v for k, v in first.row.items() if k not in TIMINGS} == {
        k: v for k, v in second.row.items() if k not in TIMINGS
    }
    assert first.predictions.keys() == second.predictions.keys()
    for name in first.predictions:
        assert np.array_equal(first.predictions[name], second.predictions[name]), name
    assert {k: v for k, v in first.history.items() if k != "seconds"} == {
        k: v for k, v in second.history.items() if k != "seconds"
    }


def assert_close(several: transfer.Outcome, single: transfer.Outcome) -> None:
    """The same up to the order of summation."""
    np.testing.assert_allclose(several.history["loss"], single.history["loss"], rtol=1e-5)
    for name in ("epoch", "stage", "teacher", "lr", "teacher_share"):
        assert several.history[name] == single.history[name], name
    for name, values in single.predictions.items():
        if name.endswith("confidence"):
            np.testing.assert_allclose(several.predictions[name], values, atol=1e-5, err_msg=name)
        else:
            assert np.array_equal(several.predictions[name], values), name


class Interrupted(Exception):
    pass


def until(epochs: int):
    """A `progress` that interrupts after so many calls."""
    calls = []

    def progress(history) -> None:
        calls.append(history)
        if len(calls) == epochs:
            raise Interrupted

    return progress


class ArrayBatches:
    """The loader's interface over arrays in memory, for machines without FFCV."""

    def __init__(self, pixels: torch.Tensor, labels: np.ndarray) -> None:
        self.pixels, self.labels, self.size = pixels, torch.from_numpy(labels), tuple(pixels.shape[2:])
        self.sample_bytes = pixels[0].nbytes

    def epoch(self, order, batch_size, device="cpu"):
        for start in range(0, len(order), batch_size):
            indices = torch.from_numpy(np.asarray(order[start : start + batch_size], dtype=np.int64))
            yield tuple(t.to(device) for t in (self.pixels[indices], self.labels[indices], indices))


def pixels_of(workspace: Workspace) -> torch.Tensor:
    """All images of the file, uint8 [images, 3, side, side]."""
    everything = np.arange(len(workspace.images.labels))
    return torch.cat([pixels.clone() for pixels, _, _ in workspace.batches(Crop()).epoch(everything, 64)])
