"""One row a number: what the report says, in one shape, so that any of it can be found by its name.

A row says of a subject (a method, 'kl_dp minus kl', a student, 'atlas') how large a measure is on a level
(teachers weaker, equal or stronger; 'all'): `value`, its 95 % interval `low` to `high` (NaN: none), `n` (how
many things it is of), its unit and its meaning. Shares and differences are fractions. What is not defined
is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from analysis.text import Number, is_none

COLUMNS = ["subject", "measure", "level", "value", "low", "high", "n", "unit", "meaning"]
TEACHING = " teaching "  # in the level of a number that is one pair's: 'gmlp teaching resnet'
NOTHING = (math.nan, math.nan)
COUNTED = {
    *("pairs", "trials", "students", "teachers", "seeds", "classes", "samples", "evaluation_samples"),
    *("positive", "higher", "parameters", "student_parameters", "n"),
}
UNITS = {
    "samples_per_second": "samples a second",
    "hours": "hours",
    "gain_rate": "ratio",
    "recovered": "ratio",
    "error_consistency": "kappa",
    "over_best": "ratio",
    "published_over_best": "ratio",
    **dict.fromkeys(("correlation", "published_correlation"), "correlation"),
    **dict.fromkeys(("p_value", "q_value", "p_holm", "p_supports", "p_refutes"), "p-value"),
    **dict.fromkeys(("loss", "loss_sd", "loss_difference", "published_loss"), "nats"),
    **dict.fromkeys(("regret", "regret_of_cutmix", "regret_difference"), "nats"),
    **dict.fromkeys(("teacher_entropy_augmented", "teacher_entropy_stddev"), "nats"),
    **dict.fromkeys(("nll", "entropy", "cross_entropy", "kl_divergence"), "nats"),
    **dict.fromkeys(("spread_ratio", "relative_distance_hard", "relative_distance_smooth"), "ratio"),
    **dict.fromkeys(
        ("separation_hard", "separation_smooth", "equidistance_hard", "equidistance_smooth"), "ratio"
    ),
}


class Statements:
    """Collects rows."""

    def __init__(self, meanings: Mapping[str, tuple[str, str]] | None = None):
        """With the unit and meaning of each measure, where they are not given row by row."""
        self.meanings = meanings or {}
        self.rows: list[dict] = []

    def add(
        self,
        subject: str,
        measure: str,
        value: float,
        n: int,
        *,
        level: str = "all",
        interval: tuple[float, float] = NOTHING,
        about: tuple[str, str] | None = None,
    ) -> None:
        """A number; `about` is its unit and meaning."""
        unit, meaning = about or self.meanings[measure]
        low, high = map(float, interval)
        values = [subject, measure, level, float(value), low, high, int(n), unit, meaning]
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))

    def table(self) -> pd.DataFrame:
        """The rows, in the order in which they came."""
        return pd.DataFrame(self.rows, columns=COLUMNS)


def numbers(table: pd.DataFrame) -> dict[str, dict[str, Number]]:
    """By subject and name: `delta_mean`, or `delta_mean_weaker` where the level is not 'all' or a pair."""
    found: dict[str, dict[str, Number]] = {}
    for row in table.itertuples(index=False):
        pair = row.level if TEACHING in row.level else ""
        name = row.measure if pair or row.level == "all" else f"{row.measure}_{row.level}"
        found.setdefault(row.subject, {})[name] = Number(row.value, row.low, row.high, row.n, pair)
    return found


def rows(found: Mapping[str, Mapping[str, Number]], subjects: Iterable[str]) -> list[dict]:
    """Of each subject its numbers by name, and those that others of `found` have as NaN."""
    every = dict.fromkeys((name for known in found.values() for name in known), Number(math.nan))
    return [{**every, "subject": subject, **found[subject]} for subject in subjects]


def of_table(name: str, title: str, table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The numbers of a table with several in a row, a row each.

    Args:
        name: of the exhibit; measures are called 'table_1.kl_mean'.
        title: what the exhibit shows.
        table: `x_low` and `x_high`, or `low` and `high` of the first number, bound the interval of `x`.
        keys: columns that say what a row is of; other texts are left out. A column `unit` says in what a
            row's numbers are that are no counts.
    """
    made = Statements()
    values = [column for column in table if column not in keys and is_number(table[column])]
    counts = next((column for column in ("pairs", "teachers", "n") if column in values), None)
    bounds = {column: f"{column}_" if f"{column}_low" in table else "" for column in values}
    free = [column for column in values if not column.endswith(("low", "high"))]
    first = next((column for column in ("mean", "change", "transfer_delta") if column in free), None)
    for row in table.to_dict("records"):
        subject = ", ".join(str(row[key]) for key in keys if not is_none(row[key]))
        for column in free:
            bounded = bounds[column] or (column == first and "low" in table)
            interval = (row[f"{bounds[column]}low"], row[f"{bounds[column]}high"]) if bounded else NOTHING
            n = row[counts] if counts else 1
            unit = row.get("unit") if unit_of(column) == "fraction" else None
            about = (unit or unit_of(column), f"{title}: {column}")
            made.add(subject, f"{name}.{column}", row[column], n, interval=interval, about=about)
    return made.table()


def unit_of(column: str) -> str:
    """The unit of a table's column, by its name."""
    if column in UNITS:
        return UNITS[column]
    counted = column in COUNTED or column.endswith(("_teachers", "_positive", "_pairs"))
    return "count" if counted else "seconds" if column.startswith("seconds") else "fraction"


def is_number(values: pd.Series) -> bool:
    """Whether a column holds numbers."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def together(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Several of them as one."""
    some = [table for table in tables if len(table)]
    return pd.concat(some, ignore_index=True) if some else pd.DataFrame(columns=COLUMNS)
