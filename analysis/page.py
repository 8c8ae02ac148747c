"""The report as one HTML page that needs nothing but itself: text, figures as SVG, tables, and a script.

The page is made of `templates/page.jinja` and `page.css`, the same as Markdown of `markdown.jinja`. The
table of all trials is a DataTable (through itables, which carries the library, so that the page asks no
server for it): sorted, filtered and paged by keyboard as by mouse. Left out on purpose: any number that is
not in the exhibits or the trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import itables
import pandas as pd
from itables import JavascriptFunction
from itables.javascript import generate_init_offline_itables_html

from analysis import style, text
from analysis.exhibit import Made, Section
from analysis.findings import Finding
from analysis.methods import label

WORDS = r"^[^\W\d_]|[^\W\d_]{3}"  # what text begins with, or has, and a number does not
LONG = 60  # letters of a cell, beyond which its column has lines
SHORT = 40  # rows, up to which a table is shown at once
COLUMNS = {  # of the table of all trials: header, and what becomes of the values
    "student": ("student", None),
    "teacher": ("teacher", None),
    "combine": ("combined", None),
    "order": ("order", None),
    "method": ("method", label),
    "seed": ("seed", int),
    "accuracy_difference": ("Δ_acc", 100),
    "student_accuracy_before": ("before %", 100),
    "student_accuracy_after": ("after %", 100),
    "transfer_delta": ("Δ", 100),
    "gained": ("gained", int),
    "lost": ("lost", int),
    "p": ("p", None),
    "q": ("q", None),
    "verdict": ("verdict", None),
    "transfer_rate": ("transfer rate %", 100),
    "seconds": ("seconds", 1),
    "trial": ("trial", None),
}
FILTERED = ("student", "teacher", "method", "verdict")
SHOWN = "function (data, type) { return type === 'display' ? Number(data).toPrecision(2) : data; }"


def all_trials(tested: pd.DataFrame) -> pd.DataFrame:
    """The finished trials as the page lists them, best deltas first: percent and percentage points.

    How several teachers were combined, and in which order, is among the columns where there are several.

    Args:
        tested: as `measures.tested` makes it.
    """
    tested = tested.sort_values(["transfer_delta", "trial"], ascending=[False, True])
    columns = {}
    for name, (header, made) in COLUMNS.items():
        values = tested[name]
        if name in ("combine", "order"):
            if tested["combine"].isna().all():
                continue
            values = values.astype(object).where(values.notna(), "")
        if isinstance(made, int):
            columns[header] = (made * values.astype(float)).round(2)
        elif made is not None:
            columns[header] = values.map(made)
        else:
            columns[header] = values
    table = pd.DataFrame(columns).reset_index(drop=True)
    table["teacher"] = table["teacher"].astype(object).where(table["teacher"].notna(), "none")
    return table


def _trials_table(tested: pd.DataFrame) -> str:
    table = all_trials(tested)
    places = {name: place for place, name in enumerate(table.columns)}
    return itables.to_html_datatable(
        table,
        connected=False,
        display_logo_when_loading=False,
        table_id="all-trials",  # not a random one: equal results give an equal page
        maxBytes=0,
        classes="display compact nowrap",
        scrollX=True,
        lengthMenu=[25, 100, 500],
        columnDefs=[
            {"targets": [places[name] for name in FILTERED], "columnControl": [["searchList"]]},
            {"targets": [places["p"], places["q"]], "render": JavascriptFunction(SHOWN)},
        ],
        text_in_header_can_be_selected=False,
    )


@dataclass(frozen=True)
class Report:
    """What a report says.

    Attributes:
        subtitle: what was studied.
        findings: how it came out.
        coverage: what it is made of, a sentence each.
        unfinished: trials that failed or are missing, as text; None if there are none.
        sections: what it shows, in this order.
        trials: the finished ones.
        methods: what they do, by what they are called here.
    """

    subtitle: str
    findings: list[Finding]
    coverage: list[str]
    unfinished: pd.DataFrame | None
    sections: list[Section]
    trials: pd.DataFrame
    methods: Mapping[str, str] = field(default_factory=dict)
    title: str = "Knowledge transfer between trained models"


def looks(cells: pd.DataFrame) -> str:
    """Classes of a table, by the number of a column from 1: 'words3' if its cells are text, and
    'long3' if some are sentences.
    """
    found = []
    for number, name in enumerate(cells.columns, 1):
        known = cells[name][~cells[name].isin(["", "–"])]
        if len(known) and known.str.contains(WORDS).all():
            found.append(f"words{number}")
            found += [f"long{number}"] * bool(known.str.len().max() > LONG)
    return " ".join(found)


def html(report: Report, drawn: Mapping[str, str | None]) -> str:
    """The page.

    Args:
        report: what it says.
        drawn: the SVG of each figure, by the exhibit's name.
    """
    return (
        text.environment(html=True)
        .get_template("page.jinja")
        .render(
            report=report,
            css=(text.TEMPLATES / "page.css").read_text(encoding="utf-8"),
            about=_about(),
            short=SHORT,
            looks=looks,
            inline=lambda one: style.inline(drawn[one.name], one.name, one.title),
            trials=_trials_table(report.trials) if len(report.trials) else "",
            library=generate_init_offline_itables_html(itables.options.dt_bundle)
            if len(report.trials)
            else "",
        )
    )


def markdown(report: Report) -> str:
    """The same as Markdown, with the figures as files beside it; long tables are files alone."""
    template = text.environment().get_template("markdown.jinja")
    return template.render(report=report, about=_about(), short=SHORT, table=text.markdown)


def table_markdown(made: Made) -> str:
    """A table as a Markdown file, with what its columns mean."""
    lines = [f"# {made.title}", "", *text.markdown(made.cells), ""]
    lines += [f"- **{one.header}**: {one.meaning}." for one in made.shown.columns if one.meaning]
    return "\n".join([*lines, ""])


def _about() -> list[str]:
    """How the numbers were made, a sentence each."""
    lines = (text.TEMPLATES / "about.md").read_text(encoding="utf-8").split("\n- ")
    return [" ".join(line.removeprefix("- ").split()) for line in lines]
