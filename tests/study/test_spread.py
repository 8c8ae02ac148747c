"""The stability metric and its rivals against loops, closed forms, an identity and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from study import recipe, spec, spread
from study.spread import ClassSums, class_sums
from tests.study.trials import blank

EXAMPLES = settings(max_examples=40)


def drawn(seed: int, samples: int = 120, classes: int = 5, scale: float = 2.0):
    """Logits float32 that know something, and labels; the last class may have few images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    logits = scale * torch.randn(samples, classes, generator=generator)
    return logits + 2 * torch.nn.functional.one_hot(labels, classes), labels


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Equation 2, as it is written, of the classes that have images."""
    p, terms = logits.double().softmax(1).numpy(), []
    for label in np.unique(labels):
        of_class = p[labels.numpy() == label]
        mean = sum(of_class) / len(of_class)
        terms.append(sum(np.linalg.norm(row - mean) ** 2 for row in of_class) / len(of_class))
    return sum(terms) / len(terms)


models = st.builds(
    drawn, st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 8), st.sampled_from([0.1, 1.0, 5.0])
)


# --- the metric ---------------------------------------------------------------------------------


@given(models)
@EXAMPLES
def test_the_metric_is_equation_2(model):
    logits, labels = model
    found = spread.intra_class_variance(class_sums([logits], labels, logits.shape[1]))
    assert found == pytest.approx(by_hand(logits, labels), abs=1e-12)
    assert 0 <= found <= 1 - 1 / logits.shape[1]


@given(models)
@EXAMPLES
def test_the_metric_is_the_brier_score_less_what_class_means_are_off(model):
    """Both as means over classes, with the Brier score of each from its samples."""
    logits, labels = model
    classes = logits.shape[1]
    p, target = logits.double().softmax(1), torch.nn.functional.one_hot(labels, classes).double()
    score = (p - target).square().sum(1)
    present = labels.unique()
    of_class = torch.stack([score[labels == c].mean() for c in present]).mean()
    sums = class_sums([logits], labels, classes)
    off = sums.mean("probabilities") - torch.eye(classes, dtype=torch.float64)[present]
    expected = of_class - off.square().sum(1).mean()
    assert spread.intra_class_variance(sums) == pytest.approx(float(expected), abs=1e-12)


def test_equal_rows_do_not_vary_and_one_hot_ones_as_much_as_they_can():
    labels = torch.arange(4).repeat_interleave(8)
    same = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))[labels]
    sums = class_sums([same], labels, 4)
    for reading in (spread.intra_class_variance, spread.true_class_variance, spread.true_class_sd):
        assert reading(sums) == pytest.approx(0, abs=1e-7)
    uniform = 1000 * torch.eye(4).repeat(8, 1)
    sums = class_sums([uniform], labels, 4)
    assert spread.intra_class_variance(sums) == pytest.approx(1 - 1 / 4)
    assert spread.true_class_variance(sums) == pytest.approx(1 / 4 * 3 / 4)
    assert spread.true_class_sd(sums) == pytest.approx((1 / 4 * 3 / 4) ** 0.5)


@pytest.mark.parametrize("sizes", [[6000], [1] * 50 + [5950], [2500, 3500]])
def test_batches_order_and_half_precision_do_not_matter(sizes):
    logits, labels = drawn(1, 6000)
    whole = spread.intra_class_variance(class_sums([logits], labels, 5))
    order = torch.randperm(6000, generator=torch.Generator().manual_seed(2))
    for one, of in ((logits, labels), (logits[order], labels[order])):
        found = spread.intra_class_variance(class_sums(one.split(sizes), of, 5))
        assert found == pytest.approx(whole, abs=1e-12)
        half = spread.intra_class_variance(class_sums(one.half().split(sizes), of, 5))
        assert half == pytest.approx(whole, abs=1e-5)


def test_classes_without_images_are_left_out_and_one_image_does_not_vary():
    logits, labels = drawn(3, classes=6)
    kept = (labels != 2) & (labels != 5)
    sums = class_sums([logits[kept]], labels[kept], 6)
    assert sums.present.tolist() == [True, True, False, True, True, False]
    assert spread.intra_class_variance(sums) == pytest.approx(by_hand(logits[kept], labels[kept]))
    assert spread.spread_ratio(sums) > 0
    one = class_sums([logits[:1]], labels[:1], 6)
    assert spread.intra_class_variance(one) == spread.true_class_sd(one) == 0


# --- its rivals ---------------------------------------------------------------------------------


def test_what_is_said_of_samples_is_what_numpy_and_scikit_learn_say():
    logits, labels = drawn(4)
    p = logits.double().softmax(1).numpy()
    sums, true = class_sums([logits], labels, 5), p[np.arange(120), labels]
    expected = brier_score_loss(labels, p, labels=range(5), scale_by_half=False)
    assert spread.brier(sums) == pytest.approx(expected)
    assert spread.off_target_mass(sums) == pytest.approx((1 - true).mean() * 5 / 4)
    assert sums.overall("entropy") == pytest.approx(-(p * np.log(p)).sum(1).mean())
    of_classes = [true[labels == c] for c in range(5)]
    assert spread.true_class_variance(sums) == pytest.approx(np.mean([of.var() for of in of_classes]))
    assert spread.true_class_sd(sums) == pytest.approx(np.mean([of.std() for of in of_classes]))
    means = np.stack([p[labels == c].mean(0) for c in range(5)])
    np.testing.assert_allclose(sums.mean("probabilities"), means)


@given(st.floats(0.01, 0.9), st.integers(2, 30))
@EXAMPLES
def test_a_perfect_fit_of_smoothed_labels_has_their_share_off_target(alpha, classes):
    target = (1 - alpha) * torch.eye(classes, dtype=torch.float64) + alpha / classes
    sums = class_sums([target.log()], torch.arange(classes), classes)
    assert spread.off_target_mass(sums) == pytest.approx(alpha)
    assert sums.overall("entropy") == pytest.approx(float(-(target[0] * target[0].log()).sum()))


def test_the_temperature_softens_probabilities_and_leaves_logits():
    logits, labels = drawn(5)
    hot, plain = class_sums([logits], labels, 5, 4.0), class_sums([logits / 4], labels, 5)
    assert spread.intra_class_variance(hot) == pytest.approx(spread.intra_class_variance(plain))
    assert spread.intra_class_variance(hot) < spread.intra_class_variance(class_sums([logits], labels, 5)) / 2
    torch.testing.assert_close(hot.mean("margin"), 4 * plain.mean("margin"))


@given(models, st.floats(0.1, 10), st.floats(-50, 50))
@EXAMPLES
def test_the_spread_ratio_does_not_see_scale_and_shift(model, scale, shift):
    logits, labels = model
    logits = logits.double() + 20 * torch.nn.functional.one_hot(labels, logits.shape[1])
    found = spread.spread_ratio(class_sums([logits], labels, logits.shape[1]))
    again = spread.spread_ratio(class_sums([scale * logits + shift], labels, logits.shape[1]))
    if logits.shape[1] == 2:
        assert found is again is None
    else:
        assert again == pytest.approx(found, rel=1e-6, abs=1e-9)


def test_the_spread_ratio_is_that_of_a_loop():
    logits, labels = drawn(6)
    ratios = []
    for c in range(5):
        z = logits[labels == c].double().numpy()
        others = np.delete(z, c, axis=1)
        contrasts = others - others.mean(1, keepdims=True)
        ratios.append(np.sqrt(contrasts.var(0).mean()) / (z[:, c] - others.mean(1)).mean())
    assert spread.spread_ratio(class_sums([logits], labels, 5)) == pytest.approx(np.mean(ratios))


def test_collapsed_classes_have_no_spread_and_who_knows_nothing_no_ratio():
    """A class's images may differ in how sure the model is, but not in what it says of the others."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(4).repeat_interleave(10)
    others = torch.randn(4, 4, generator=generator)[labels]
    sure = 10 + torch.rand(40, 1, generator=generator)
    logits = others + sure * torch.eye(4)[labels] + torch.randn(40, 1, generator=generator)
    assert spread.spread_ratio(class_sums([logits], labels, 4)) == pytest.approx(0, abs=1e-6)
    assert spread.intra_class_variance(class_sums([logits], labels, 4)) > 0
    assert spread.spread_ratio(class_sums([torch.zeros(40, 4)], labels, 4)) is None


