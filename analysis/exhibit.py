"""What an exhibit is: a function that makes a table, a figure or both, and says how to read them.

    @exhibit("Fig. 4b")
    def fig_4b_delta_by_difference(taught: pd.DataFrame) -> Shown:
        \"\"\"How to read it: the note under the figure.\"\"\"
        table = ...
        return Shown(table, drawing)

The parameters name what it is made of, attributes of `material.Material`; where one of them is not there,
the exhibit is left out and says why. The function's name is that of its files, its docstring the note, in
which Jinja's marks stand for `Shown.facts`. Whatever exhibits a module of `analysis.exhibits` defines make
a section of the report, in that order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import statements
from analysis.text import Column, cells, filled


class LeftOut(Exception):
    """Why an exhibit cannot be made of these results: half a sentence, such as 'no trial has a teacher'."""


@dataclass(frozen=True)
class Shown:
    """What an exhibit shows.

    Attributes:
        numbers: what it is made of, fractions as in the records; written as CSV.
        drawing: the figure.
        columns: of the table on the page; none where it shows the figure alone.
        rows: of that table, mappings of names; the rows of `numbers` by default.
        keys: columns that say what a row of `numbers` is of. None where they are rows of `statements`, or
            the figure of single trials or pairs: other tables' numbers all become statements.
        facts: for the note.
        name, title: of one of several that a function shows.
        embedded: HTML that the page shows under the note.
    """

    numbers: pd.DataFrame | None = None
    drawing: Figure | None = None
    columns: Sequence[Column] = ()
    rows: Iterable[Mapping[str, Any]] | None = None
    keys: Sequence[str] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    title: str = ""
    embedded: str = ""


NOTHING = Shown()


@dataclass(frozen=True)
class Made:
    """An exhibit of some results: what is shown, and its texts.

    Attributes:
        name: of its files, and its place in the page.
        title: 'Fig. 4a', or what it shows.
        note: how to read it; why it is left out, where it is.
        shown: nothing where it is left out.
        cells: the table as text; None without one.
    """

    name: str
    title: str
    note: str
    shown: Shown = NOTHING
    cells: pd.DataFrame | None = None

    @property
    def files(self) -> list[str]:
        """Names of its files: a figure's, with its numbers, under `figures/`, a table's under `tables/`."""
        kinds = ["figures/{}.svg", "figures/{}.png"] if self.shown.drawing is not None else []
        folder = "figures" if self.cells is None else "tables"
        kinds += [folder + "/{}.csv"] if self.shown.numbers is not None else []
        kinds += ["tables/{}.md"] if self.cells is not None else []
        return [kind.format(self.name) for kind in kinds]

    @property
    def statements(self) -> pd.DataFrame:
        """Its numbers, a row each; none of a figure of single trials."""
        shown = self.shown
        if shown.numbers is not None and list(shown.numbers) == statements.COLUMNS:
            return shown.numbers
        if shown.numbers is None or shown.keys is None:
            return statements.Statements().table()
        return statements.of_table(self.name, self.title, shown.numbers, shown.keys)


@dataclass(frozen=True)
class Exhibit:
    """A function that shows something, and its title."""

    title: str
    function: Callable[..., Shown | list[Shown]]

    @property
    def name(self) -> str:
        """Of its files."""
        return self.function.__name__

    def made(self, material: object) -> list[Made]:
        """Of some results: one, or as many as the function shows."""
        try:
            needs = inspect.signature(self.function).parameters
            shown = self.function(**{name: getattr(material, name) for name in needs})
        except LeftOut as why:
            return [Made(self.name, self.title, f"Left out: {why}.")]
        return [self._of(one) for one in (shown if isinstance(shown, list) else [shown])]

    def _of(self, shown: Shown) -> Made:
        note = filled(inspect.getdoc(self.function), shown.facts)
        rows = shown.rows
        if rows is None and shown.columns:
            rows = shown.numbers.to_dict("records")
        table = cells(rows, shown.columns) if shown.columns else None
        return Made(shown.name or self.name, shown.title or self.title, note, shown, table)


def exhibit(title: str) -> Callable[[Callable], Exhibit]:
    """Makes an exhibit of a function."""
    return lambda function: Exhibit(title, function)


@dataclass(frozen=True)
class Section:
    """A part of the report: its id in the page, title, first sentences, and exhibits."""

    name: str
    title: str
    lines: list[str]
    exhibits: list[Made]


def section(module: ModuleType, material: object) -> Section | None:
    """The section that a module makes of some results.

    Args:
        module: its exhibits are a section with the module's `TITLE`; `lines`, where it has them, is a
            function of the material that gives first sentences, or None where there is to be no section.
        material: as `material.Material`.
    """
    try:
        lines = module.lines(material) if hasattr(module, "lines") else []
    except LeftOut:  # as its exhibits say, too
        lines = []
    if lines is None:
        return None
    found = [one for one in vars(module).values() if isinstance(one, Exhibit)]
    made = [each for one in found for each in one.made(material)]
    notes = {one.note for one in made}
    if len(notes) == 1 and len(made) > 1 and all(one.shown is NOTHING for one in made):
        return Section(_name(module), module.TITLE, [*notes], [])
    return Section(_name(module), module.TITLE, lines, made)


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
