"""Top-5, likelihood and calibration against scikit-learn, closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, top_k_accuracy_score

from study import evaluate, scores
from study.evaluate import Predictions
from study.store.outputs import Outputs, collect


def drawn(samples: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    return logits, np.random.default_rng(seed).integers(0, classes, samples)


def said_of(logits: torch.Tensor, labels: np.ndarray) -> Predictions:
    tensors = (*evaluate.predicted(logits), *evaluate.truth(logits, torch.from_numpy(labels)))
    return Predictions(*(tensor.numpy() for tensor in tensors))


def brute_force(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Guo et al., equation 3, as it is written."""
    error = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return error


def test_measures_are_those_of_scikit_learn():
    logits, labels = drawn(500, 12)
    found = scores.measures(said_of(logits, labels), labels)
    probabilities = logits.softmax(1).double().numpy()
    known = list(range(12))
    expected = top_k_accuracy_score(labels, probabilities, k=5, labels=known)
    assert found["top5_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert found["negative_log_likelihood"] == pytest.approx(log_loss(labels, probabilities, labels=known))
    right = probabilities.argmax(1) == labels
    assert found["calibration_error"] == pytest.approx(brute_force(probabilities.max(1), right), abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 999), st.booleans()), min_size=1, max_size=200),
)
def test_the_calibration_error_is_the_one_of_the_paper(drawn):
    # No edges of bins: these are where floats round.
    confidence = np.array([number / 1000 + 1e-5 for number, _ in drawn])
    correct = np.array([right for _, right in drawn])
    found = scores.calibration_error(confidence, correct)
    assert found == pytest.approx(brute_force(confidence, correct), abs=1e-9)
    assert 0 <= found <= 1


def test_one_who_is_as_often_right_as_sure_is_calibrated():
    confidence = np.repeat(0.75, 400)
    assert scores.calibration_error(confidence, np.arange(400) % 4 > 0) == pytest.approx(0)
    assert scores.calibration_error(np.ones(10), np.zeros(10, bool)) == 1
    assert scores.calibration_error(np.ones(10), np.ones(10, bool)) == 0


@pytest.mark.parametrize("top_k", [None, 7, 3])
def test_what_is_kept_of_outputs_says_the_same_or_nothing(top_k):
    logits, labels = drawn(300, 12)
    tensors, _ = collect([(logits[:200], None), (logits[200:], None)], 300, top_k)
    predictions = Predictions(tensors.pop("label").numpy(), tensors.pop("confidence").numpy())
    said = scores.with_truth(Outputs({}, predictions, **tensors), labels)
    found, expected = scores.measures(said, labels), scores.measures(said_of(logits, labels), labels)
    assert found["calibration_error"] == pytest.approx(expected["calibration_error"])
    if top_k is None:
        assert found == pytest.approx(expected, abs=2e-3)  # float16
    else:
        assert found["negative_log_likelihood"] is None  # of some samples the true class is not kept
        five = expected["top5_accuracy"] if top_k >= 5 else None
        assert found["top5_accuracy"] == (five and pytest.approx(five, abs=0.01))
    known = ~np.isnan(said.true)
    direct = said_of(logits, labels)
    np.testing.assert_allclose(said.true[known], direct.true[known], atol=5e-3)
    assert known.mean() == (1 if top_k is None else pytest.approx((direct.rank < top_k).mean(), abs=0.01))
