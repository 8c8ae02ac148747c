"""The tables of arXiv 2310.17653 for these models, and its numbers beside ours."""

from __future__ import annotations

import pandas as pd

from analysis import reference, tables
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.methods import in_order, label
from analysis.text import Column

TITLE = "The paper's tables, and its numbers beside ours"
SCALED = {  # what columns of `at_larger_scale` mean
    "success_rate": "pairs with a delta above 0 [95 % interval over students and teachers]",
    "mean": "transfer delta in points, mean over pairs [95 % interval over students and teachers]",
    "weaker_mean": "the same of teachers less accurate than the student",
    "stronger_mean": "the same of teachers more accurate than the student",
}


def lines(material: Material) -> list[str]:
    """How to read them, and what of them is comparable."""
    return [
        "Deltas in percentage points, mean ± standard deviation over teachers. Where a student, its teachers "
        "and the data are those of the paper, its number stands beside ours, with the difference.",
        _matched(material.taught),
        *_published(),
        "In the paper's XE-KL runs the cross-entropy was fed softmax outputs, here it is logits.",
    ]


def _matched(units: pd.DataFrame) -> str:
    pairs = units[units["papers_student"].notna() & units["papers_teacher"].notna()]
    pairs = pairs.drop_duplicates(["student", "teacher"])
    if pairs.empty:
        return "No pair here is one of the paper's in its setting, so no published number is comparable."
    counts = ", ".join(f"{count} of {name}" for name, count in pairs["setting"].value_counts().items())
    return f"Pairs here that are the paper's, by setting: {counts}."


def _published() -> list[str]:
    """Where the published tables disagree among themselves."""
    parts = [
        f"the mean of Table 7's deltas of {row.student} with {label(row.method)} from {row.teachers} "
        f"teachers is {row.pairs:.2f}, where Table {row.table} says {row.published:.2f}"
        for row in reference.disagreements().itertuples()
    ]
    if not parts:
        return []
    return [
        f"The published tables do not agree everywhere: {'; '.join(parts)}. Tables 1 and 9 agree with each "
        "other: they are of one set of runs, Table 7's KL of another, and between the two a pair differs by "
        "up to 0.3 points (analysis/reference/README.md)."
    ]


def _of_students(table: pd.DataFrame, starts: dict[str, str]) -> Shown:
    """A table with a row a student."""
    if table.empty:
        raise LeftOut("no trial of its methods finished")
    columns = [
        Column("student", "student"),
        Column("family", "student_family|text"),
        Column("top-1 %", "student_accuracy_before|percent(2)", "accuracy before transfer"),
        Column("parameters", "student_parameters|number", "of the student"),
    ]
    for start, header in starts.items():
        columns += [
            Column(f"{header}, teachers", f"{start}_teachers|number", "number of teachers"),
            Column(header, _spread(start), "mean ± standard deviation over teachers"),
        ]
        if table[f"{start}_mean_published"].notna().any():
            columns += [
                Column(f"{header}, paper", _spread(start, "_published"), "as published"),
                Column(f"{header}, ours minus paper", f"{start}_difference|points"),
            ]
    return Shown(table, None, columns, keys=["student"])


def _spread(start: str, end: str = "") -> str:
    """A cell such as '+0.65 ± 0.26'."""
    mean, sd = f"{start}mean{end}", f"{start}sd{end}"
    if start:
        mean, sd = f"{start}_mean{end}", f"{start}_sd{end}"
    return f"{mean}|points ~ ('' if {sd}|is_none else ' ± ' ~ {sd}|number('.2f', 100))"


@exhibit("Table 1: KL and KL+DP")
def table_1(taught):
    """Each student's delta from its teachers."""
    return _of_students(tables.table_1(taught), {"kl": "KL", "kl_dp": "KL+DP"})


@exhibit("Table 2: a stronger and a weaker teacher")
def table_2(taught):
    """KL+DP of each student from two teachers: the paper's, where its Table 2 has them, else the strongest
    and the weakest. A weaker teacher's gain is what it knows that a better student does not."""
    table = tables.table_2(taught)
    if table.empty:
        raise LeftOut("KL+DP did not finish with a stronger or weaker teacher")
    columns = [
        Column("student", "student"),
        Column("teacher", "teacher"),
        Column("Δ_acc", "accuracy_difference|points", "teacher's minus student's accuracy"),
        Column("Δ", "transfer_delta|points", "transfer delta, seeds averaged"),
    ]
    if table["transfer_delta_published"].notna().any():
        columns += [
            Column("Δ_acc, paper", "accuracy_difference_published|points", "as published"),
            Column("Δ, paper", "transfer_delta_published|points", "as published"),
            Column("Δ, ours minus paper", "transfer_delta_difference|points"),
        ]
    return Shown(table, None, columns, keys=["student", "teacher"])


@exhibit("Table 3: KL+DP with and without labels")
def table_3(taught):
    """Each student's delta from its teachers."""
    starts = {"supervised": "supervised", "unsupervised": "unsupervised"}
    return _of_students(tables.table_3(taught), starts)


