"""What a search over settings of methods found: arXiv 2310.17653, appendix A.1 to A.3.

The paper's text names what was chosen; its scripts plot gain against loss, and the smallest against the
largest delta, to choose. Beside every effect stands the control: the same students fine-tuned without a
teacher. All numbers are of images kept aside for choices.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import search_measures, style
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.methods import CONTROL
from analysis.text import Column, filled

TITLE = "The search over settings"
LEVELS = {
    "all": ("all teachers", style.BLACK, "o"),
    "weaker": ("weaker teachers", style.ORANGE, "v"),
    "equal": ("equal teachers", style.GREY, "s"),
    "stronger": ("stronger teachers", style.BLUE, "^"),
}
BEST = """
Of {{ of|number }} combinations of {{ search }}'s settings, {{ settings }} gained most on images kept aside:
{{ bounded(transfer_delta, transfer_delta_low, transfer_delta_high)|points }} points on {{ pairs|number }}
pairs, with {{ knowledge_gain|percent(2) }} % gained and {{ knowledge_loss|percent(2) }} % lost;
{% if over_control|is_none %}no control was run, so what fine-tuning without a teacher would have done is not
known.
{% else %}against fine-tuning the same students without a teacher
{{ bounded(over_control, over_control_low, over_control_high)|points }}.
{% endif %}
The best of many looks better than it is.
"""
GREY, CROSS = style.METHODS[CONTROL]
NAMED = 3  # combinations of a search that a figure names: the best


def lines(material: Material) -> list[str] | None:
    """The best combination of each search; no section without a search."""
    if material.of_searches.empty:
        return None
    combinations = material.combinations
    searches = combinations[combinations["method"] != CONTROL].groupby("search")
    return [filled(BEST, mine.iloc[0].to_dict() | {"of": len(mine)}) for _, mine in searches]


@exhibit("By setting")
def search_settings(searched, combinations):
    """What each value of a setting does, over all values of the others, by how good the teacher is. The paper
    reports that a larger weight of KL (λ) suits stronger teachers and a smaller one weaker teachers: then the
    blue line rises with it and the orange one falls. The dashed line is the control, the same students
    fine-tuned without a teacher, in the band of its 95 % interval over students: what lies on it is no work
    of a teacher. Scored on images kept aside, never on those that results are reported on."""
    table = search_measures.by_value(searched)
    if table.empty:
        raise LeftOut("of each search a single combination is recorded")
    keys = ["search", "setting", "value", "level"]
    return Shown(table.astype({"value": str}), _by_value(table, combinations), keys=keys)


@exhibit("Gain against loss")
def search_gain_against_loss(combinations):
    """A mark is a combination, over all its pairs. Above the line more is gained than lost. The best
    {{ named }} of each search are numbered, as in the table below; the cross is the control, without a
    teacher."""
    return Shown(
        combinations, _gain_against_loss(combinations), keys=["search", "method"], facts={"named": NAMED}
    )


@exhibit("Smallest against largest delta")
def search_smallest_against_largest(combinations):
    """The delta of each combination's worst and best pair: to the right it does less harm, above it helps
    more. The cross is the control: its worst and best student."""
    return Shown(combinations, _extremes(combinations))


@exhibit("Combinations")
def search_combinations(combinations):
    """The best of many looks better than it is, by as much as chance spreads them: what is chosen here has to
    be measured again, on images on which nothing was chosen. The control has a student in place of a pair."""
    columns = [
        Column("search", "search"),
        Column("settings", "settings"),
        Column("pairs", "pairs|number"),
        Column("success %", "success_rate|percent(0)", "pairs with a delta above 0"),
        Column(
            "Δ",
            "bounded(transfer_delta, transfer_delta_low, transfer_delta_high)|points",
            "mean over pairs [95 % interval over students and teachers]",
        ),
        Column(
            "over control",
            "bounded(over_control, over_control_low, over_control_high)|points",
            "Δ minus that of the same student without a teacher: mean [95 % interval]",
        ),
        Column("weaker", "transfer_delta_weaker|points", "mean with weaker teachers"),
        Column("stronger", "transfer_delta_stronger|points", "mean with stronger teachers"),
        Column("gain %", "knowledge_gain|percent(2)"),
        Column("loss %", "knowledge_loss|percent(2)"),
    ]
    return Shown(combinations, None, columns, keys=["search", "method"])


def _by_value(table: pd.DataFrame, combinations: pd.DataFrame) -> Figure:
    """A panel a setting of a search.

    Args:
        table: as `search_measures.by_value` makes it.
        combinations: as `search_measures.combinations` makes it, for the control.
    """
    control = combinations[combinations["method"] == CONTROL].to_dict("records")
    groups = list(table.groupby(["search", "setting"], sort=False))
    drawing, panels = style.panelled("What each value of a setting does", len(groups))
    for panel, ((search, setting), mine) in zip(panels, groups, strict=True):
        values = list(dict.fromkeys(mine["value"]))
        present = [name for name in LEVELS if (mine["level"] == name).any()]
        for place, name in enumerate(present):
            _, color, marker = LEVELS[name]
            own = mine[mine["level"] == name]
            x = own["value"].map(values.index) + 0.12 * (place - (len(present) - 1) / 2)
            low, high = 100 * own["transfer_delta_low"], 100 * own["transfer_delta_high"]
            panel.vlines(x, low, high, color=color, linewidth=1.5, alpha=0.6)
            panel.plot(
                x, 100 * own["transfer_delta"], color=color, marker=marker, markersize=5, linewidth=1.5
            )
        panel.axhline(0, color=style.BLACK, linewidth=1)
        for row in control:
            low, high = (100 * row[f"transfer_delta_{end}"] for end in ("low", "high"))
            panel.axhspan(low, high, color=GREY, alpha=0.2, linewidth=0)
            panel.axhline(100 * row["transfer_delta"], color=GREY, linewidth=1.5, linestyle="--")
        panel.set_xticks(range(len(values)), [search_measures.text(value) for value in values])
        panel.set_title(f"{search}: {setting}", fontsize=11)
    style.axis_labels(panels, "value", "transfer delta (points)")
    levels = {name: LEVELS[name] for name in LEVELS if (table["level"] == name).any()}
    handles = [
        Line2D([], [], color=color, marker=marker, label=text) for text, color, marker in levels.values()
    ]
    handles += [Line2D([], [], color=GREY, linestyle="--", label="control, no teacher") for _ in control]
    size = f"{table['pairs'].max()} pairs at most; means, 95 % intervals over students and teachers"
    style.legend(drawing, handles, size, len(handles))
    return drawing


def _scatter(table: pd.DataFrame, title: str, x: str, y: str) -> tuple[Figure, list, list[Line2D]]:
    """A panel a search, a mark a combination, in %, the best numbered, and the control, with its legend."""
    alone = table["method"] == CONTROL
    table, control = table[~alone], table[alone]
    groups = list(table.groupby("search", sort=False))
    drawing, panels = style.panelled(title, len(groups))
    for panel, (search, mine) in zip(panels, groups, strict=True):
        panel.scatter(100 * mine[x], 100 * mine[y], color=style.BLUE, s=26, alpha=0.8, linewidth=0)
        for number, row in enumerate(mine.head(NAMED).to_dict("records"), 1):
            where = (100 * row[x], 100 * row[y])
            panel.annotate(str(number), where, xytext=(5, 4), textcoords="offset points", fontsize=9)
        panel.scatter(100 * control[x], 100 * control[y], color=GREY, marker=CROSS, s=50)
        panel.set_title(search, fontsize=11)
    handles = [
        Line2D([], [], color=GREY, marker=CROSS, linestyle="", label="control, no teacher")
        for _ in range(len(control))
    ]
    return drawing, panels, handles


def _gain_against_loss(table: pd.DataFrame) -> Figure:
    title = "What combinations gain against what they lose"
    drawing, panels, handles = _scatter(table, title, "knowledge_loss", "knowledge_gain")
    for panel in panels:
        end = style.up_to([*panel.get_xlim(), *panel.get_ylim()], 1.05)
        panel.plot([0, end], [0, end], color=style.BLACK, linewidth=1)
        panel.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    style.axis_labels(panels, "knowledge loss (% of samples)", "knowledge gain (% of samples)")
    handles.insert(0, Line2D([], [], color=style.BLACK, label="as much gained as lost: Δ = 0"))
    style.legend(drawing, handles, f"{_count(table)} combinations, means over pairs", 2)
    return drawing


def _extremes(table: pd.DataFrame) -> Figure:
    title = "The worst and the best pair of each combination"
    drawing, panels, handles = _scatter(table, title, "transfer_delta_min", "transfer_delta_max")
    for panel in panels:
        panel.axvline(0, color=style.BLACK, linewidth=1)
        panel.axhline(0, color=style.BLACK, linewidth=1)
    style.axis_labels(panels, "smallest delta of a pair (points)", "largest delta (points)")
    handles.insert(0, Line2D([], [], color=style.BLACK, label="Δ = 0"))
    style.legend(drawing, handles, f"{_count(table)} combinations", 2)
    return drawing


def _count(table: pd.DataFrame) -> int:
    """The combinations of a table of them, the control left out."""
    return int((table["method"] != CONTROL).sum())
