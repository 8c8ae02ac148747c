"""What is recorded of a model's probabilities, against numpy and scikit-learn, from outputs as kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from study import probabilities, spread
from study.evaluate import Predictions
from study.store.outputs import Outputs, collect


def drawn(samples: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    labels = np.random.default_rng(seed).integers(classes, size=samples)
    noise = 2 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed))
    return noise + 4 * torch.nn.functional.one_hot(torch.from_numpy(labels), classes), labels


def kept(logits: torch.Tensor, top_k: int | None = None) -> Outputs:
    tensors, _ = collect([(logits, None)], len(logits), top_k)
    predictions = Predictions(tensors.pop("label").numpy(), tensors.pop("confidence").numpy())
    return Outputs({}, predictions, **tensors)


def test_columns_are_those_of_numpy_and_scikit_learn():
    logits, labels = drawn(900, 6)
    found = probabilities.measure(kept(logits), labels, 6, "evaluation").columns
    p = logits.double().softmax(1).numpy()
    right, true = p.argmax(1) == labels, p[np.arange(900), labels]
    of_class = [p[labels == c] for c in range(6)]
    expected = {
        "accuracy": right.mean(),
        "nll": log_loss(labels, p, labels=range(6)),
        "brier": brier_score_loss(labels, p, labels=range(6), scale_by_half=False),
        "confidence_q99": np.quantile(p.max(1)[right], 0.99),
        "intra_class_variance": np.mean([of.var(0).sum() for of in of_class]),
        "true_class_variance": np.mean([of[:, c].var() for c, of in enumerate(of_class)]),
        "true_class_sd": np.mean([of[:, c].std() for c, of in enumerate(of_class)]),
        "off_target_mass": 6 / 5 * (1 - true).mean(),
        "entropy": -(p * np.log(p)).sum(1).mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    for bound in ("low", "high"):
        assert found[f"intra_class_variance_{bound}"] == found["intra_class_variance"]
    assert found["spread_ratio"] > 0 and 0 < found["calibration_error"] < 1
    copied = probabilities.of_transfer(probabilities.measure(kept(logits), labels, 6, "transfer"))
    assert copied["transfer_nll"] == found["nll"] and len(copied) == 7


def test_every_reading_follows_from_the_classes():
    logits, labels = drawn(900, 6)
    kept_rows = labels != 4  # a class without images has no row
    found = probabilities.measure(kept(logits[kept_rows]), labels[kept_rows], 6, "evaluation")
    rows = {name: np.array(values) for name, values in found.tables["model_classes"].items()}
    assert rows["class"].tolist() == [0, 1, 2, 3, 5]
    assert rows["samples"].tolist() == np.bincount(labels)[[0, 1, 2, 3, 5]].tolist()
    columns = found.columns
    assert (rows["square"] - rows["mean_square"]).mean() == pytest.approx(columns["intra_class_variance"])
    variance = rows["true_square"] - rows["true_mean"] ** 2
    assert variance.mean() == pytest.approx(columns["true_class_variance"])
    assert np.sqrt(variance).mean() == pytest.approx(columns["true_class_sd"])
    assert (rows["spread"] / rows["margin"]).mean() == pytest.approx(columns["spread_ratio"])
    assert rows["right"].sum() / rows["samples"].sum() == pytest.approx(columns["accuracy"])


def test_soft_labels_are_class_means_and_of_many_classes_the_largest_and_the_rest():
    logits, labels = drawn(300, 6)
    rows = probabilities.measure(kept(logits), labels, 6, "evaluation").tables["soft_labels"]
    means = np.array([logits[labels == c].double().softmax(1).mean(0).numpy() for c in range(6)])
    assert len(rows["class"]) == 36
    np.testing.assert_allclose(rows["probability"], means[rows["class"], rows["other"]], atol=1e-3)

    logits, labels = drawn(240, 120)
    rows = probabilities.measure(kept(logits), labels, 120, "evaluation").tables["soft_labels"]
    for label in np.unique(labels):
        own = np.flatnonzero(rows["class"] == label)
        mean = logits[labels == label].half().double().softmax(1).mean(0).numpy()
        assert [rows["other"][row] for row in own] == [*np.argsort(-mean, kind="stable")[:20], None]
        assert rows["probability"][own].sum() == pytest.approx(1)


def test_of_the_largest_classes_alone_the_metric_has_bounds_and_what_needs_all_is_null():
    logits, labels = drawn(900, 12)
    whole = probabilities.measure(kept(logits), labels, 12, "evaluation").columns
    found = probabilities.measure(kept(logits, 4), labels, 12, "evaluation")
    low, value, high = (found.columns[f"intra_class_variance{end}"] for end in ("_low", "", "_high"))
    assert low < whole["intra_class_variance"] < high and low < value < high
    assert high - low < 0.05
    assert value == pytest.approx(whole["intra_class_variance"], abs=0.005)
    for name in ("accuracy", "calibration_error", "confidence_q99"):
        assert found.columns[name] == pytest.approx(whole[name], abs=1e-3)
    assert found.columns["nll"] is None
    assert not {"brier", "spread_ratio", "entropy"} & found.columns.keys() and found.tables == {}


def test_more_classes_than_sums_are_kept_of_have_only_what_needs_none(monkeypatch):
    monkeypatch.setattr(spread, "MOST", 5)
    logits, labels = drawn(300, 6)
    found = probabilities.measure(kept(logits), labels, 6, "evaluation")
    assert found.columns.keys() == {"accuracy", "nll", "calibration_error", "confidence_q99"}
    assert probabilities.of_transfer(found)["transfer_entropy"] is None


def test_who_is_never_right_is_never_sure_of_it():
    logits, _ = drawn(50, 3)
    found = probabilities.measure(kept(logits), logits.argmin(1).numpy(), 3, "evaluation").columns
    assert found["confidence_q99"] is None and found["accuracy"] == 0


def test_tables_of_several_splits_are_one():
    parts = [
        probabilities.measure(kept(drawn(60, 4)[0]), drawn(60, 4)[1], 4, split)
        for split in ("evaluation", "transfer")
    ]
    rows = probabilities.joined(parts)
    assert rows["model_classes"]["split"] == ["evaluation"] * 4 + ["transfer"] * 4
    assert len(rows["soft_labels"]["other"]) == 32
    assert probabilities.joined([probabilities.Measured({})]) == {}
