"""Methods against each other on the same pairs of models, and which students gain: what no figure of
arXiv 2310.17653 shows.
"""

from __future__ import annotations

import itertools

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import measures, style
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.methods import CONTROL, in_order, label
from analysis.statements import numbers, rows
from analysis.text import Column, Number

TITLE = "Which method, for which student?"
SHOWN = ("weaker", "equal", "stronger", "all")
NOTHING = Number(float("nan"))


@exhibit("Differences between methods")
def method_differences(differences):
    """Both methods had the same student, teacher and seed, so what makes a pair easy or hard is out of the
    comparison. Thick lines are intervals for other students with these teachers, thin ones for other teachers
    too: a few teachers of one kind say little about others of that kind."""
    table = differences[~differences["subject"].str.endswith(f" minus {CONTROL}")]
    if table.empty:
        raise LeftOut("fewer than two methods with a teacher ran on the same pairs")
    found = numbers(table)
    levels = [level for level in ("all", *measures.LEVELS) if (table["level"] == level).any()]
    columns = [Column("methods", "subject|label"), *map(_of_level, levels)]
    meaning = measures.MEANINGS["difference_wilcoxon_q"][1]
    columns.append(Column("Wilcoxon q", "difference_wilcoxon_q|p", meaning))
    return Shown(differences, _differences(found), columns, rows(found, found))


def _of_level(level: str) -> Column:
    """The differences with teachers of a level, and how many pairs are above 0."""
    of, mean = ("", "all teachers") if level == "all" else (f"_{level}", level.replace("_", " "))
    cell = (
        f"difference_mean{of}|points ~ (' (' ~ difference_positive{of}|number ~ '/' ~ difference_mean{of}.n "
        f"~ ')' if difference_mean{of}.known else '')"
    )
    meaning = "delta minus delta in points: mean [95 % interval] (pairs on which the first is above/all)"
    return Column(mean, cell, "the same with teachers of this accuracy" if of else meaning)


def _differences(found: dict[str, dict[str, Number]]) -> Figure:
    drawing, panel = style.figure(
        "One method against another on the same pairs of models", (8, 2.2 + 0.62 * max(1, len(found)))
    )
    lanes = {name: 0.27 - 0.18 * place for place, name in enumerate(SHOWN)}
    marks = {**{name: style.LEVELS[name] for name in SHOWN[:3]}, "all": (style.BLACK, "D")}
    pairs = dict.fromkeys(SHOWN, 0)
    for (place, row), level in itertools.product(enumerate(found.values()), SHOWN):
        of = "" if level == "all" else f"_{level}"
        if f"difference_mean{of}" not in row:
            continue
        mean, given = row[f"difference_mean{of}"], row[f"difference_mean_given_teachers{of}"]
        color, marker = marks[level]
        y = [place - lanes[level]] * 2
        panel.plot([100 * mean.low, 100 * mean.high], y, color=color, linewidth=1)
        thick = {"linewidth": 3.5, "solid_capstyle": "butt"}
        panel.plot([100 * given.low, 100 * given.high], y, color=color, **thick)
        panel.plot(100 * mean.value, y[0], marker=marker, color=color, markersize=5)
        pairs[level] = max(pairs[level], mean.n)
    panel.axvline(0, color=style.BLACK, linewidth=1)
    panel.set_yticks(range(len(found)), map(label, found))
    panel.set_ylim(len(found) - 0.4, -0.6)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("mean difference of transfer deltas (percentage points), 95 % intervals")
    handles = [
        Line2D([], [], color=color, marker=marker, label=f"{name} ({pairs[name]} pairs)")
        for name, (color, marker) in marks.items()
    ]
    style.legend(drawing, handles, "teachers by their accuracy against the student's", 4)
    return drawing


@exhibit("Properties of students")
def student_properties(trials, tested):
    """Rank correlations over students, each with its mean over teachers, and their intervals. A few students
    cannot say much, and size, accuracy and family go together: see Fig. 8."""
    table = measures.student_properties(trials)
    if not table["value"].notna().any():
        raise LeftOut("fewer than four students differ in size or accuracy")
    found = numbers(table.dropna(subset="value"))
    properties = [
        name for name in measures.PROPERTIES if table["measure"].str.startswith(f"{name}_and").any()
    ]
    kinds = {"log10_parameters": "size", "accuracy": "accuracy"}
    outcomes = {"delta_mean": "delta", "success_rate": "success"}
    names = {
        f"{name}_and_{outcome}": f"{kinds[name]} and {what}"
        for name in properties
        for outcome, what in outcomes.items()
    }
    columns = [Column("method", "method|label"), Column("students", "students|number", "of the correlations")]
    columns += [
        Column(header, f"{name}|number('+.2f')", measures.MEANINGS[name][1]) for name, header in names.items()
    ]
    rows = [
        {
            **dict.fromkeys(names, NOTHING),
            **row,
            "method": method,
            "students": max(one.n for one in row.values()),
        }
        for method, row in found.items()
    ]
    return Shown(table, _properties(found, properties), columns, rows)


def _properties(found: dict[str, dict[str, Number]], properties: list[str]) -> Figure:
    methods = in_order(found)
    drawing, panels = style.panelled(
        "Do larger or better students gain more?",
        len(properties),
        size=(4.6 * len(properties) + 1, 2.2 + 0.5 * len(methods)),
        sharey=True,
        sharex=True,
    )
    marks = {"delta_mean": ("o", style.BLUE, -0.15), "success_rate": ("s", style.ORANGE, 0.15)}
    titles = {"log10_parameters": "the student's size and ...", "accuracy": "the student's accuracy and ..."}
    for panel, name in zip(panels, properties, strict=True):
        panel.axvline(0, color=style.BLACK, linewidth=1)
        for method, (outcome, (marker, color, lane)) in itertools.product(methods, marks.items()):
            one = found[method].get(f"{name}_and_{outcome}", NOTHING)
            y = methods.index(method) + lane
            panel.plot([one.low, one.high], [y, y], color=color, linewidth=2)
            panel.plot(one.value, y, marker=marker, color=color)
        panel.set(xlim=(-1.05, 1.05), xlabel="Spearman's rank correlation", title=titles[name])
    panels[0].set_yticks(range(len(methods)), map(label, methods))
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    outcomes = {"delta_mean": "its mean transfer delta", "success_rate": "its success rate"}
    handles = [
        Line2D([], [], color=color, marker=marker, label=outcomes[name])
        for name, (marker, color, _) in marks.items()
    ]
    students = max(one.n for row in found.values() for one in row.values())
    style.legend(drawing, handles, f"over {students} students, 95 % intervals", 2)
    return drawing
