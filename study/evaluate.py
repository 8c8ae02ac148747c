"""Running a model over samples, exactly: none dropped, none counted twice, `eval` mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.batches import Batches


@dataclass(frozen=True)
class Predictions:
    """What a model says of samples: class int32 [samples] and its softmax probability float32 [samples]."""

    label: NDArray[np.int32]
    confidence: NDArray[np.float32]


def autocast(device: torch.device):
    """bfloat16 autocast on CUDA; full precision elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the device's or the machine's, did not suffice."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def stream(
    model: nn.Module,
    batches: Batches,
    indices: NDArray[np.int64],
    device: torch.device,
    batch_size: int = 256,
) -> Iterator[Tensor]:
    """Logits of a model for each sample of `indices`, in that order, a batch at a time.

    Where memory does not suffice for a batch, the batch size is halved from there on.

    Args:
        model: takes uint8 [batch, 3, side, side], gives [batch, classes]; its mode is put back after.
        batches: the loader.
        indices: int64 [samples], no index twice.
        device: where the model is.
        batch_size: samples a forward pass at most; does not change the result.

    Yields:
        float32 [batch, classes] on the device.

    Raises:
        RuntimeError: the loader dropped, repeated or reordered samples, or memory does not suffice for
            a single one.
    """
    was_training = model.training
    model.eval()
    done = 0
    try:
        while done < len(indices):
            try:
                for pixels, _, index in batches.epoch(indices[done:], batch_size, device):
                    if not np.array_equal(index.cpu().numpy(), indices[done : done + batch_size]):
                        raise RuntimeError("the loader did not deliver each sample once, in order")
                    with torch.no_grad(), autocast(device):
                        logits = model(pixels).float()
                    yield logits
                    done += len(logits)
                if done < len(indices):
                    raise RuntimeError("the loader did not deliver each sample once, in order")
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or batch_size == 1:
                    raise
                batch_size //= 2
    finally:
        model.train(was_training)


def logits(
    model: nn.Module,
    batches: Batches,
    indices: NDArray[np.int64],
    device: torch.device,
    batch_size: int = 256,
) -> Tensor:
    """All of `stream` at once: float32 [samples, classes] on the CPU."""
    return torch.cat([part.cpu() for part in stream(model, batches, indices, device, batch_size)])


def predictions(logits: Tensor) -> Predictions:
    """The largest class of logits [samples, classes], and its softmax probability."""
    confidence, label = logits.softmax(dim=1).max(dim=1)
    return Predictions(label.cpu().numpy().astype(np.int32), confidence.cpu().numpy())
