"""Models made of others' weights, chosen by how good they are on images kept aside.

Between a student before and after a transfer: WiSE-FT (Wortsman et al., arXiv 2109.01903). Of several
transfers of one student: the greedy soup (Wortsman et al., arXiv 2203.05482, recipe 1). Nothing is trained.
What is chosen by is a function that scores a model, `score` as a rule, so that trials and other programs
share these. Left out on purpose: shares a layer, and learnt soups.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from study import spec
from study.errors import StudyError
from study.models import weights
from study.models.zoo import Classifier
from study.workspace import Workspace

Score = Callable[[Classifier], float]  # of a model; the higher, the better


def score(workspace: Workspace, what: str) -> Score:
    """Top-1 on the images kept aside for choices.

    Args:
        workspace: where models run.
        what: is chosen, for the error.

    Raises:
        StudyError: no images are kept aside.
    """
    if not len(workspace.splits[workspace.aside]):
        raise StudyError(spec.NONE_KEPT_ASIDE.format(f"{what}: chosen"))
    return lambda model: workspace.accuracy(model, workspace.aside)


def between(before: Classifier, after: Classifier, share: float) -> Classifier:
    """A model on the line from `before` (share 0) to `after` (share 1); both are left as they are."""
    made = copy.deepcopy(after)
    made.network.load_state_dict(weights.interpolated(before, after, share))
    return made


def best_share(before: Classifier, after: Classifier, shares: Sequence[float], score: Score) -> float:
    """At which share of the way from `before` to `after` the best model lies; of equals that nearest to
    `before`.

    Args:
        before, after: models of one architecture.
        shares: which to try.
        score: asked once a share.
    """
    return max(sorted(set(shares)), key=lambda share: score(between(before, after, share)))


def soup(students: Sequence[Classifier]) -> Classifier:
    """The average of several models' weights; they are left as they are."""
    made = copy.deepcopy(students[0])
    made.network.load_state_dict(weights.average(list(students)))
    return made


def greedy(students: Sequence[Classifier], score: Score) -> list[int]:
    """Which of several models to average: from the best one on, each that makes the soup no worse.

    Args:
        students: of one architecture.
        score: asked once a student, and once a soup.

    Returns:
        Their places, in the order in which they were added.
    """
    scores = [score(student) for student in students]
    first, *others = sorted(range(len(students)), key=lambda place: -scores[place])
    kept, best = [first], scores[first]
    for place in others:
        scored = score(soup([students[one] for one in (*kept, place)]))
        if scored >= best:
            kept, best = [*kept, place], scored
    return kept
