"""Running a model over samples, exactly: none dropped, none counted twice, `eval` mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study import spread
from study.images.batches import Batches, Resident
from study.views import Shown

if TYPE_CHECKING:
    from study.models.zoo import Classifier

# Samples a forward pass, where memory suffices for them: beyond these nothing gets faster.
BATCH_SIZE = {"cpu": 256, "cuda": 2048}
_fitted: dict[tuple, int] = {}  # by kind of model: what memory sufficed for in this process


@dataclass(frozen=True)
class Predictions:
    """What a model says of samples: class int32 [samples] and its softmax probability float32 [samples].

    And, where it was asked for, of the true class: log-probability float32 [samples], and how many classes
    are above it, int32 [samples]. Where no more than the `kept` largest classes are known, it is NaN of the
    others. `variance` is 1 − S, how much probabilities vary within a class (`study.spread`). `scaled` is the
    mean negative log-likelihood at a temperature T, in nats.
    """

    label: NDArray[np.int32]
    confidence: NDArray[np.float32]
    true: NDArray[np.float32] | None = None
    rank: NDArray[np.int32] | None = None
    kept: int | None = None
    variance: float | None = None
    temperature: float | None = None
    scaled: float | None = None


def default_precision(device: torch.device) -> str:
    """What models compute in where a study does not say."""
    return "bfloat16" if device.type == "cuda" else "float32"


def autocast(device: torch.device, precision: str):
    """Autocast to a precision of 16 bits, if that is it, else nothing."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the device's or the machine's, did not suffice."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def stream(
    model: Classifier,
    loader: Batches | Resident | Shown,
    indices: NDArray[np.int64],
    device: torch.device,
    precision: str,
    batch_size: int | None = None,
    epoch: int | None = None,
    features: bool = False,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Logits of a model for each sample of `indices`, in that order, a batch at a time.

    Where memory does not suffice for a batch, the batch size is halved from there on, and this process
    begins with what was left of it the next time.

    Args:
        model: its mode is put back after.
        loader: of the samples as the model is to see them.
        indices: int64 [samples], no index twice.
        device: where the model is.
        precision: what the model computes in.
        batch_size: samples a forward pass at most; None: `BATCH_SIZE`. Does not change the result.
        epoch: of a `Shown` loader.
        features: whether to give them beside the logits.

    Yields:
        logits float32 [batch, classes] and features [batch, dim] (or None), on the device. Nothing waits for
        the device in between.

    Raises:
        RuntimeError: the loader dropped, repeated or reordered samples (told once all are through), or
            memory does not suffice for a single one.
    """
    kind = (type(getattr(model, "network", model)), sum(p.numel() for p in model.parameters()), device.type)
    size = min(batch_size or BATCH_SIZE[device.type], _fitted.get(kind, len(indices) or 1))
    of_epoch = () if epoch is None else (epoch,)
    was_training = model.training
    model.eval()
    seen: list[Tensor] = []
    done = 0
    try:
        while done < len(indices):
            try:
                for pixels, _, index, *_ in loader.epoch(indices[done:], size, device, *of_epoch):
                    with torch.no_grad(), autocast(device, precision):
                        logits, pooled = model.with_features(pixels) if features else (model(pixels), None)
                        logits = logits.float()
                    yield logits, pooled
                    seen.append(index.clone())
                    done += len(logits)
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or size == 1:
                    raise
                size = _fitted[kind] = size // 2
        if not np.array_equal(torch.cat(seen).cpu().numpy() if seen else [], indices):
            raise RuntimeError("the loader did not deliver each sample once, in order")
    finally:
        model.train(was_training)


def predict(
    model: Classifier,
    loader: Batches | Resident,
    indices: NDArray[np.int64],
    device: torch.device,
    precision: str,
    batch_size: int | None = None,
    labels: NDArray[np.integer] | None = None,
    temperature: float | None = None,
) -> Predictions:
    """What a model says of samples, and of their `labels`, if given, at a `temperature` too; as `stream`, but
    moved once.
    """
    classes = None if labels is None else torch.from_numpy(np.asarray(labels, np.int64)).to(device)
    parts, done, sums, scaled = [], 0, None, []
    for logits, _ in stream(model, loader, indices, device, precision, batch_size):
        of_true = ()
        if classes is not None:
            own = classes[done : done + len(logits)]
            of_true = truth(logits, own)
            if temperature is not None:
                scaled.append(truth(logits / temperature, own)[0])
            if sums is None and logits.shape[1] <= spread.MOST:
                sums = spread.ClassSums(logits.shape[1], device=device)
            if sums is not None:
                sums.add(logits, own)
        parts.append((*predicted(logits), *of_true))
        done += len(logits)
    said = (torch.cat(tensors).cpu().numpy() for tensors in zip(*parts, strict=True))
    return Predictions(
        *said,
        variance=sums and spread.intra_class_variance(sums),
        temperature=temperature,
        scaled=-float(torch.cat(scaled).double().mean()) if scaled else None,
    )


def predicted(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest class of logits [samples, classes], int32, and its softmax probability, float32."""
    confidence, label = logits.softmax(dim=1).max(dim=1)
    return label.int(), confidence


def truth(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each sample the log-probability of the true class, float32, and how many are above it, int32.

    Args:
        logits: [samples, classes], of any precision.
        labels: int64 [samples].
    """
    logits = logits.float()
    true = logits.gather(1, labels[:, None])
    return (true - logits.logsumexp(1, keepdim=True))[:, 0], (logits > true).sum(1).int()
