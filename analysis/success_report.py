"""The text of the success rates: what `measures.by_method` found, told to a reader.

Equal results give equal bytes.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import pandas as pd

from analysis import style, success_figures
from analysis.measures import (
    MARGIN,
    SIGNIFICANCE,
    label,
    method_differences,
    per_student,
    student_properties,
)
from analysis.readable import markdown as markdown_table
from analysis.results import write

# Each turns a row of the summary and the name of a measure into the text of one cell.


def _count(row: dict, name: str) -> str:
    return str(row[name])


def _percent(row: dict, name: str) -> str:
    return "-" if math.isnan(row[name]) else f"{100 * row[name]:.0f}"


def _points(row: dict, name: str) -> str:
    return "-" if math.isnan(row[name]) else f"{100 * row[name]:+.2f}"


def _unsigned(row: dict, name: str) -> str:
    return _points(row, name).lstrip("+")


def _interval(row: dict, name: str, text=_percent) -> str:
    bounds = f"[{text(row, f'{name}_low')}, {text(row, f'{name}_high')}]"
    return "-" if math.isnan(row[f"{name}_low"]) else bounds


def _quartiles(row: dict, name: str) -> str:
    median, low, high = (_percent(row, f"{name}_{part}") for part in ("median", "q1", "q3"))
    return f"{median} ({low} to {high})"


def _mean(row: dict, name: str) -> str:
    interval = "" if math.isnan(row[f"{name}_low"]) else f" {_interval(row, name, _points)}"
    return _points(row, f"{name}_mean") + interval


def _of_finished(*parts: str):
    """A text of several counts of trials, such as 3/0 of 36."""

    def text(row: dict, _: str) -> str:
        return f"{'/'.join(str(row[part]) for part in parts)} of {row['trials']}" if row["trials"] else "-"

    return text


def _positive(row: dict, name: str) -> str:
    return f"{row[f'{name}_positive']}/{row[f'{name}_trials']}" if row[f"{name}_trials"] else "-"


def _mean_and_positive(row: dict, name: str) -> str:
    return f"{_mean(row, name)} ({_positive(row, name)})" if row[f"{name}_trials"] else "-"


def _rate_and_wilson(row: dict, name: str) -> str:
    return f"{_percent(row, f'{name}_rate')} {_interval(row, f'{name}_wilson')}".replace("- -", "-")


def _p_value(row: dict, name: str) -> str:
    return "-" if math.isnan(row[name]) else f"{row[name]:.2g}"


def readable(
    summary: pd.DataFrame, equal: float = 1.0, reference: str = "kl"
) -> dict[str, tuple[pd.DataFrame, dict[str, str]]]:
    """The table by method as text, in percent and percentage points.

    Returns:
        By title: a table of strings whose first column is "method", and what each other column means.
    """
    kl, cluster = label(reference), "[95 % interval]"
    band = f"{equal:g} percentage point{'s' * (equal != 1)}"
    levels = {
        "weaker": (f"weaker (< -{equal:g})", f"whose accuracy is below the student's by more than {band}"),
        "equal": (f"equal (+-{equal:g})", f"whose accuracy differs from the student's by {band} at most"),
        "stronger": (
            f"stronger (> +{equal:g})",
            f"whose accuracy is above the student's by more than {band}",
        ),
        "not_stronger": ("not stronger", "of the columns weaker and equal together"),
    }
    tables = {  # title: (column, how its text is made, from which measure, what it means)
        "Success rate": [
            ("trials", _count, "trials", "finished trials: a student, a teacher, a seed"),
            ("failed", _count, "failed", "trials that failed and are in no other number"),
            (
                "pairs",
                _count,
                "pairs",
                "pairs of a student and a teacher, over whose seeds deltas are averaged",
            ),
            (
                "success %",
                _percent,
                "success_rate",
                "pairs with a transfer delta > 0, however small; mere chance gives half of them",
            ),
            (
                "95 %",
                _interval,
                "success",
                "its 95 % interval by a bootstrap of whole students and teachers",
            ),
            ("Wilson %", _interval, "success_wilson", "its 95 % interval if pairs were independent (Wilson)"),
            (
                "clear success %",
                _rate_and_wilson,
                "clear_success",
                f"pairs with a delta above {MARGIN:g} times the evaluation's noise, [Wilson]: about "
                f"{SIGNIFICANCE:.0%} by mere chance",
            ),
            (
                "median student %",
                _quartiles,
                "success_student",
                "success rate of each student over its teachers: median (quartiles) of the students",
            ),
        ],
        "Size of the transfer": [
            (
                "mean delta",
                _mean,
                "delta",
                f"accuracy after minus before, in points: mean over pairs {cluster}",
            ),
            ("worst", _points, "delta_min", "smallest transfer delta of a trial, in points"),
            (
                "signif. +/-",
                _of_finished("significant_positive", "significant_negative"),
                "trials",
                f"trials that improved/got worse by the exact two-sided McNemar test (p < {SIGNIFICANCE}), "
                "which compares the samples gained with the samples lost; chance gives "
                f"{SIGNIFICANCE / 2:.1%} each at most",
            ),
            (
                "better/worse",
                _of_finished("better", "worse"),
                "trials",
                f"the same with q < {SIGNIFICANCE}: p adjusted (Benjamini-Hochberg) for all finished trials "
                f"here, so that at most {SIGNIFICANCE:.0%} of those named are expected to be by chance",
            ),
            (
                "noise",
                _unsigned,
                "noise",
                "a delta's standard deviation by chance, sqrt(gained + lost)/samples, in points: mean",
            ),
            (
                "seeds' SD",
                _unsigned,
                "seed_sd",
                "standard deviation of a pair's delta over its seeds, in points: root mean square over pairs",
            ),
            (
                "over control",
                _mean,
                "over_control",
                "delta minus that of the same student and seed trained on without a teacher, in points: "
                f"mean over pairs {cluster}",
            ),
        ],
        "By the teacher's accuracy": [
            (
                header,
                _mean_and_positive,
                f"delta_{level}",
                f"mean delta in points {cluster} (successes/pairs) with teachers {meaning}",
            )
            for level, (header, meaning) in levels.items()
            if level != "not_stronger"
        ],
        f"Paired with {kl}": [
            (
                f"minus {kl}",
                _mean,
                "over_reference",
                f"delta minus {kl}'s for the same student, teacher and seed, in points: mean {cluster}",
            ),
            (
                "better on",
                _positive,
                "over_reference",
                f"pairs above {kl} / all pairs that have it",
            ),
            (
                "Wilcoxon p",
                _p_value,
                "over_reference_wilcoxon_p",
                "two-sided signed-rank test as if pairs were independent: trust the interval first",
            ),
        ],
        f"Paired with {kl}, by the teacher's accuracy": [
            (
                header,
                _mean_and_positive,
                f"over_reference_{level}",
                f"delta minus {kl}'s, in points, {cluster} (better on/pairs) with teachers {meaning}",
            )
            for level, (header, meaning) in levels.items()
        ],
        "Knowledge": [
            (
                "gain %",
                _unsigned,
                "knowledge_gain_median",
                "samples wrong before, right after: median over trials",
            ),
            (
                "loss %",
                _unsigned,
                "knowledge_loss_median",
                "samples right before, wrong after: median over trials",
            ),
            (
                "transfer rate %",
                _percent,
                "transfer_rate_median",
                "share gained of the samples that only the teacher got right before: median over trials",
            ),
        ],
    }
    rows = summary.to_dict("records")
    return {
        title: (
            pd.DataFrame(
                {"method": list(summary["label"])}
                | {header: [text(row, measure) for row in rows] for header, text, measure, _ in columns}
            ),
            {header: meaning for header, _, _, meaning in columns},
        )
        for title, columns in tables.items()
    }


def differences_table(differences: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """`measures.method_differences` as text: a row a pair of methods; and what each column means."""
    headers = {"all": "all teachers", "weaker": "weaker", "equal": "equal", "stronger": "stronger"}
    rows = []
    for (a, b), of_pair in differences.groupby(["a", "b"], sort=False):
        row = {"methods": f"{label(a)} minus {label(b)}"} | dict.fromkeys(headers.values(), "-")
        for one in of_pair.to_dict("records"):
            mean = _mean({f"x_{part}": one[part] for part in ("mean", "low", "high")}, "x")
            row[headers[one["level"]]] = f"{mean} ({one['better']}/{one['pairs']})"
        q = of_pair.set_index("level").loc["all", "wilcoxon_q"]
        rows.append(row | {"Wilcoxon q": f"{q:.2g}"})
    meanings = dict.fromkeys(list(headers.values())[1:], "the same with teachers of this accuracy")
    meanings = {
        "all teachers": "difference of the deltas on the same student, teacher and seed, in points: mean "
        "[95 % interval] (pairs on which the first method is above/all)",
        **meanings,
        "Wilcoxon q": "two-sided signed-rank test over all teachers as if pairs were independent, adjusted "
        "(Benjamini-Hochberg) for every comparison of this table",
    }
    return pd.DataFrame(rows, columns=["methods", *meanings]), meanings


def properties_table(properties: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """`measures.student_properties` as text: a row a method; and what each column means."""
    kinds = {
        "log10_parameters": ("size", "number of parameters"),
        "accuracy": ("accuracy", "accuracy before"),
    }
    outcomes = {"delta_mean": ("delta", "mean delta"), "success_rate": ("success", "success rate")}
    names = {(k, o): f"{kinds[k][0]} and {outcomes[o][0]}" for k in kinds for o in outcomes}
    rows = []
    for method, of_method in properties.dropna(subset="rho").groupby("method", sort=False):
        row = {"method": label(method), "students": str(of_method["n"].max())}
        row |= dict.fromkeys(names.values(), "-")
        for one in of_method.to_dict("records"):
            text = f"{one['rho']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"
            row[names[one["property"], one["outcome"]]] = text
        rows.append(row)
    meanings = {"students": "how many the correlations are of"} | {
        name: f"Spearman's correlation of a student's {kinds[k][1]} with its {outcomes[o][1]} [95 % interval]"
        for (k, o), name in names.items()
    }
    return pd.DataFrame(rows, columns=["method", *meanings]), meanings


def conclusions(summary: pd.DataFrame, equal: float = 1.0, reference: str = "kl") -> list[str]:
    """How the results came out, in sentences made of the numbers of `by_method` and nothing else."""
    rows = summary[summary["trials"] > 0].to_dict("records")
    taught, alone = [row for row in rows if row["teachers"]], [row for row in rows if not row["teachers"]]
    kl = label(reference)
    weaker = [
        f"{row['label']} {_points(row, 'delta_weaker_mean')}, {row['delta_weaker_positive']} of "
        f"{row['delta_weaker_trials']} positive"
        for row in taught
        if row["delta_weaker_trials"]
    ]
    worse = [f"{row['label']} in {row['worse']} of {row['trials']}" for row in taught]
    paired = {
        level: [
            f"{row['label']} {_mean(row, f'over_reference_{level}')}"
            + _given_teachers(row, f"over_reference_{level}")
            for row in taught
            if row[f"over_reference_{level}_trials"]
        ]
        for level in ("not_stronger", "stronger")
    }
    control = [
        f"{row['label']} {_mean(row, 'delta')} points, success in {_positive(row, 'delta')}"
        + (", so part of every success is mere training" if row["delta_low"] > 0 else "")
        for row in alone
    ]
    sentences = {
        f"Mean delta in points from teachers more than {equal:g} weaker": weaker,
        f"Worse trials (McNemar, q < {SIGNIFICANCE})": worse,
        f"Minus {kl} on the same pair, teachers not stronger, in points": paired["not_stronger"],
        f"Minus {kl} on the same pair, teachers stronger, in points": paired["stronger"],
        "Trained on without a teacher": control,
    }
    return [f"{start}: {'; '.join(parts)}." for start, parts in sentences.items() if parts]


def _given_teachers(row: dict, name: str) -> str:
    """The narrower interval that says nothing of other teachers, where the one beside it does."""
    text = _interval(row, f"{name}_given_teachers", _points)
    return "" if text in ("-", _interval(row, name, _points)) else f", with these teachers {text}"


def failures(trials: pd.DataFrame) -> list[str]:
    """A line a failed trial: its id, what it was to do, and why it failed."""
    failed = trials[trials["status"] != "ok"].sort_values("trial")
    return [
        f"{r.trial}: {r.method} to {r.student}" + (f" from {r.teacher}" if pd.notna(r.teacher) else "")
        + (f", seed {r.seed:.0f}" if pd.notna(r.seed) else "") + f": {r.reason}"
        for r in failed.itertuples()
    ]  # fmt: skip


def aligned(table: pd.DataFrame) -> str:
    """The table as text: the first column to the left, the others to the right."""
    cells = [list(table.columns), *table.to_numpy().tolist()]
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    return "\n".join(
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in cells
    )


def markdown(
    trials: pd.DataFrame,
    summary: pd.DataFrame,
    differences: pd.DataFrame,
    properties: pd.DataFrame,
    equal: float = 1.0,
    reference: str = "kl",
) -> str:
    """The report: where the numbers come from, how they came out, each table with its columns explained.

    Args:
        trials: as `load` gives them.
        summary: of `measures.by_method`.
        differences: of `measures.method_differences`.
        properties: of `measures.student_properties`.
        equal: half width of the band of equal teachers, in percentage points.
        reference: the method that the others are paired with.
    """
    done, failed = trials[trials["status"] == "ok"], failures(trials)
    students, teachers, seeds = (done[name].nunique() for name in ("student", "teacher", "seed"))
    samples = " or ".join(f"{n:,.0f}" for n in sorted(done["evaluation_samples"].unique()))
    lines = [
        "# Success rate and size of transfer, by method",
        "",
        f"From {len(done)} finished trials ({len(failed)} failed) with {students} students, {teachers} "
        f"teachers and {seeds} seeds, of: {', '.join(sorted(done['study'].unique()))}. A trial is one "
        f"student, teacher, method and seed, evaluated on {samples} samples; the control has no teacher. "
        "Here in percent and percentage points; `success_rate.parquet` and `success_rate.csv` hold the same "
        "measures, and more, as fractions.",
        "",
        *(f"- {sentence}" for sentence in conclusions(summary, equal, reference)),
        "",
        "![Success rate of each student and transfer delta of each trial, by method](success_rate.png)",
    ]
    tables = readable(summary, equal, reference)
    tables |= {
        "All pairs of methods": differences_table(differences),
        "Students": properties_table(properties),
    }
    for title, (table, meanings) in tables.items():
        if table.empty:
            continue
        lines += ["", f"## {title}", "", *markdown_table(table)]
        lines += ["", *(f"- **{header}**: {meaning}." for header, meaning in meanings.items())]
    lines += [
        "",
        "## About the intervals and tests",
        "",
        "Numbers of pairs are means over seeds first: a further seed is no further student or teacher. "
        "Trials that share a student or a teacher are not independent, so the bootstrap draws the "
        f"{students} students and the {teachers} teachers with replacement, each with all its trials, and "
        "stretches its quantiles for their small numbers (`crossed_bootstrap` in `analysis/statistics.py`). "
        "An interval tells how other students and teachers might differ, so it is wide where only two or "
        'three teachers stand behind a number; "with these teachers" it draws students alone. It does not '
        "tell how other data would.",
    ]
    if failed:
        lines += ["", "## Failed trials", "", *(f"- {line}" for line in failed)]
    return "\n".join([*lines, ""])


def report(trials: pd.DataFrame, summary: pd.DataFrame, out: Path, equal: float = 1.0) -> list[Path]:
    """Write the tables, the report and the figure into the folder `out`; returns what was written.

    Raises:
        ResultsError: the folder cannot be written.
    """

    differences, properties = method_differences(trials, equal), student_properties(trials)
    contents = {
        "success_rate.parquet": summary.to_parquet,
        "success_rate.csv": summary.to_csv(index=False),
        "success_rate.md": markdown(trials, summary, differences, properties, equal),
        "per_student.parquet": per_student(trials).to_parquet,
        "method_differences.parquet": differences.to_parquet,
        "student_properties.parquet": properties.to_parquet,
    }
    drawing = success_figures.success_rates(trials, summary, equal)
    return write(out, contents | style.files("success_rate", drawing))


def console(trials: pd.DataFrame, summary: pd.DataFrame, equal: float = 1.0) -> str:
    """What the command prints, in 120 columns: the main columns of `readable`, and the conclusions."""
    tables = [table.set_index("method") for table, _ in readable(summary, equal).values()]
    success, size, teachers, paired, paired_levels, _ = tables
    parts = {
        "success rate in % of pairs, transfer delta in points, [95 % interval over students and teachers]": [
            success[["trials", "success %", "95 %", "clear success %"]],
            size[["mean delta", "worst", "better/worse"]],
        ],
        "mean delta (successes/pairs) by the teacher's accuracy minus the student's, in points": [teachers],
        f"delta minus {label('kl')}'s on the same student, teacher and seed, in points (better on/pairs)": [
            paired[paired.columns[:1]],
            paired_levels[paired_levels.columns[-2:]],
        ],
    }
    lines = []
    for title, columns in parts.items():
        table = pd.concat(columns, axis=1)
        if (table != "-").any(axis=None):  # without the reference method there is nothing to pair
            lines += [title, aligned(table.reset_index()), ""]
    lines += [
        textwrap.fill(sentence, 120, break_on_hyphens=False) for sentence in conclusions(summary, equal)
    ]
    failed = failures(trials)
    if failed:
        lines += [textwrap.fill(f"Left out, failed: {len(failed)}, such as {failed[0]}", 120)]
    return "\n".join(lines)