def test_sums_are_collected_as_they_come():
    logits, labels = drawn(8)
    sums = ClassSums(5)
    for begin in (0, 40, 80):
        sums.add(logits[begin : begin + 40], labels[begin : begin + 40])
    assert sums.samples.tolist() == torch.bincount(labels).tolist()
    expected = spread.intra_class_variance(class_sums([logits], labels, 5))
    assert spread.intra_class_variance(sums) == pytest.approx(expected)


# --- where only the largest classes are kept ----------------------------------------------------


def truncated(logits: torch.Tensor, k: int):
    values, classes = logits.double().log_softmax(1).sort(1, descending=True)
    return classes[:, :k], values[:, :k], values[:, k:].logsumexp(1)


@given(
    st.builds(
        drawn, st.integers(0, 10**6), st.integers(2, 60), st.integers(4, 12), st.sampled_from([0.1, 1.0, 5.0])
    )
)
@settings(max_examples=20)
def test_bounds_hold_and_shrink_with_what_is_kept(model):
    logits, labels = model
    classes = logits.shape[1]
    true, before = by_hand(logits, labels), (0.0, 1.0)
    for k in range(1, classes):
        low, value, high = spread.top_k_bounds(*truncated(logits, k), labels, classes)
        assert before[0] - 1e-9 <= low <= true + 1e-9
        assert true - 1e-9 <= high <= before[1] + 1e-9
        assert low - 1e-9 <= value <= high + 1e-9
        before = low, high
    assert value == pytest.approx(true, abs=1e-9)  # of the last class all is known


