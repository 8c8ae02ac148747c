"""Two studies side by side, on the trials that both have: `analysis/report.py A B`."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.methods import in_order, label
from analysis.statements import numbers
from analysis.text import Column

TITLE = "What differs, on pairs both have"


@exhibit("Differences by method")
def both_by_method(pairs, by_method, names):
    """Transfer delta of {{ b }} minus that of {{ a }}, for the same student, teacher, method and seed,
    seeds averaged; means over pairs, with 95 % intervals over students and teachers (thick: over students,
    with these teachers)."""
    found = numbers(by_method)
    rows = [{"method": method, **found[method]} for method in in_order(found)]
    columns = [
        Column("method", "method|label"),
        Column("pairs", "difference_mean.n|number", "that both studies have"),
        Column("Δ of the first", "delta_of_first|points", "mean in points"),
        Column("Δ of the second", "delta_of_second|points", "mean in points"),
        Column("second minus first", "difference_mean|points", "mean [95 % interval]"),
        Column(
            "with these teachers", "difference_mean_given_teachers|points", "[95 % interval over students]"
        ),
        Column("second higher", "difference_positive|number", "pairs"),
    ]
    a, b = names
    return Shown(by_method, _by_method(pairs, found), columns, rows, facts={"a": a, "b": b})


def _by_method(pairs: pd.DataFrame, found: dict) -> Figure:
    methods = in_order(found)
    drawing, axes = style.figure(
        "Second study minus the first, on the same pairs", (8, 2.2 + 0.6 * len(methods))
    )
    for y, method in enumerate(methods):
        mine = 100 * pairs.loc[pairs["method"] == method, "difference"]
        spread = y - 0.15 + style.jitter(len(mine), 0.1)
        axes.scatter(mine, spread, s=14, color=style.GREY, alpha=0.6, linewidth=0)
        mean, given = (found[method][f"difference_mean{of}"] for of in ("", "_given_teachers"))
        axes.plot([100 * mean.low, 100 * mean.high], [y + 0.2] * 2, color=style.BLACK, linewidth=1)
        axes.plot([100 * given.low, 100 * given.high], [y + 0.2] * 2, color=style.BLACK, linewidth=3.5)
        axes.plot(100 * mean.value, y + 0.2, "D", color=style.BLACK, markersize=5)
    axes.axvline(0, color=style.BLACK, linewidth=1)
    axes.set_yticks(range(len(methods)), map(label, methods))
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("difference of transfer deltas (percentage points)")
    handles = [Line2D([], [], color=style.BLACK, marker="D", label="mean, 95 % intervals")]
    style.legend(drawing, handles, f"{len(pairs):,} pairs, a dot each")
    return drawing


@exhibit("Every pair of both")
def both_pairs(pairs, names):
    """Each pair's transfer delta in the first study ({{ a }}) and in the second ({{ b }}); on the line they
    are equal."""
    a, b = names
    return Shown(pairs, _pairs(pairs), facts={"a": a, "b": b})


def _pairs(pairs: pd.DataFrame) -> Figure:
    drawing, axes = style.figure("Transfer deltas in both studies")
    methods = style.styles(style.METHODS, pairs["method"])
    for method, (color, marker) in methods.items():
        mine = pairs[pairs["method"] == method]
        look = {"color": color, "marker": marker, "s": 26, "alpha": 0.8, "linewidth": float(marker == "x")}
        axes.scatter(100 * mine["first"], 100 * mine["second"], **look)
    values = 100 * pairs[["first", "second"]]
    ends = [values.min().min(), values.max().max()]
    axes.plot(ends, ends, color=style.BLACK, linewidth=1)
    axes.set(xlabel="first study: transfer delta (points)", ylabel="second study: transfer delta (points)")
    style.legend(drawing, style.method_handles(methods), f"{len(pairs):,} pairs, seeds averaged", 3)
    return drawing


@exhibit("Settings that differ")
def both_settings(settings):
    """What the records of the compared trials say of how they were run, where the two studies differ."""
    if settings.empty:
        raise LeftOut("the records of both say the same of how they were run")
    columns = [Column(header, header) for header in ("setting", "first", "second")]
    return Shown(settings, None, columns)
