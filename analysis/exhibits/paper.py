"""The tables of arXiv 2310.17653 for these models, and its numbers beside ours."""

from __future__ import annotations

import pandas as pd

from analysis import reference, tables
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.methods import in_order, label
from analysis.text import Column

TITLE = "The paper's tables, and its numbers beside ours"


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
        "other: they are of one set of runs, Table 7's KL of another (analysis/reference/README.md)."
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
    """How the delta, and the positive and negative flips of the same teacher, change."""
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
