"""Numbers as text: one set of filters for the page, Markdown and the console, and tables made with them.

A cell is a Jinja expression of what is known of its row, such as `delta_mean|points`. A `Number` with an
interval brings it along: '+0.12 [-0.02, +0.24]'. What is not there is a dash. Left out on purpose: sentences,
which stand in `templates/` and in the notes of exhibits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from analysis.methods import label

TEMPLATES = Path(__file__).parent / "templates"
NONE = "–"


@dataclass(frozen=True)
class Number:
    """A value with its 95 % interval, NaN where there is none, and of how many things it is."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    pair: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not is_none(self.value)

    @property
    def above(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Whether the interval lies below 0."""
        return self.high < 0

    @property
    def alone(self) -> Number:
        """The same without its interval."""
        return Number(self.value, n=self.n, pair=self.pair)


def is_none(value: Any) -> bool:
    """Whether there is nothing to say: None, NaN, or pandas' NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def number(value: Any, form: str = ",.0f", factor: float = 1.0, unit: str = "") -> str:
    """The value times `factor` in this format, with its unit, and its interval where it has one."""

    def plain(one: Any) -> str:
        return format(factor * one, form).replace("-", "\N{MINUS SIGN}")

    if not isinstance(value, Number):
        return NONE if is_none(value) else plain(value) + unit
    if not value.known:
        return NONE
    bounds = "" if is_none(value.low) else f" [{plain(value.low)}, {plain(value.high)}]"
    return plain(value.value) + unit + bounds


def points(value: Any, unit: str = "") -> str:
    """A difference of fractions in percentage points, with its sign."""
    return number(value, "+.2f", 100, unit)


def percent(value: Any, digits: int = 1, unit: str = "") -> str:
    """A fraction in percent."""
    return number(value, f".{digits}f", 100, unit)


def interval(value: Number) -> str:
    """'[+0.10, +0.56]', in points; that there is none where there is none."""
    return "[no interval: of too few]" if is_none(value.low) else points(value).partition(" ")[2]


def share(value: Number) -> str:
    """A fraction in percent, which is 0 or 100 only if it is none or all."""
    if value.value in (0, 1):
        return f"{100 * value.value:.0f} %"
    return f"{min(max(100 * value.value, 0.01), 99.99):.2f} %"


def p_value(value: Any) -> str:
    """A p- or q-value, in two digits."""
    return number(value.alone if isinstance(value, Number) else value, ".2g")


def shown(value: Any) -> str:
    """A text as it is."""
    return NONE if is_none(value) else str(value)


def many(count: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


FILTERS = {
    **{"number": number, "points": points, "percent": percent, "interval": interval, "share": share},
    **{"p": p_value, "text": shown, "many": many, "label": label, "is_none": is_none},
}


@functools.cache
def environment(*, html: bool = False) -> jinja2.Environment:
    """Jinja with these filters; a name that nothing is known of is an error, not an empty text."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=html,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= FILTERS
    made.globals["bounded"] = Number
    return made


@functools.cache
def _template(text: str) -> jinja2.Template:
    return environment().from_string(text)


def filled(text: str, names: Mapping[str, Any]) -> str:
    """A text with Jinja's marks, as one line."""
    return " ".join(_template(text).render(names).split())


def sentences(template: str, names: Mapping[str, Any], macros: Iterable[str]) -> dict[str, str]:
    """What some macros of a template say, by macro, those that say something; one line each."""
    module = environment().get_template(template).make_module(dict(names))
    said = {name: " ".join(getattr(module, name)().split()) for name in macros}
    return {name: text for name, text in said.items() if text}


@dataclass(frozen=True)
class Column:
    """A column of text: its header, a Jinja expression for its cells, and what it means."""

    header: str
    cell: str
    meaning: str = ""


@functools.cache
def _cell(expression: str) -> Callable[..., str]:
    return environment().compile_expression(expression, undefined_to_none=False)


def cells(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> pd.DataFrame:
    """Rows, each a mapping of names, as a table of text."""
    rows = list(rows)
    made = {column.header: [str(_cell(column.cell)(row)) for row in rows] for column in columns}
    return pd.DataFrame(made, dtype=object)


def markdown(table: pd.DataFrame) -> list[str]:
    """The lines of a Markdown table."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]


def aligned(table: pd.DataFrame) -> list[str]:
    """The lines of the table as text: the first column to the left, the others to the right."""
    rows = [list(table.columns), *table.to_numpy().tolist()]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in rows]
