"""Where the classes lie before a network's last layer, as label smoothing is said to change it.

The template of a class is its row of the last linear layer with its bias, and x the penultimate activations
with a 1 appended, so that the logit is x · w. Müller et al. (arXiv 1906.02629, section 2) project x on the
plane through the templates of three classes: with V = [w_b − w_a, w_c − w_a] and VᵀV = L·Lᵀ the coordinates
of Gram and Schmidt's basis are L⁻¹ (z_b − z_a, z_c − z_a), of logits and templates alone.

Distances are between class means μ, in units of the root mean square distance r from them: Shen et al.
(arXiv 2104.00676, Fig. 1) name such without a formula, so these are this project's. Relative distance δ =
‖μ_a − μ_b‖ over its mean over all pairs; separation σ = ‖μ_a − μ_b‖ / √((r_a² + r_b²) / 2); spread of
distances ε, to the template of another class: standard deviation over the class's samples over their mean.

Left out on purpose: networks whose logits are not one linear layer's (distilled ones with two heads,
convolutions); the variant that fits the main components of the templates' span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study import mistakes, spec
from study.errors import StudyError
from study.images import class_names
from study.models import zoo
from study.models.zoo import Classifier

LISTED, NEAREST = 100, 20  # classes up to which all distances are listed, and how many of more are
CHECKED = 64  # samples whose logits are computed anew
OFF = 0.02  # of the logits' standard deviation, by how much these may differ
NONE = "its logits are not those of one linear layer, so no geometry is recorded of it"
Columns = dict[str, Any]


class Templates(NamedTuple):
    """Weights float64 [classes, dim] and biases float64 [classes] of a last layer."""

    weight: Tensor
    bias: Tensor

    @property
    def points(self) -> Tensor:
        """Templates: [classes, dim + 1]."""
        return torch.cat((self.weight, self.bias[:, None]), dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Of features [samples, dim]: float64 [samples, classes]."""
        return features.double() @ self.weight.T + self.bias


def templates(network: nn.Module) -> Templates | None:
    """The templates of a timm network; None where its head is not one linear layer."""
    head = network.get_classifier()
    if not isinstance(head, nn.Linear):
        return None
    weight = head.weight.detach().double().cpu()
    bias = torch.zeros(len(weight)) if head.bias is None else head.bias.detach()
    return Templates(weight, bias.double().cpu())


def of(classifier: Classifier) -> Templates | None:
    """The templates of the classes that a classifier tells apart; None as `templates`."""
    found = templates(classifier.network)
    if found is None or classifier.chosen is None:
        return found
    chosen = classifier.chosen.cpu()
    return Templates(found.weight[chosen], found.bias[chosen])


def is_without(model: spec.Model, classes: int) -> bool:
    """Whether a model's head is not one linear layer, as its architecture says: it is built anew."""
    blank = model.model_copy(update={"weights": spec.Random(seed=0)})
    with torch.random.fork_rng(devices=[]):
        return templates(zoo.build(blank, zoo.classes_of(model) or classes).network) is None


def fits(head: Templates, features: Tensor, logits: Tensor) -> bool:
    """Whether logits [samples, classes] are the head's of these features, up to rounding to 16 bits.

    Not so where a network does more with what its last layer gives, or averages over positions after it.
    """
    if features.shape[1] != head.weight.shape[1]:
        return False
    expected, found = head.logits(features[:CHECKED]), logits[:CHECKED].double()
    return bool((found - expected).square().mean() <= OFF**2 * found.var(correction=0))


# --- the plane of three classes -----------------------------------------------------------------


def plane(head: Templates, three: Sequence[int]) -> Tensor | None:
    """L of a plane, float64 [2, 2]; None where the three templates lie on a line, or are one."""
    first, second, third = head.points[list(three)]
    sides = torch.stack((second - first, third - first))
    lower, failed = torch.linalg.cholesky_ex(sides @ sides.T)
    return None if failed or lower.diagonal().min() <= 1e-6 * lower.abs().max() else lower


def project(logits: Tensor, three: Sequence[int], lower: Tensor) -> Tensor:
    """Coordinates float64 [samples, 2] in the plane of three classes, of logits [samples, classes]."""
    of_three = logits[:, list(three)].double()
    differences = of_three[:, 1:] - of_three[:, :1]
    return torch.linalg.solve_triangular(lower, differences.T, upper=False).T


# --- class means --------------------------------------------------------------------------------


class Centres(NamedTuple):
    """Of the classes that have samples, C of them: which, int64 [C]; r [C]; distances of their means [C, C];
    and ε to each class's template [C, classes]. All float64.
    """

    classes: Tensor
    radius: Tensor
    distance: Tensor
    equidistance: Tensor

    @property
    def pairs(self) -> Tensor:
        """Which of [C, C] are pairs of two classes, bool."""
        return ~torch.eye(len(self.classes), dtype=torch.bool)

    @property
    def relative(self) -> Tensor:
        """δ, [C, C]: 1 on average over all pairs."""
        return self.distance / self.distance[self.pairs].mean()

    @property
    def separation(self) -> Tensor:
        """σ, [C, C]."""
        squares = self.radius.square()
        return self.distance / ((squares[:, None] + squares) / 2).sqrt()


