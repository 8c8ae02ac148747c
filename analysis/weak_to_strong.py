"""Weak to strong: how much of the gap between a weak teacher and labels its outputs alone recover.

Performance gap recovered after Burns et al., arXiv 2312.09390, section 3: of a student that learned from a
weaker teacher, (its accuracy - the teacher's) / (the same student's, taught by labels - the teacher's). It is
counted from stored predictions: its interval knows that all three were asked the same images. The student
taught by labels is the control, of the same student and seed. Left out on purpose: methods that read labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.flips import right
from analysis.inference import crossed_bootstrap
from analysis.measures import PAIR
from analysis.methods import CONTROL, by_order_of_methods, in_order

COLUMNS = ["reads_labels"]  # of `trials`, which older results have not
ACCURACIES = ["weak", "strong", "ceiling"]
ALL = "all"  # in place of a name: over all pairs


class Recovered(NamedTuple):
    """The share of a gap, and its interval; NaN where there is no gap."""

    value: float
    low: float
    high: float


def recovered(strong, weak, ceiling, confidence: float = 0.95) -> Recovered:
    """Performance gap recovered, mean(strong - weak) / mean(ceiling - weak) (arXiv 2312.09390, section 3).

    The interval is Fieller's of a ratio of two means of paired values ("Some problems in interval
    estimation", Journal of the Royal Statistical Society B 16, 1954): the ratios r for which the mean of
    (strong - weak) - r (ceiling - weak) is not off zero. It is of other images, with these models.

    Args:
        strong: [N] whether each sample is right, or over seeds how often, by the student that the weak
            teacher taught.
        weak: [N], by the teacher.
        ceiling: [N], by the student that labels taught.
        confidence: in (0, 1).

    Returns:
        1 where nothing is lost to labels, 0 where the student is no better than its teacher, below where it
        is worse. NaN where the ceiling is not above the teacher, or not beyond chance: then there is no gap
        to be recovered, and the interval would have no end.

    Raises:
        ValueError: different lengths, fewer than two samples, or a confidence outside (0, 1).
    """
    strong, weak, ceiling = (np.asarray(values, float) for values in (strong, weak, ceiling))
    if not strong.shape == weak.shape == ceiling.shape or strong.ndim != 1 or not 0 < confidence < 1:
        raise ValueError("needs three arrays of one length and a confidence in (0, 1)")
    if len(weak) < 2:
        raise ValueError("needs two samples or more")
    up, gap = strong - weak, ceiling - weak
    z2 = stats.norm.ppf((1 + confidence) / 2) ** 2 / len(weak)
    (of_up, both), (_, of_gap) = z2 * np.cov(up, gap)
    a, b, c = gap.mean() ** 2 - of_gap, up.mean() * gap.mean() - both, up.mean() ** 2 - of_up
    if a <= 0 or gap.mean() <= 0:
        return Recovered(np.nan, np.nan, np.nan)
    half = np.sqrt(max(b * b - a * c, 0.0))
    return Recovered(float(up.mean() / gap.mean()), float((b - half) / a), float((b + half) / a))


def by_pair(results: Path | str, trials: pd.DataFrame) -> pd.DataFrame:
    """Performance gap recovered of each pair whose ceiling is above the teacher, as accuracies go.

    Args:
        results: the results folder.
        trials: of one teacher or none, as `results.load` gives them, with `COLUMNS`; students from scratch
            too.

    Returns:
        One row a (method, student, teacher), of methods without labels whose student has a control:
        `student_source`; `seeds`; the accuracies of `ACCURACIES`, means over seeds; `recovered` with its 95 %
        interval over images (`recovered_low`, `recovered_high`), NaN where there is no gap, or no
        predictions. Pairs whose ceiling is not above the teacher have NaN at once.

    Raises:
        ResultsError: a file of predictions is damaged.
    """
    done = trials[trials["status"] == "ok"]
    blind = (done["reads_labels"] == False) & done["teacher"].notna()  # noqa: E712 - null is neither
    ceilings = done.loc[(done["method"] == CONTROL) & done["teacher"].isna(), ["student", "seed", "trial"]]
    accuracy = done.set_index("trial")["student_accuracy_after"].astype(float)
    units = done[blind].merge(ceilings, on=["student", "seed"], suffixes=("", "_ceiling"))
    units = units.assign(
        weak=units["teacher_accuracy"].astype(float),
        strong=units["trial"].map(accuracy),
        ceiling=units["trial_ceiling"].map(accuracy),
    )
    groups = list(units.groupby(PAIR))
    wanted = [mine for _, mine in groups if mine["ceiling"].mean() > mine["weak"].mean()]
    asked = right(results, {trial for mine in wanted for trial in (*mine["trial"], *mine["trial_ceiling"])})
    rows = []
    for names, mine in groups:
        row = dict(zip(PAIR, names, strict=True))
        row |= {"student_source": mine["student_source"].iloc[0], "seeds": len(mine)}
        row |= mine[ACCURACIES].mean().to_dict()
        found = _of_predictions(mine, asked)
        rows.append(
            row | {"recovered": found.value, "recovered_low": found.low, "recovered_high": found.high}
        )
    columns = [*PAIR, "student_source", "seeds", *ACCURACIES]
    columns += ["recovered", "recovered_low", "recovered_high"]
    table = pd.DataFrame(rows, columns=columns)
    return by_order_of_methods(table, ["student", "teacher", "method"])


def _of_predictions(mine: pd.DataFrame, asked: dict[str, pd.DataFrame]) -> Recovered:
    """Of a pair's trials, samples' shares of seeds."""
    trials = [*zip(mine["trial"], mine["trial_ceiling"], strict=True)]
    if any(one not in asked for pair in trials for one in pair):
        return Recovered(np.nan, np.nan, np.nan)
    said = [
        asked[taught].join(asked[ceiling]["student"].rename("ceiling"), how="inner")
        for taught, ceiling in trials
    ]
    each = pd.concat(said).groupby(level=0)[["student", "teacher", "ceiling"]].mean()
    return recovered(each["student"], each["teacher"], each["ceiling"])


def over_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Means over the pairs that have a gap.

    Args:
        pairs: as `by_pair` makes them.

    Returns:
        One row a method: `pairs`, and means of `ACCURACIES` and of `recovered`, this one with its 95 %
        interval over students and teachers.
    """
    known = pairs.dropna(subset="recovered")
    rows = []
    for method in in_order(known["method"]):
        mine = known[known["method"] == method]
        low, high = crossed_bootstrap(mine["recovered"], mine["student"], mine["teacher"])
        row = {"method": method, "student": ALL, "teacher": ALL, "pairs": len(mine)}
        row |= mine[[*ACCURACIES, "recovered"]].mean().to_dict()
        rows.append(row | {"recovered_low": low, "recovered_high": high})
    return pd.DataFrame(rows)
