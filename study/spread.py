"""How much a model's probabilities differ among the images of one class.

The stability metric of Shen et al. (arXiv 2104.00676, equation 2) is S = 1 − (1/K) Σ_c (1/n_c) Σ_{i in c}
‖p_i − p̄_c‖², with p̄_c the mean of the probabilities p over the n_c images of class c. `intra_class_variance`
is 1 − S, read as printed: of the whole probability vector, over classes first, divided by n_c. As printed it
falls short of the authors' numbers, so that other readings follow from the same sums: the variance and the
standard deviation of the true class's probability. It also is an identity: 1 − S is the Brier score minus the
mean over classes of ‖p̄_c − e_c‖².

All of them fall when a model becomes less sure of the same. What does not change with the scale of the logits
is the spread ratio, which is this project's: for the classes k ≠ c, the standard deviation over the images of
class c of z_k − mean_{k ≠ c} z_k, over the mean margin of z_c above that mean. It is 0 exactly where all
images of a class say the same of the other classes, which is what label smoothing is said to erase.

Everything is of sums over each class, float64, in one pass. Left out on purpose: Bessel's correction, which
equation 2 has not; more than `MOST` classes, whose sums take [classes, classes] twice.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

MOST = 5000  # classes: the sums of so many take 0.4 GB
_EACH = ("samples", "true", "true_square", "square", "entropy", "margin", "contrast_square")


class ClassSums:
    """Sums over the samples of each class of what a model says of them.

    By name (`mean`), with p the probabilities at the temperature, z the logits and c the true class:
    `samples` (how many), `true` (p_c), `true_square` (p_c²), `square` (‖p‖²), `entropy` (of p, in nats),
    `margin` (z_c less the mean of the other logits) and `contrast_square` (the other logits less their mean,
    squared and summed), [classes] each; `probabilities` (p) and `contrasts` (the other logits less their
    mean, 0 for c), [true class, other class].

    Args:
        classes: K, at least 2.
        temperature: T > 0, by which logits are divided before they become probabilities.
        device: where what is added lies.

    Attributes:
        sums: float64 [classes, numbers], all of them side by side; those of other samples may be added.
    """

    def __init__(self, classes: int, temperature: float = 1.0, device: torch.device | str = "cpu") -> None:
        self.classes, self.temperature = classes, temperature
        width = len(_EACH) + 2 * classes
        self.sums = torch.zeros(classes, width, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Further samples: logits [samples, classes] of any precision, and labels int64 [samples]."""
        z, own = logits.double(), labels[:, None]
        log = (z / self.temperature).log_softmax(dim=1)
        p = log.exp()
        true, logit = p.gather(1, own), z.gather(1, own)
        others = (z.sum(dim=1, keepdim=True) - logit) / (self.classes - 1)
        contrasts = (z - others).scatter(1, own, 0.0)
        square, contrast_square = (x.square().sum(dim=1, keepdim=True) for x in (p, contrasts))
        entropy = -(p * log).sum(dim=1, keepdim=True)
        each = (torch.ones_like(true), true, true.square(), square, entropy, logit - others, contrast_square)
        self.sums.index_add_(0, labels, torch.cat((*each, p, contrasts), dim=1))

    @property
    def samples(self) -> Tensor:
        """How many samples each class has, float64 [classes]."""
        return self.sums[:, 0]

    @property
    def present(self) -> Tensor:
        """Which classes have samples, bool [classes]."""
        return self.samples > 0

    def mean(self, name: str) -> Tensor:
        """Means over the samples of each class that has any: float64 [classes present(, classes)]."""
        begin, length = len(_EACH), self.classes
        if name in _EACH:
            begin, length = _EACH.index(name), 1
        elif name == "contrasts":
            begin += self.classes
        sums = self.sums[self.present, begin : begin + length] / self.samples[self.present, None]
        return sums[:, 0] if name in _EACH else sums

    def overall(self, name: str) -> float:
        """The mean over all samples of one of the numbers a sample has."""
        return float(self.sums[:, _EACH.index(name)].sum() / self.samples.sum())


def class_sums(parts: Iterable[Tensor], labels: Tensor, classes: int, temperature: float = 1.0) -> ClassSums:
    """The sums of successive batches of logits [batch, classes], with the labels int64 [samples] of all."""
    sums, done = ClassSums(classes, temperature, labels.device), 0
    for logits in parts:
        sums.add(logits, labels[done : done + len(logits)])
        done += len(logits)
    return sums


# --- readings -----------------------------------------------------------------------------------


def class_variances(sums: ClassSums) -> Tensor:
    """Of each class present the mean of ‖p − p̄_c‖² over its samples, float64 [classes present]."""
    return (sums.mean("square") - sums.mean("probabilities").square().sum(dim=1)).clamp(min=0)


