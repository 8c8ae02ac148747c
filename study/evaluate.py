"""Running a model over samples, exactly: none dropped, none counted twice, `eval` mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.data import Batches


@dataclass(frozen=True)
class Predictions:
    """What a model says of samples: class int32 [samples] and its softmax probability float32 [samples]."""

    label: NDArray[np.int32]
    confidence: NDArray[np.float32]


def autocast(device: torch.device):
    """bfloat16 autocast on CUDA; full precision elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


@torch.no_grad()
def logits(
    model: nn.Module,
    batches: Batches,
    indices: NDArray[np.int64],
    device: torch.device,
    batch_size: int = 256,
) -> Tensor:
    """Logits of a model for each sample of `indices`, in that order.

    Args:
        model: takes uint8 [batch, 3, side, side], gives [batch, classes]; its mode is put back after.
        batches: the loader.
        indices: int64 [samples], no index twice.
        device: where the model is.
        batch_size: samples a forward pass; does not change the result.

    Returns:
        float32 [samples, classes] on the CPU.

    Raises:
        RuntimeError: the loader dropped, repeated or reordered samples.
    """
    was_training = model.training
    model.eval()
    parts, seen = [], []
    with autocast(device):
        for pixels, _, index in batches.epoch(indices, batch_size, device):
            parts.append(model(pixels).float().cpu())
            seen.append(index.cpu().clone())
    model.train(was_training)
    if not np.array_equal(torch.cat(seen).numpy(), indices):
        raise RuntimeError("the loader did not deliver each sample once, in order")
    return torch.cat(parts)


def predictions(logits: Tensor) -> Predictions:
    """The largest class of logits [samples, classes], and its softmax probability."""
    confidence, label = logits.softmax(dim=1).max(dim=1)
    return Predictions(label.numpy().astype(np.int32), confidence.numpy())