@exhibit("Table 7: every pair")
def table_7(taught):
    """Transfer deltas, seeds averaged."""
    table = tables.table_7(taught)
    columns = [
        Column("student", "student"),
        Column("teacher", "teacher"),
        Column("Δ_acc", "accuracy_difference|points", "teacher's minus student's accuracy"),
    ]
    methods = in_order(name.removesuffix("_published") for name in table if name.endswith("_published"))
    for method in methods:
        row = f"row[{method!r}]"
        columns.append(Column(label(method), f"{row}|points", "transfer delta, seeds averaged"))
        if table[f"{method}_published"].notna().any():
            columns += [
                Column(f"{label(method)}, paper", f"row[{method + '_published'!r}]|points", "as published"),
                Column(f"{label(method)}, ours minus paper", f"row[{method + '_difference'!r}]|points"),
            ]
    rows = [{**row, "row": row} for row in table.to_dict("records")]
    return Shown(table, None, columns, rows, keys=["student", "teacher"])


@exhibit("Table 8: what KL+DP does to the flips")
def table_8(taught):
    """How the delta, and the positive and negative flips of the same teacher, change. Here every model sees
    the images through its own crop and normalisation; the authors' scripts used the student's for both
    models, so that published flips differ from ours where the two are normalised differently."""
    starts = {"transfer_delta": "Δ", "delta_rho_pos": "Δρ_pos", "delta_rho_neg": "Δρ_neg"}
    return _of_students(tables.table_8(taught), starts)


@exhibit("Success rates (section 5.1)")
def success_rates(taught, of_methods):
    """Beside those that the paper states for its 400 pairs."""
    table = tables.success_rates(taught, of_methods)
    columns = [
        Column("method", "method|label"),
        Column("pairs", "pairs|number", "of a student and a teacher"),
        Column(
            "success %",
            "bounded(success_rate, success_rate_low, success_rate_high)|percent(0)",
            "pairs with a delta above 0 [95 % interval over students and teachers]",
        ),
        Column("median %", "success_student_median|percent(0)", "success rate of each student: median"),
        Column("paper %", "published|text", "as printed, for its 400 pairs"),
        Column("which is", "statistic|text", "the statistic that the paper gives"),
    ]
    return Shown(table, None, columns, keys=["method"])


@exhibit("At larger scale (section 5.1)")
def at_larger_scale(taught):
    """By the sign of Δ_acc. The paper's, of its 32 pairs on all of ImageNet (derived from Table 7): {% for
    row in published %}{{ row.method|label }} {{ row.success_rate|percent }} % successes, mean {{
    row.mean|points }} (weaker teachers {{ row.weaker_mean|points }}, stronger {{ row.stronger_mean|points
    }}){{ "; " if not loop.last }}{% endfor %}. They stand beside ours where the pairs are the same."""
    table = tables.by_level(taught)
    columns = [Column("method", "method|label"), Column("pairs", "pairs|number")]
    published = table["mean_published"].notna().any()
    for name, header, form in (
        ("success_rate", "success %", "percent(1)"),
        ("mean", "mean Δ", "points"),
        ("weaker_mean", "weaker teachers", "points"),
        ("stronger_mean", "stronger teachers", "points"),
    ):
        columns.append(Column(header, f"bounded({name}, {name}_low, {name}_high)|{form}", SCALED[name]))
        if published:
            columns.append(Column(f"{header}, paper", f"{name}_published|{form}", "as published"))
    facts = {"published": reference.by_level().to_dict("records")}
    return Shown(table, None, columns, keys=["method"], facts=facts)


@exhibit("Who teaches the flips (section 5.1)")
def flips_taught(taught):
    """Of the methods that partition the transfer set: the share of the flips between teacher and frozen
    student, on the views trained on, that the teacher teaches; the others the frozen student does. Means
    over pairs with 95 % intervals over students and teachers. The paper states {{
    positive_flips_taught|percent(0) }} % of the positive and {{ negative_flips_taught|percent(0) }} % of the
    negative flips, in the paragraph on the unsupervised method; the authors' scripts average over batches,
    against the student as it changes."""
    table = tables.flips_taught(taught)
    if table.empty:
        raise LeftOut("no method that was run partitions the data, or an older version recorded the trials")
    columns = [Column("method", "method|label"), Column("pairs", "pairs|number")]
    for name, kind in zip(tables.FLIPS_TAUGHT, ("positive", "negative"), strict=True):
        meaning = {"positive": "teacher right, frozen student wrong", "negative": "the reverse"}[kind]
        cell = f"bounded({name}, {name}_low, {name}_high)|percent(0)"
        columns.append(Column(f"{kind} flips %", cell, f"{meaning}: share that the teacher teaches"))
        if table[f"{name}_published"].notna().any():
            columns.append(Column(f"{kind} flips %, paper", f"{name}_published|percent(0)", "as published"))
    return Shown(table, None, columns, keys=["method"], facts=reference.taught())


@exhibit("By data set")
def by_data_set(trials, units):
    """Each method on each data set."""
    table = tables.by_data(trials, units)
    columns = [
        Column("data", "data"),
        Column("classes", "classes|number"),
        Column("samples", "evaluation_samples|number", "of the evaluation"),
        Column("method", "method|label"),
        Column("pairs", "pairs|number"),
        Column("success %", "success_rate|percent(0)", "pairs with a delta above 0"),
        Column("Δ", _spread(""), "mean ± standard deviation over pairs"),
    ]
    return Shown(table, None, columns, keys=["data", "data_sha256", "method"])
