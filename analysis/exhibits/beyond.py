"""Beyond top-1 accuracy on the study's own images: top-5, likelihood, calibration, and other images."""

from __future__ import annotations

from analysis import beyond_accuracy
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.text import Column, Number, number

TITLE = "Beyond top-1 accuracy"
SCORES = {
    "top5_accuracy": ("top-5 accuracy", 100, ".2f"),
    "negative_log_likelihood": ("negative log-likelihood", 1, ".4f"),
    "calibration_error": ("calibration error", 100, ".2f"),
}


@exhibit("Top-5, likelihood and calibration")
def scores(tested):
    """Means over pairs, seeds averaged, with the 95 % interval of the change over students and teachers.
    Top-5 accuracy and calibration error (15 bins, arXiv 1706.04599) in percent and points, likelihood in
    nats. A student that learns from probabilities may be right more often and yet too sure, or less sure,
    of it."""
    table = beyond_accuracy.scores(tested)
    if table.empty:
        raise LeftOut("these trials were recorded by a version that did not measure them")
    rows = []
    for row in table.to_dict("records"):
        name, factor, form = SCORES[row["score"]]
        change = number(Number(row["change"], row["low"], row["high"]), "+" + form, factor)
        before, after = (number(row[when], form, factor) for when in ("before", "after"))
        rows.append({**row, "score": name, "before": before, "after": after, "change": change})
    columns = [
        Column("score", "score"),
        Column("method", "method|label"),
        Column("pairs", "pairs|number", "of a student and a teacher"),
        Column("before", "before", "mean"),
        Column("after", "after", "mean"),
        Column("change", "change", "mean [95 % interval]"),
    ]
    return Shown(table, None, columns, rows, keys=["score", "method"])


@exhibit("Other images")
def other_sets(evaluations):
    """The same students, before and after, on other images: does a gain hold there? Means over pairs, seeds
    averaged, with 95 % intervals over students and teachers; the last column compares each pair with
    itself."""
    table = beyond_accuracy.sets(evaluations)
    if table.empty:
        raise LeftOut("the study names no other sets to evaluate on (`data.also`)")
    columns = [
        Column("set", "set"),
        Column("method", "method|label"),
        Column("classes", "classes|number"),
        Column("samples", "samples|number"),
        Column("pairs", "pairs|number", "of a student and a teacher"),
        Column("top-1 %", "accuracy|percent(2)", "mean accuracy before"),
        Column("above 0", "positive|number", "pairs with a delta above 0"),
        Column("Δ", "bounded(delta, delta_low, delta_high)|points", "mean"),
        Column("Δ, own images", "bounded(own_delta, own_delta_low, own_delta_high)|points", "mean"),
        Column("difference", "bounded(difference, difference_low, difference_high)|points", "mean"),
    ]
    return Shown(table, None, columns, keys=["set", "method"])