def test_the_likely_value_spreads_the_rest_evenly():
    logits, labels = drawn(9, classes=12)
    places, log, rest = truncated(logits, 4)
    filled = (rest[:, None] - np.log(8)).expand(-1, 12).scatter(1, places, log)
    _, value, _ = spread.top_k_bounds(places, log, rest, labels, 12)
    assert value == pytest.approx(by_hand(filled, labels))
    assert value == pytest.approx(by_hand(logits, labels), abs=0.01)


def test_bounds_are_those_counted_by_hand():
    """Four images of one class, each sure of another class with 0.6: of 0.4 that are hidden a class may hide
    0.3 where one image shows it, 0.4 elsewhere; the mean is longest with 0.3 and 0.1 in two that are shown.
    """
    labels, rest = torch.zeros(4, dtype=torch.long), torch.full((4,), 0.4).log()
    low, _, high = spread.top_k_bounds(
        torch.arange(4)[:, None], rest[:, None].exp().add(0.2).log(), rest, labels, 8
    )
    assert low == pytest.approx(0.36 + 0.4**2 / 7 - 4 * 0.15**2 - 0.4 * (2 * 0.15 + 0.3), abs=1e-6)
    assert high == pytest.approx(0.36 + 0.4**2 - 4 * 0.15**2, abs=1e-6)


def test_no_class_hides_more_than_the_smallest_that_is_kept():
    quarter = torch.full((3, 2), 0.25).log()
    places, rest = torch.tensor([[0, 1]] * 3), torch.full((3,), 0.5).log()
    _, value, high = spread.top_k_bounds(places, quarter, rest, torch.zeros(3, dtype=torch.long), 4)
    assert (value, high) == (pytest.approx(0, abs=1e-7), pytest.approx(4 * 0.25**2 - 2 * 0.25**2))


# --- a run --------------------------------------------------------------------------------------


def test_a_model_trained_on_smoothed_labels_varies_less_within_classes(workspace, base):
    """Twins: of one seed, so that they begin alike and see the same images in the same order."""
    model = spec.Study.model_validate(base).zoo["mixer"]
    found = []
    for alpha in (0.0, 0.2):
        phases = (spec.Phase(epochs=20, lr=1e-2, batch_size=50),)
        weights = spec.Trained(phases=phases, label_smoothing=alpha)
        twin = model.model_copy(update={"weights": weights})
        made, _ = recipe.train(twin, blank(twin, 0), workspace)
        found.append([workspace.predict(made, split).variance for split in ("transfer", "evaluation")])
    assert all(smooth < 0.9 * hard for hard, smooth in zip(*found, strict=True))
