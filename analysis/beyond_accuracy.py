"""What a transfer changes beside top-1 on the study's own images: surer or better calibrated students, other
images.

Scores are top-5 accuracy, the negative log-likelihood of the true class and the expected calibration error
(arXiv 1706.04599), before and after; other images those of the table `evaluations`. Seeds of a pair are
averaged first, and intervals resample students and teachers, as everywhere. Tables, and no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.inference import crossed_bootstrap
from analysis.measures import PAIR
from analysis.methods import by_order_of_methods, in_order
from analysis.results import read, require_columns

SCORES = ("top5_accuracy", "negative_log_likelihood", "calibration_error")
COLUMNS = [f"student_{score}_{when}" for score in SCORES for when in ("before", "after")]
SET_COLUMNS = ["trial", "set", "classes", "evaluation_samples", "transfer_delta", "student_accuracy_before"]


def load_evaluations(results: Path | str, trials: pd.DataFrame) -> pd.DataFrame:
    """The rows of `evaluations` of the finished trials, with the columns of `PAIR`, their seed, and the delta
    on the study's own images, `own_delta`; empty without any.

    Raises:
        ResultsError: a file is damaged, or lacks a column.
    """
    folder = Path(results) / "evaluations"
    if not folder.is_dir() or not any(folder.glob("[!.]*.parquet")):
        return pd.DataFrame(columns=[*SET_COLUMNS, *PAIR, "seed", "own_delta"])
    evaluations = read(folder, "run its trial again", SET_COLUMNS, SET_COLUMNS)
    require_columns(evaluations, SET_COLUMNS, folder, "run the study again in a new folder")
    done = trials.loc[trials["status"] == "ok", ["trial", *PAIR, "seed", "transfer_delta"]]
    done = done.rename(columns={"transfer_delta": "own_delta"})
    return evaluations.drop_duplicates(["trial", "set"]).merge(done, on="trial")


def scores(trials: pd.DataFrame) -> pd.DataFrame:
    """How each score changes, by method.

    Args:
        trials: finished ones of one teacher or none, with those of `COLUMNS` that are known.

    Returns:
        One row a (score, method): the `unit`; `pairs`; means of `before` and `after`; the mean `change` with
        its 95 % interval `low` and `high`. Pairs whose score is not known are left out.
    """
    rows = []
    for score in SCORES:
        columns = [f"student_{score}_{when}" for when in ("before", "after")]
        known = trials.reindex(columns=[*PAIR, *columns]).dropna(subset=columns)
        units = _over_seeds(known.set_axis([*PAIR, "before", "after"], axis=1), ["before", "after"])
        for method in in_order(units["method"]):
            mine = units[units["method"] == method]
            change = _mean(mine["after"] - mine["before"], mine, "change")
            unit = "nats" if score == "negative_log_likelihood" else "fraction"
            row = {"score": score, "unit": unit, "method": method, "pairs": len(mine)}
            rows.append(row | dict(mine[["before", "after"]].mean()) | change)
    return pd.DataFrame(rows)


def sets(evaluations: pd.DataFrame) -> pd.DataFrame:
    """Deltas on other images, beside those of the same pairs on the study's own.

    Args:
        evaluations: as `load_evaluations` gives them.

    Returns:
        One row a (set, method): `classes`, `samples`, `pairs`, `positive` (pairs with a delta above 0), the
        mean `accuracy` before, the mean `delta` and `own_delta`, and the mean `difference` of the two, each
        of the three with its 95 % interval (`<name>_low`, `<name>_high`).
    """
    rows = []
    for name, part in evaluations.groupby("set", sort=False):
        about = {"classes": part["classes"].iloc[0], "samples": part["evaluation_samples"].iloc[0]}
        units = _over_seeds(part, ["transfer_delta", "own_delta", "student_accuracy_before"])
        for method in in_order(units["method"]):
            mine = units[units["method"] == method]
            row = {"set": name, "method": method, **about, "pairs": len(mine)}
            row |= {
                "positive": int((mine["transfer_delta"].round(12) > 0).sum()),
                "accuracy": mine["student_accuracy_before"].mean(),
            }
            values = {
                "delta": mine["transfer_delta"],
                "own_delta": mine["own_delta"],
                "difference": mine["transfer_delta"] - mine["own_delta"],
            }
            for of, value in values.items():
                mean = _mean(value, mine, of)
                row |= {of: mean[of], f"{of}_low": mean["low"], f"{of}_high": mean["high"]}
            rows.append(row)
    return pd.DataFrame(rows)


def _over_seeds(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means over seeds, one row a (method, student, teacher), or (method, student) without one."""
    values = rows.astype(dict.fromkeys(columns, float)).groupby(PAIR, dropna=False)[list(columns)]
    return by_order_of_methods(values.mean().reset_index())


def _mean(values: pd.Series, units: pd.DataFrame, name: str) -> dict[str, float]:
    teachers = None if units["teacher"].isna().all() else units["teacher"]
    low, high = crossed_bootstrap(np.asarray(values), units["student"], teachers)
    return {name: values.mean(), "low": low, "high": high}
