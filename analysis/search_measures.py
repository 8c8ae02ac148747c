"""Searches over settings of methods: what each value does, and each combination. Tables, and no text.

After arXiv 2310.17653, appendix A.1 to A.3, whose text says what was chosen, and not by how much. Trials of
a search are scored on images kept aside; pairs are those of a student and a teacher, seeds averaged. Left
out on purpose: a choice. The best of many combinations looks better than it is.
"""

from __future__ import annotations

import json

import pandas as pd

from analysis.inference import crossed_bootstrap
from analysis.measures import teacher_level

LEVELS = ("all", "weaker", "equal", "stronger")
MEASURES = ["transfer_delta", "knowledge_gain", "knowledge_loss"]


def searched(trials: pd.DataFrame, equal: float = 1.0) -> pd.DataFrame:
    """Finished trials of searches, seeds averaged: a row a (search, method, student, teacher).

    Args:
        trials: as `results.load` gives them, with `search` and `settings`.
        equal: half width in points of the band of equal teachers.

    Returns:
        search, method, student, teacher, level (null without a teacher), `MEASURES`, and a column `settings`
        that holds a mapping of those settings that differ within the search.
    """
    done = trials[(trials["status"] == "ok") & trials["search"].notna()]
    keys = ["search", "method", "student", "teacher"]
    means = done.groupby(keys, as_index=False, dropna=False, sort=False).agg(
        **{name: (name, "mean") for name in [*MEASURES, "accuracy_difference"]},
        settings=("settings", "first"),
    )
    means["level"] = teacher_level(means["accuracy_difference"], equal)
    every = means["settings"].map(json.loads)
    varied = {
        name: [key for key in of[0] if len({json.dumps(one.get(key)) for one in of}) > 1]
        for name, of in every.groupby(means["search"]).agg(list).items()
    }
    means["settings"] = [
        {key: settings[key] for key in varied[name]}
        for name, settings in zip(means["search"], every, strict=True)
    ]
    return means.drop(columns="accuracy_difference")


def by_value(units: pd.DataFrame) -> pd.DataFrame:
    """What each value of each setting does, over the values of the others.

    Args:
        units: as `searched` makes them.

    Returns:
        A row a (search, setting, value, level of the teacher): `combinations`, `pairs`, and the mean
        `transfer_delta` over pairs, each pair's combinations averaged, with its 95 % interval over students
        and teachers (null with fewer than two of both).
    """
    long = units.assign(setting=units["settings"].map(list)).explode("setting").dropna(subset="setting")
    long["value"] = [one[name] for one, name in zip(long["settings"], long["setting"], strict=True)]
    rows = []
    for (search, setting), of_setting in long.groupby(["search", "setting"], sort=False):
        for value in sorted(of_setting["value"].unique(), key=_order):
            mine = of_setting[of_setting["value"] == value]
            for level in LEVELS:
                part = mine if level == "all" else mine[mine["level"] == level]
                if part.empty or (level != "all" and part["teacher"].isna().all()):
                    continue
                pairs = part.groupby(["student", "teacher"], as_index=False, dropna=False)[
                    "transfer_delta"
                ].mean()
                low, high = crossed_bootstrap(pairs["transfer_delta"], pairs["student"], pairs["teacher"])
                rows.append(
                    {
                        "search": search,
                        "setting": setting,
                        "value": value,
                        "level": level,
                        "combinations": part["method"].nunique(),
                        "pairs": len(pairs),
                        "transfer_delta": pairs["transfer_delta"].mean(),
                        "transfer_delta_low": low,
                        "transfer_delta_high": high,
                    }
                )
    return pd.DataFrame(rows)


def combinations(units: pd.DataFrame) -> pd.DataFrame:
    """Each combination over its pairs, the best mean delta of each search first.

    Args:
        units: as `searched` makes them.

    Returns:
        A row a (search, method): `settings` as text, `pairs`, `success_rate`, mean `transfer_delta` with its
        95 % interval over students and teachers, the smallest and largest delta of a pair, mean
        `knowledge_gain` and `knowledge_loss`, and the mean delta with weaker and with stronger teachers.
    """
    rows = []
    for (search, method), mine in units.groupby(["search", "method"], sort=False):
        delta = mine["transfer_delta"]
        low, high = crossed_bootstrap(delta, mine["student"], mine["teacher"])
        of_level = delta.groupby(mine["level"]).mean()
        rows.append(
            {
                "search": search,
                "method": method,
                "settings": ", ".join(f"{name} {text(v)}" for name, v in mine["settings"].iloc[0].items()),
                "pairs": len(mine),
                "success_rate": (delta > 1e-12).mean(),
                "transfer_delta": delta.mean(),
                "transfer_delta_low": low,
                "transfer_delta_high": high,
                "transfer_delta_min": delta.min(),
                "transfer_delta_max": delta.max(),
                "knowledge_gain": mine["knowledge_gain"].mean(),
                "knowledge_loss": mine["knowledge_loss"].mean(),
                "transfer_delta_weaker": of_level.get("weaker"),
                "transfer_delta_stronger": of_level.get("stronger"),
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values(["search", "transfer_delta"], ascending=[True, False], ignore_index=True)


def _order(value) -> tuple:
    """Numbers by size, then everything else by name."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not number, value if number else 0, str(value))


def text(value) -> str:
    """A value as figures and tables say it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
