"""Choosing what is transferred: gain on the classes that were chosen, and loss on all others.

A method that chooses classes lets the teacher teach their samples, and the frozen student all others
(`kl_of_classes`, `kl_of_experts`). What it did to either part of the samples stands beside what the methods
that choose nothing did to the same parts, on the same pairs of models. Pure functions on data frames. Left
out on purpose: trials of several teachers, and other methods that choose, whose classes are others.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.inference import crossed_bootstrap
from analysis.measures import teacher_level
from analysis.methods import in_order

COLUMNS = ["classes_taught"]  # of `trials`, which older results have not
PARTS = ("chosen", "elsewhere")
PAIR = ["chooser", "method", "student", "teacher"]


def by_pair(trials: pd.DataFrame, flips: pd.DataFrame) -> pd.DataFrame:
    """What each method did to the samples of the classes that another one, or itself, chose, and to the rest.

    Args:
        trials: of one teacher or none, as `results.load` gives them, with `COLUMNS`.
        flips: of these trials, as `flips.class_flips` gives them.

    Returns:
        One row a (chooser, method, student, teacher), seeds averaged: `accuracy_difference` of the teacher,
        `classes`, how many the chooser chose, and of either part of `PARTS` the change of accuracy on its
        samples, a fraction; NaN where no class, or every class, was chosen. The methods are the chooser and
        those that choose nothing; of one without a teacher the rows are of the same student and seed.
    """
    done = trials[trials["status"] == "ok"]
    chooses = done["classes_taught"].notna()
    choosers = set(done.loc[chooses, "method"])
    counts = flips.astype({"trial": object}).merge(
        done[["trial", "method", "student", "teacher", "seed"]], on="trial"
    )
    of_unit = dict(list(counts.groupby(["student", "seed"])))
    rows = []
    for choice in done[chooses].to_dict("records"):
        mine = of_unit.get((choice["student"], choice["seed"]), counts[:0])
        mine = mine[mine["teacher"].isna() | (mine["teacher"] == choice["teacher"])]
        mine = mine[(mine["method"] == choice["method"]) | ~mine["method"].isin(choosers)]
        if choice["trial"] not in set(mine["trial"]):  # its predictions are not there
            continue
        mine = mine.assign(chosen=mine["class"].isin(choice["classes_taught"]))
        about = {name: choice[name] for name in ("student", "teacher", "accuracy_difference")}
        about |= {"chooser": choice["method"], "classes": len(choice["classes_taught"])}
        for method, of_method in mine.groupby("method"):
            parts = {part: _change(of_method[of_method["chosen"] == (part == "chosen")]) for part in PARTS}
            rows.append(about | {"method": method} | parts)
    table = pd.DataFrame(rows, columns=[*PAIR, "accuracy_difference", "classes", *PARTS])
    numbers = ["accuracy_difference", "classes", *PARTS]
    table = table.astype(dict.fromkeys(numbers, float)).groupby(PAIR, as_index=False)[numbers].mean()
    return table.round(dict.fromkeys(PARTS, 12))


def _change(counts: pd.DataFrame) -> float:
    samples = counts["samples"].sum()
    return (counts["gained"].sum() - counts["lost"].sum()) / samples if samples else np.nan


def by_method(pairs: pd.DataFrame, equal: float = 1.0) -> pd.DataFrame:
    """The means over pairs, and what the chooser gains over each other method on the same pairs.

    Args:
        pairs: as `by_pair` makes them.
        equal: half width, in points, of the band of equal teachers.

    Returns:
        One row a (chooser, method, level), the levels 'all' and those of one teacher's accuracy that have a
        pair: `pairs`, `classes` (mean number chosen), and of either part its mean over pairs with a sample in
        it (`<part>_pairs`), and `<part>_difference`, the chooser's minus the method's, NaN of the chooser
        itself; each with its 95 % interval over students and teachers (`_low`, `_high`).
    """
    own = pairs[pairs["chooser"] == pairs["method"]]
    keys = ["chooser", "student", "teacher"]
    table = pairs.merge(own[[*keys, *PARTS]], on=keys, suffixes=("", "_own"))
    table["level"] = teacher_level(table["accuracy_difference"], equal)
    rows = []
    for chooser in in_order(table["chooser"]):
        of_chooser = table[table["chooser"] == chooser]
        others = [method for method in in_order(of_chooser["method"]) if method != chooser]
        for name in ("all", "weaker", "equal", "stronger"):
            of_level = of_chooser if name == "all" else of_chooser[of_chooser["level"] == name]
            for method in (chooser, *others):
                mine = of_level[of_level["method"] == method]
                if mine.empty:
                    continue
                row = {"chooser": chooser, "method": method, "level": name, "pairs": len(mine)}
                row["classes"] = mine["classes"].mean()
                for part in PARTS:
                    row[f"{part}_pairs"] = int(mine[part].notna().sum())
                    row |= _mean(part, mine[part], mine)
                    difference = (mine[f"{part}_own"] - mine[part]).round(12)
                    row |= _mean(f"{part}_difference", difference[mine["method"] != chooser], mine)
                rows.append(row)
    return pd.DataFrame(rows)


def _mean(name: str, values: pd.Series, pairs: pd.DataFrame) -> dict[str, float]:
    known = values.dropna()
    if known.empty:
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    of = pairs.loc[known.index]
    low, high = crossed_bootstrap(known, of["student"], of["teacher"])
    return {name: known.mean(), f"{name}_low": low, f"{name}_high": high}
