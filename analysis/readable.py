"""Tables of numbers as tables of text: percent and percentage points, intervals, and Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

NONE = "-"


@dataclass(frozen=True)
class Column:
    """A column of text: its header, what it means, and how a row (a mapping of names) becomes a cell."""

    header: str
    meaning: str
    cell: Callable[[dict[str, Any]], str]


def is_none(value: Any) -> bool:
    """Whether there is nothing to say: None, NaN, or pandas' NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def text(name: str, made: Callable[[Any], str] = str) -> Callable[[dict], str]:
    """The value as it is, or as `made` makes it."""
    return lambda row: NONE if is_none(row[name]) else made(row[name])


def number(name: str, form: str = ",.0f", factor: float = 1.0) -> Callable[[dict], str]:
    """The value times `factor`, in this format."""
    return text(name, lambda value: format(factor * value, form))


def percent(name: str, digits: int = 1) -> Callable[[dict], str]:
    """A fraction in percent."""
    return number(name, f".{digits}f", 100)


def points(name: str) -> Callable[[dict], str]:
    """A difference of fractions in percentage points, with its sign."""
    return number(name, "+.2f", 100)


def between(cell: Callable[[str], Callable[[dict], str]], name: str, low: str, high: str):
    """A value with its interval, all three made by `cell`."""

    def made(row: dict) -> str:
        value, *bounds = (cell(part)(row) for part in (name, low, high))
        return value if NONE in (value, *bounds) else f"{value} [{', '.join(bounds)}]"

    return made


def mean_and_sd(mean: str, sd: str) -> Callable[[dict], str]:
    """'+0.65 ± 0.26', in points."""

    def made(row: dict) -> str:
        if is_none(row[mean]):
            return NONE
        spread = "" if is_none(row[sd]) else f" ± {100 * row[sd]:.2f}"
        return points(mean)(row) + spread

    return made


def readable(table: pd.DataFrame, columns: Sequence[Column]) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table as text, and what its columns mean, by header."""
    rows = table.to_dict("records")
    cells = {column.header: [column.cell(row) for row in rows] for column in columns}
    return pd.DataFrame(cells, dtype=object), {
        column.header: column.meaning for column in columns if column.meaning
    }


def markdown(table: pd.DataFrame) -> list[str]:
    """The lines of a Markdown table."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return [row_of(row) for row in rows]


def row_of(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
