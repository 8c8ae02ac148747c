"""Searches over settings of methods: what each value does, and each combination. Tables, and no text.

After arXiv 2310.17653, appendix A.1 to A.3, whose text says what was chosen, and not by how much. Trials of
a search are scored on images kept aside; pairs are those of a student and a teacher, seeds averaged. Every
delta stands beside that of the same student fine-tuned without a teacher (`CONTROL`, run as it is and
scored on the same images), which the paper's searches do not show. Left out on purpose: a choice. The best
of many combinations looks better than it is.
"""

from __future__ import annotations

import json
import math

import pandas as pd

from analysis.inference import crossed_bootstrap
from analysis.measures import teacher_level
from analysis.methods import CONTROL

LEVELS = ("all", "weaker", "equal", "stronger")
MEASURES = ["transfer_delta", "knowledge_gain", "knowledge_loss"]
EFFECTS = ["transfer_delta", "over_control"]


def of_control(trials: pd.DataFrame) -> pd.DataFrame:
    """The control of the searches: what fine-tuning without a teacher does to their students.

    Args:
        trials: of searches and others, as `results.load` gives them.

    Returns:
        A row a student of a finished search whose control finished on the same images, seeds averaged, in the
        columns of `searched`: of the search 'control', without teacher or settings. Empty without one.
    """
    done = trials[trials["status"] == "ok"]
    of_search = done["search"].notna()
    alike = ["student", "data_sha256", "evaluated_on"]
    searches = done.loc[of_search, alike].drop_duplicates()
    mine = done[~of_search & (done["method"] == CONTROL)].merge(searches, on=alike)
    units = mine.astype(dict.fromkeys(MEASURES, float)).groupby("student", as_index=False)[MEASURES].mean()
    units = units.assign(search="control", method=CONTROL, teacher=None, level=None, over_control=math.nan)
    return units.assign(settings=[{} for _ in range(len(units))])


def searched(trials: pd.DataFrame, control: pd.DataFrame, equal: float = 1.0) -> pd.DataFrame:
    """Finished trials of searches, seeds averaged: a row a (search, method, student, teacher).

    Args:
        trials: as `results.load` gives them, with `search` and `settings`.
        control: as `of_control` makes it.
        equal: half width in points of the band of equal teachers.

    Returns:
        search, method, student, teacher, level (null without a teacher), `MEASURES`, `over_control` (the
        transfer delta minus that of the control on the same student; NaN without one), and a column
        `settings` that holds a mapping of those settings that differ within the search.
    """
    done = trials[(trials["status"] == "ok") & trials["search"].notna()]
    keys = ["search", "method", "student", "teacher"]
    means = done.groupby(keys, as_index=False, dropna=False, sort=False).agg(
        **{name: (name, "mean") for name in [*MEASURES, "accuracy_difference"]},
        settings=("settings", "first"),
    )
    means["level"] = teacher_level(means["accuracy_difference"], equal)
    alone = means["student"].map(control.set_index("student")["transfer_delta"])
    means["over_control"] = (means["transfer_delta"] - alone.astype(float)).round(12)
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
        A row a (search, setting, value, level of the teacher): `combinations`, `pairs`, and the means of
        `EFFECTS` over pairs, each pair's combinations averaged, with their 95 % intervals over students
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
                pairs = part.groupby(["student", "teacher"], as_index=False, dropna=False)[EFFECTS].mean()
                rows.append(
                    {
                        "search": search,
                        "setting": setting,
                        "value": value,
                        "level": level,
                        "combinations": part["method"].nunique(),
                        "pairs": len(pairs),
                        **_effects(pairs),
                    }
                )
    return pd.DataFrame(rows)


def _effects(pairs: pd.DataFrame) -> dict[str, float]:
    """Means of `EFFECTS`, each over the pairs that have it, with their 95 % intervals as `_low`, `_high`."""
    found = {}
    for name in EFFECTS:
        mine = pairs.dropna(subset=name)
        low, high = crossed_bootstrap(mine[name], mine["student"], mine["teacher"])
        found |= {name: mine[name].mean(), f"{name}_low": low, f"{name}_high": high}
    return found


def combinations(units: pd.DataFrame) -> pd.DataFrame:
    """Each combination over its pairs, the best mean delta of each search first.

    Args:
        units: as `searched` and `of_control` make them.

    Returns:
        A row a (search, method): `settings` as text, `pairs`, `success_rate`, means of `EFFECTS` with their
        95 % intervals over students and teachers, the smallest and largest delta of a pair, mean
        `knowledge_gain` and `knowledge_loss`, and the mean delta with weaker and with stronger teachers.
    """
    rows = []
    for (search, method), mine in units.groupby(["search", "method"], sort=False):
        delta = mine["transfer_delta"]
        of_level = delta.groupby(mine["level"]).mean()
        rows.append(
            {
                "search": search,
                "method": method,
                "settings": ", ".join(f"{name} {text(v)}" for name, v in mine["settings"].iloc[0].items()),
                "pairs": len(mine),
                "success_rate": (delta > 1e-12).mean(),
                **_effects(mine),
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
