"""Several teachers of one student: Tables 4 and 9 and Fig. 11 of arXiv 2310.17653, and the order of
teachers.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import reference, several_teachers, style
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.methods import label
from analysis.several_teachers import CURVE
from analysis.text import Column, many

TITLE = "Several teachers"
PANELS = 6  # sequences of teachers, at most, in a figure
KNOWLEDGE = {
    "knowledge_gain": ("gained", style.GREEN),
    "knowledge_loss": ("lost", style.ORANGE),
    "transfer_delta": ("transfer delta", style.BLACK),
}
ABOUT = (
    "Several teachers of one student: one after the other, where the student of a stage is the frozen "
    "student of the next (sequential), all at once, where each sample is taught by the most confident of "
    "them and the frozen student (parallel), or each a student of its own, whose weights are averaged "
    "(soup), or of those only which make the average no worse on images kept aside "
    "(greedy_soup). Single mean, min and max are of the same teachers one by one.",
    "These trials are in no number of the other sections; their q is corrected for them alone.",
)


def lines(material: Material) -> list[str] | None:
    """What the section is about, and what sequences gain; None without trials of several teachers."""
    if len(material.trials) == len(material.recorded):
        return None
    return [*ABOUT, *_over_best(material.several_by_student)]


def _over_best(table: pd.DataFrame) -> list[str]:
    """What sequences gain over the best single teacher, in percent, and how that is counted."""
    rows = table[table["student"].notna() & table["way"].str.startswith("sequential")]
    sets = rows["teachers"].nunique()
    parts = []
    for (method, teachers, way), mine in rows.dropna(subset="over_best").groupby(
        ["method", "teachers", "way"], sort=False
    ):
        paper = mine["published_over_best"].astype(float)
        parts.append(
            f"{label(method)}{f' from {teachers}' * (sets > 1)}, {way}: "
            f"{100 * mine['over_best'].mean():+.0f} % (mean of {many(len(mine), 'student')}"
            + (f"; of the paper's numbers {100 * paper.mean():+.0f} %" if paper.notna().all() else "")
            + ")"
        )
    if not parts:
        return []
    return [
        "Delta of a sequence over that of the best single teacher, minus 1, of students for whom that is "
        f"above 0: {'; '.join(parts)}. Which teacher is best is known only afterwards, and over a small "
        "delta a small gain is many percent. The paper says 59 % for KL+DP."
    ]


@exhibit("Tables 4 and 9: several teachers")
def several_teachers_tables(several_by_student):
    """Deltas in percentage points, seeds averaged, with {{ teachers }}. If chance alone had gained and lost
    as many samples, a delta would be 0 ± {{ noise|number(".2f", 100) }} (standard deviation of the
    noisiest). {% if missing %}Not finished, so left out, also from means: {{ missing }}.{% endif %}"""
    return [_by_student(mine) for _, mine in several_by_student.groupby("method", sort=False)]


def _by_student(table: pd.DataFrame) -> Shown:
    """The table of one method."""
    method = table["method"].iloc[0]
    number, _ = reference.SEVERAL.get(method, (None, None))
    ways = several_teachers.ways_in_order(table["way"])
    rows = []
    for (teachers, student), mine in table.groupby(["teachers", "student"], sort=False, dropna=False):
        first = mine.iloc[0]
        name = student if pd.notna(student) else f"mean of {first['students']} students"
        of_way = {one["way"]: one for one in mine.to_dict("records")}
        accuracy = first["student_accuracy_before"]
        rows.append({"teachers": teachers, "student": name, "accuracy": accuracy, "ways": of_way})
    columns = [Column("student", "student"), Column("top-1 %", "accuracy|percent(2)", "before transfer")]
    columns = [Column("teachers", "teachers")] * (table["teachers"].nunique() > 1) + columns
    for way in ways:
        columns += _columns(way, table[table["way"] == way])
    missing = several_teachers.missing(table)
    facts = {
        "teachers": "; ".join(table["teachers"].unique()),
        "noise": table["noise"].astype(float).max(),
        "missing": "; ".join(missing),
    }
    name = "several_teachers_table_" + "".join(letter if letter.isalnum() else "_" for letter in method)
    title = (f"Table {number}: " if number else "") + f"{label(method)} from several teachers"
    keys = ["method", "teachers", "student", "way"]
    return Shown(table, None, columns, rows, keys, facts, name, title)


def _columns(way: str, of_way: pd.DataFrame) -> list[Column]:
    """Our delta by this way, what is published, and what a sequence gains over the best single teacher."""

    def cell(value: str) -> str:
        return f"({value} if {way!r} in ways else none)"

    one = f"ways[{way!r}]"
    columns = [
        Column(
            way,
            cell(f"bounded({one}.transfer_delta, {one}.low, {one}.high)") + "|points",
            "delta in points; of the mean with its 95 % interval over students, with these teachers",
        )
    ]
    if of_way["published"].notna().any():
        meaning = "as published; beside our mean the mean of these"
        columns.append(Column(f"{way}, paper", cell(f"{one}.published") + "|points", meaning))
    if way.startswith("sequential"):
        meaning = "delta over that of the best single teacher, minus 1, in percent, if that is above 0"
        over = cell(f"{one}.over_best") + "|number('+.0f', 100)"
        columns.append(Column(f"{way}: over best %", over, meaning))
    return columns


@exhibit("The order of teachers")
def several_teachers_orders(several_tested):
    """The same student, teachers, method and seed, the best teacher last or first. The paper finds that in
    descending order disproportionately more is forgotten, and that any order gains."""
    table = several_teachers.orders(several_tested)
    if table.empty:
        raise LeftOut("no teachers taught a student in ascending and in descending order")
    means = {"transfer_delta": "delta", "knowledge_gain": "gained", "knowledge_loss": "lost"}
    rows = [{**row, "measure": means[row["measure"]]} for row in table.to_dict("records")]
    columns = [
        Column("method", "method|label"),
        Column("measure", "measure", "against the original student, at the end"),
        Column("pairs", "pairs|number", "of a student and a set of teachers"),
        Column("ascending", "ascending|points", "mean in points"),
        Column("descending", "descending|points", "mean in points"),
        Column(
            "ascending minus descending",
            "bounded(mean, low, high)|points",
            "mean in points [95 % interval over students and sets of teachers]",
        ),
        Column("ascending higher", "higher|number", "pairs"),
        Column("ascending above 0", "ascending_positive|number", "pairs"),
        Column("descending above 0", "descending_positive|number", "pairs"),
    ]
    return Shown(table, None, columns, rows, keys=["method", "measure"])


@exhibit("Methods from the same teachers")
def several_teachers_methods(several_tested):
    """Two methods that taught the same student from the same teachers, in the same way and by the same seed:
    transfer deltas, means over pairs of a student and a set of teachers."""
    table = several_teachers.between_methods(several_tested)
    if table.empty:
        raise LeftOut("no two methods taught a student from the same teachers in the same way")
    columns = [
        Column("methods", "methods|label"),
        Column("way", "way"),
        Column("pairs", "pairs|number", "of a student and a set of teachers"),
        Column("first", "first|points", "mean delta in points"),
        Column("second", "second|points", "mean delta in points"),
        Column(
            "first minus second",
            "bounded(mean, low, high)|points",
            "mean in points [95 % interval over students and sets of teachers]",
        ),
        Column("first higher", "higher|number", "pairs"),
    ]
    return Shown(table, None, columns, keys=["methods", "way"])


@exhibit("Fig. 11")
def several_teachers_fig_11(history, several):
    """What a student has gained and lost after each epoch, against the original student, means over seeds;
    their difference is the delta. Vertical lines are between teachers. The paper's figure is of PiT-B with
    KL+DP from ResMLP-36, SWSL-ResNext101 and VOLO-D2, in this order; it ends at 1.04. {% if curves > shown
    %}{{ shown }} of {{ curves }} sequences are drawn; the CSV has all.{% endif %}"""
    if (several["combine"] != "sequential").all():
        raise LeftOut("no teachers taught one after the other")
    table = several_teachers.sequences(history, several)
    if table.empty:
        raise LeftOut(
            "no sequence that finished was evaluated after each epoch (`evaluate: epoch` in a study)"
        )
    facts = {"curves": len(table.drop_duplicates(CURVE)), "shown": PANELS}
    return Shown(table, _sequences(table), facts=facts)


def _sequences(table: pd.DataFrame) -> Figure:
    """Fig. 11: knowledge gained and lost, and their difference, along sequences of teachers.

    A panel a student, method and order, KL+DP and ascending first, at most `PANELS` of them.

    Args:
        table: as `several_teachers.sequences` makes it.
    """
    curves = list(table.groupby(CURVE, sort=False))
    curves.sort(key=lambda curve: (curve[0][0] != "kl_dp", curve[0][1] != "ascending"))
    curves = curves[:PANELS]
    drawing, panels = style.panelled("What a sequence of teachers gains and loses", len(curves), sharey=True)
    for axes, ((method, order, student, _), mine) in zip(panels, curves, strict=True):
        axes.axhline(0, color=style.BLACK, linewidth=1)
        for measure, (_, color) in KNOWLEDGE.items():
            axes.plot(mine["epoch"] + 1, 100 * mine[measure], color=color, linewidth=2)
        stages = mine.groupby("stage").agg(end=("epoch", "max"), teacher=("teacher", "first"))
        start = 0
        for end, teacher in stages.itertuples(index=False):
            place, height = (start + end + 1) / 2, axes.get_xaxis_transform()
            axes.text(place, 0.98, teacher, ha="center", va="top", fontsize=8, transform=height)
            start = end + 1
            if end < stages["end"].max():
                axes.axvline(start, color=style.GREY, linewidth=1, linestyle="--")
        axes.set_title(f"{student}: {label(method)}, {order}", fontsize=11)
        axes.set_xlim(0, start)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    top = panels[0].get_ylim()
    panels[0].set_ylim(top[0], top[1] + 0.12 * (top[1] - top[0]))  # room for the teachers' names
    style.axis_labels(panels, "epoch of the sequence", "percentage points")
    handles = [Line2D([], [], color=color, linewidth=2, label=text) for text, color in KNOWLEDGE.values()]
    seeds = sum(int(mine["seeds"].max()) for _, mine in curves)
    style.legend(drawing, handles, f"{seeds:,} trials; means over seeds", 3)
    return drawing