def centres(features: Tensor, labels: Tensor, head: Templates) -> Centres:
    """Class means of features [samples, dim] with labels int64 [samples]."""
    means, radii, spreads = [], [], []
    present = labels.unique()
    for label in present:
        x = features[labels == label].double()
        means.append(x.mean(dim=0))
        radii.append((x - means[-1]).square().sum(dim=1).mean().sqrt())
        to_templates = torch.cdist(torch.cat((x, torch.ones(len(x), 1)), dim=1), head.points)
        spreads.append(to_templates.std(dim=0, correction=0) / to_templates.mean(dim=0))
    mean = torch.stack(means)
    # Not by the product of matrices, which loses the small distances.
    distance = torch.cdist(mean, mean, compute_mode="donot_use_mm_for_euclid_dist")
    return Centres(present, torch.stack(radii), distance, torch.stack(spreads))


# --- what is recorded ---------------------------------------------------------------------------


def classes_of(geometry: spec.Geometry, classes: Sequence[str]) -> list[tuple[int, ...]]:
    """The classes of each plane, by number.

    Args:
        geometry: as the study has it.
        classes: names of the data's classes.

    Raises:
        StudyError: a class is not there.
    """
    known = {name: number for number, name in enumerate(class_names.readable(classes))}
    known |= {name: number for number, name in enumerate(classes)}
    for number, three in enumerate(geometry.planes):
        for name in three:
            if name not in known:
                near = mistakes.nearest(name, known) or f"; the first are called {', '.join([*known][:3])}"
                raise StudyError(f"geometry.planes.{number}: there is no class {name!a}{near}")
    return [tuple(known[name] for name in three) for three in geometry.planes]


def measure(
    head: Templates,
    features: Tensor,
    labels: NDArray[np.integer],
    indices: NDArray[np.integer],
    split: str,
    geometry: spec.Geometry,
    classes: Sequence[str],
) -> tuple[Centres, dict[str, Columns]]:
    """The class means of a split, and columns of `centres` and `projections`.

    Args:
        head: templates.
        features: [samples, dim].
        labels, indices: [samples], the true classes, and where the samples are in the file.
        split: its name.
        geometry: as the study has it.
        classes: names of the data's classes.

    Raises:
        StudyError: as `classes_of`.
    """
    true = torch.from_numpy(np.asarray(labels, np.int64))
    found = centres(features, true, head)
    projections: Columns = {name: [] for name in ("split", "plane", "class", "index", "x", "y")}
    for names, three in zip(geometry.planes, classes_of(geometry, classes), strict=True):
        lower = plane(head, three)
        for label in three if lower is not None else ():
            rows = np.flatnonzero(labels == label)[: geometry.samples]
            points = project(head.logits(features[torch.from_numpy(rows)]), three, lower).numpy()
            about = {"split": split, "plane": " + ".join(names), "class": label}
            for name, value in about.items():
                projections[name] += [value] * len(rows)
            for name, values in (("index", indices[rows]), ("x", points[:, 0]), ("y", points[:, 1])):
                projections[name] += values.tolist()
    return found, {"centres": distances(found, split), "projections": projections}


def distances(found: Centres, split: str) -> Columns:
    """Columns of `centres`: a row an ordered pair of classes, of many classes of the nearest ones alone."""
    count = len(found.classes)
    apart = found.distance.clone().fill_diagonal_(torch.inf)
    order = apart.argsort(dim=1, stable=True)[:, : count - 1 if count <= LISTED else NEAREST]
    own = torch.arange(count)[:, None].expand(order.shape)
    own, other = own.flatten(), order.flatten()
    return {
        "split": [split] * len(own),
        "class": found.classes[own].numpy(),
        "other": found.classes[other].numpy(),
        "distance": found.distance[own, other].numpy(),
        "relative_distance": found.relative[own, other].numpy(),
        "separation": found.separation[own, other].numpy(),
        "radius": found.radius[own].numpy(),
        "equidistance": found.equidistance[own, found.classes[other]].numpy(),
    }


def of_classes(found: Centres) -> Columns:
    """Further columns of `model_classes`, a row a class that has samples."""
    apart = found.distance.clone().fill_diagonal_(torch.inf)
    nearest, which = apart.min(dim=1)
    return {
        "radius": found.radius.numpy(),
        "nearest": found.classes[which].numpy(),
        "nearest_distance": nearest.numpy(),
        "mean_distance": (found.distance.sum(dim=1) / (len(found.classes) - 1)).numpy(),
    }
