"""The text of the success rates: what `measures.by_method` found, told to a reader.

Equal results give equal bytes.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import pandas as pd
from matplotlib import rc_context

from analysis import success_figures
from analysis.measures import SIGNIFICANCE, label, per_student
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


def _of_trials(row: dict, name: str) -> str:
    return f"{row[name]}/{row['trials']}" if row["trials"] else "-"


def _positive(row: dict, name: str) -> str:
    return f"{row[f'{name}_positive']}/{row[f'{name}_trials']}" if row[f"{name}_trials"] else "-"


def _mean_and_positive(row: dict, name: str) -> str:
    return f"{_mean(row, name)} ({_positive(row, name)})" if row[f"{name}_trials"] else "-"


def _p_value(row: dict, name: str) -> str:
    return "-" if math.isnan(row[name]) else f"{row[name]:.2g}"


def readable(
    summary: pd.DataFrame, equal: float = 1.0, reference: str = "kl"
) -> dict[str, tuple[pd.DataFrame, dict[str, str]]]:
    """The table by method as text, in percent and percentage points.

    Returns:
        By title: a table of strings whose first column is "method", and what each other column means.
    """
    kl, cluster = label(reference), "[95 % interval, bootstrap of whole students]"
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
            ("trials", _count, "trials", "finished trials, which all other columns come from"),
            ("failed", _count, "failed", "trials that failed and are in no other number"),
            ("pairs", _count, "pairs", "different pairs of a student and a teacher"),
            ("students", _count, "students", "different students"),
            (
                "success %",
                _percent,
                "success_rate",
                "trials with a transfer delta > 0, however small",
            ),
            (
                "Wilson %",
                _interval,
                "success_wilson",
                "its 95 % interval if trials were independent (Wilson)",
            ),
            ("by student %", _interval, "success", "its 95 % interval by a bootstrap of whole students"),
            (
                "median student %",
                _quartiles,
                "success_student",
                "success rate of each student over teachers and seeds: median (quartiles) of the students",
            ),
        ],
        "Size of the transfer": [
            (
                "mean delta",
                _mean,
                "delta",
                f"accuracy after minus before, in points: mean over trials {cluster}",
            ),
            ("worst", _points, "delta_min", "smallest transfer delta of a trial, in points"),
            (
                "signif. +",
                _of_trials,
                "significant_positive",
                f"trials that improved by the exact two-sided McNemar test at {SIGNIFICANCE}, which compares "
                "the samples gained with the samples lost",
            ),
            (
                "signif. -",
                _of_trials,
                "significant_negative",
                f"trials that got worse by that test; chance gives {SIGNIFICANCE / 2:.1%} at most",
            ),
            (
                "noise",
                _unsigned,
                "noise",
                "a delta's standard deviation by chance, sqrt(gained + lost)/samples, in points: mean",
            ),
            (
                "over control",
                _mean,
                "over_control",
                "delta minus that of the same student and seed trained on without a teacher, in points: "
                f"mean over trials {cluster}",
            ),
        ],
        "By the teacher's accuracy": [
            (
                header,
                _mean_and_positive,
                f"delta_{level}",
                f"mean delta in points {cluster} (successes/trials) with teachers {meaning}",
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
                f"trials above their {kl} trial / all trials that have one",
            ),
            (
                "Wilcoxon p",
                _p_value,
                "over_reference_wilcoxon_p",
                "two-sided signed-rank test of those differences as if independent: trust the interval first",
            ),
        ],
        f"Paired with {kl}, by the teacher's accuracy": [
            (
                header,
                _mean_and_positive,
                f"over_reference_{level}",
                f"delta minus {kl}'s, in points, {cluster} (better on/trials) with teachers {meaning}",
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


def conclusions(summary: pd.DataFrame, equal: float = 1.0, reference: str = "kl") -> list[str]:
    """How the results came out, in sentences made of the numbers of `by_method` and nothing else."""
    rows = summary[summary["trials"] > 0].to_dict("records")
    taught, alone = [row for row in rows if row["pairs"]], [row for row in rows if not row["pairs"]]
    kl = label(reference)
    weaker = [
        f"{row['label']} {_points(row, 'delta_weaker_mean')}, {row['delta_weaker_positive']} of "
        f"{row['delta_weaker_trials']} positive"
        for row in taught
        if row["delta_weaker_trials"]
    ]
    worse = [f"{row['label']} in {row['significant_negative']} of {row['trials']}" for row in taught]
    paired = {
        level: [
            f"{row['label']} {_mean(row, f'over_reference_{level}')}"
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
        f"Significantly negative (McNemar, p < {SIGNIFICANCE})": worse,
        f"Minus {kl} on the same pair, teachers not stronger, in points": paired["not_stronger"],
        f"Minus {kl} on the same pair, teachers stronger, in points": paired["stronger"],
        "Trained on without a teacher": control,
    }
    return [f"{start}: {'; '.join(parts)}." for start, parts in sentences.items() if parts]


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


def markdown(trials: pd.DataFrame, summary: pd.DataFrame, equal: float = 1.0, reference: str = "kl") -> str:
    """The report: where the numbers come from, how they came out, each table with its columns explained."""
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
    for title, (table, meanings) in readable(summary, equal, reference).items():
        cells = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
        lines += ["", f"## {title}", ""]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells]
        lines += ["", *(f"- **{header}**: {meaning}." for header, meaning in meanings.items())]
    lines += [
        "",
        "## About the intervals and tests",
        "",
        f"Trials of one student are not independent, so the bootstrap draws the {students} students with "
        "replacement, each with all its trials; its quantiles are moved outwards for the small number of "
        "students (Hesterberg's expanded percentile interval). It tells how other students might differ, not "
        "other teachers, data or seeds. No test is corrected for the number of comparisons. A success may be "
        "one sample won: read the size beside the rate.",
    ]
    if failed:
        lines += ["", "## Failed trials", "", *(f"- {line}" for line in failed)]
    return "\n".join([*lines, ""])


def report(trials: pd.DataFrame, summary: pd.DataFrame, out: Path, equal: float = 1.0) -> list[Path]:
    """Write the tables, the report and the figure into the folder `out`; returns what was written.

    Raises:
        ResultsError: the folder cannot be written.
    """

    def draw(kind: str, **metadata):
        return lambda path: drawing.savefig(path, format=kind, dpi=160, metadata=metadata)

    # The salt and the missing date make equal results equal bytes.
    with rc_context({"svg.hashsalt": "success_rate", "font.size": 11}):
        drawing = success_figures.success_rates(trials, summary, equal)
        return write(
            out,
            {
                "success_rate.parquet": summary.to_parquet,
                "success_rate.csv": summary.to_csv(index=False),
                "success_rate.md": markdown(trials, summary, equal),
                "per_student.parquet": per_student(trials).to_parquet,
                "success_rate.png": draw("png"),
                "success_rate.svg": draw("svg", Date=None),
            },
        )


def console(trials: pd.DataFrame, summary: pd.DataFrame, equal: float = 1.0) -> str:
    """What the command prints, in 120 columns: the main columns of `readable`, and the conclusions."""
    tables = [table.set_index("method") for table, _ in readable(summary, equal).values()]
    success, size, teachers, paired, paired_levels, _ = tables
    parts = {
        "success rate in % of trials, transfer delta in points, [95 % interval over students]": [
            success[["trials", "success %", "by student %", "median student %"]],
            size[["mean delta", "worst", "signif. +", "signif. -"]],
        ],
        "mean delta (successes/trials) by the teacher's accuracy minus the student's, in points": [teachers],
        f"delta minus {label('kl')}'s on the same student, teacher and seed, in points (better on/trials)": [
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
