"""Values of the official functions of arXiv 2012.02909 on fixed inputs, met by ours.

`good_da_parity.json` holds them: what the functions of MingSun-Tse/Good-DA-in-KD (commit 75443f9) and of
torchvision 0.28.0 give on CPU in float32 for the inputs that it describes. Every case lists the random draws
that were made; ours are fed the same. Not met here: losses of other distillers, and the score 'dissimilarity'
of its `pick_scores`, which the paper does not use.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from study import spec
from study.learner import Learner

VALUES = json.loads((Path(__file__).parent / "good_da_parity.json").read_text())


def normal(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    values = scale * np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


X, LOGIT_T, LOGIT_S = normal(1, (4, 2, 8, 8)), normal(3, (4, 5), 2), normal(4, (4, 5), 2)
TARGET = torch.from_numpy(np.random.RandomState(2).randint(0, 5, 4))
W_T, W_S = normal(5, (128, 5), 0.1), normal(6, (128, 5), 0.1)
U8 = torch.from_numpy(np.random.RandomState(7).randint(0, 256, (4, 3, 32, 32)).astype(np.uint8))
MEAN, STD = (
    torch.tensor(values)[:, None, None] for values in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.float() / 255 - MEAN) / STD


def test_inputs_are_those_that_were_given_to_the_official_functions():
    made = {"x": X, "logit_t": LOGIT_T, "logit_s": LOGIT_S, "W_t": W_T, "W_s": W_S, "u8": U8}
    checks = VALUES["inputs"]["checks"]
    for name, tensor in (made | {"z": normalised(U8)}).items():
        assert digest(tensor) == checks[name]["sha256"], name
    assert TARGET.tolist() == checks["target"]


@pytest.mark.parametrize("epochs", [240, 480, 960])
def test_rates_drop_where_the_official_ones_do(epochs):
    """The rate of each epoch's only step; both sides of every drop."""
    student = torch.nn.Linear(1, 1)
    student.register_buffer("mean", torch.zeros(1))
    schedule = {"drops": [0.625, 0.75, 0.875], "factor": 0.1}
    training = spec.Training(epochs=epochs, batch_size=1, schedule=schedule)
    learner = Learner(student, None, (), training, 0.05, epochs, "float32")
    rates = {}
    for epoch in range(1, epochs + 1):
        learner.step(student.weight.sum())
        rates[epoch] = learner.lr
    wanted = [case for case in VALUES["schedule"] if case["epochs"] == epochs]
    assert len(wanted) == 8
    for case in wanted:
        assert rates[case["epoch (from 1)"]] == case["lr"]