def intra_class_variance(sums: ClassSums) -> float:
    """1 − S (arXiv 2104.00676, equation 2): in [0, 1 − 1/K]; over the classes that have samples."""
    return float(class_variances(sums).mean())


def _true_class_variances(sums: ClassSums) -> Tensor:
    return (sums.mean("true_square") - sums.mean("true").square()).clamp(min=0)


def true_class_variance(sums: ClassSums) -> float:
    """The variance of the true class's probability within a class, mean over classes: in [0, 1/4]."""
    return float(_true_class_variances(sums).mean())


def true_class_sd(sums: ClassSums) -> float:
    """The standard deviation of the true class's probability within a class, mean over classes."""
    return float(_true_class_variances(sums).sqrt().mean())


def brier(sums: ClassSums) -> float:
    """The Brier score: mean over samples of ‖p − e_y‖², in [0, 2]."""
    return sums.overall("square") - 2 * sums.overall("true") + 1


def off_target_mass(sums: ClassSums) -> float:
    """γ: mean over samples of 1 − p_y, times K/(K − 1).

    A perfect fit of labels smoothed by α, in torch's convention, has α (after arXiv 1906.02629).
    """
    return (1 - sums.overall("true")) * sums.classes / (sums.classes - 1)


def class_spreads(sums: ClassSums) -> Tensor:
    """√τ_c of each class present: root of the mean over k ≠ c of the variance of what logits say of k."""
    variances = sums.mean("contrast_square") - sums.mean("contrasts").square().sum(dim=1)
    return (variances / (sums.classes - 1)).clamp(min=0).sqrt()


def spread_ratio(sums: ClassSums) -> float | None:
    """Mean over classes of √τ_c over the mean margin: unchanged by z → a·z + b with a > 0.

    None where the true class's logit is not above the others' mean in some class: the model does not know
    it, and there is nothing to measure the spread by; and of two classes, where there is one other.
    """
    margins = sums.mean("margin")
    if sums.classes == 2 or (margins <= 0).any():
        return None
    return float((class_spreads(sums) / margins).mean())


# --- where only the largest classes are kept ----------------------------------------------------


def top_k_bounds(
    classes: Tensor, log_probabilities: Tensor, rest: Tensor, labels: Tensor, count: int
) -> tuple[float, float, float]:
    """What 1 − S is at least, likely, and at most, where only the k largest probabilities are kept.

    A probability that is not kept is at most the smallest that is, and all of them sum to the rest. So
    ‖p_i‖² lies between the rest spread evenly and in as few classes as it fits. Of p̄_c = a + b with a known,
    b(j) is at most h(j), the mean of what class j can hide, and Σ b is known: ‖p̄_c‖² lies between Σ a² and
    Σ a² + max Σ b·(2a + h), which fills first where 2a + h is largest. Likely: the rest spread evenly.

    Args:
        classes: int [samples, k], the largest first.
        log_probabilities: [samples, k], of those.
        rest: [samples], log-probability of all other classes together.
        labels: int64 [samples].
        count: K > k, how many classes there are.

    Returns:
        Lower bound, value, upper bound, up to the rounding of what is kept.
    """
    k, found = classes.shape[1], []
    for label in labels.unique():
        rows = labels == label
        places = classes[rows].long()
        p, r = log_probabilities[rows].double().exp(), rest[rows].double().exp()
        most = torch.minimum(p[:, -1], r)  # that one class may hide
        even = r / (count - k)
        known, hidden = p.square().sum(dim=1).mean(), r.mean()
        a, h, b = (_by_class(values, places, count) for values in (p, -most[:, None], -even[:, None]))
        h, b = ((mean + of.mean()).clamp(min=0) for mean, of in ((h, most), (b, even)))  # where not kept
        worth, order = (2 * a + h).sort(descending=True)
        before = h[order].cumsum(0) - h[order]
        filled = torch.minimum((hidden - before).clamp(min=0), h[order])
        square = known + (r * even).mean(), known + (r * most).mean()
        mean = a.square().sum(), a.square().sum() + (filled * worth).sum()
        found.append((square[0] - mean[1], square[0] - (a + b).square().sum(), square[1] - mean[0]))
    low, value, high = (float(torch.stack(of).mean()) for of in zip(*found, strict=True))
    return max(low, 0.0), value, high


def _by_class(values: Tensor, places: Tensor, count: int) -> Tensor:
    """Means over samples of values [samples, k or 1] that stand in some classes [samples, k]: [count]."""
    sums = torch.zeros(count, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, places.flatten(), values.expand(places.shape).flatten()) / len(places)
