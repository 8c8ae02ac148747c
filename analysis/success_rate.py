"""Success rate and size of transfer, by method: the table and figure after Fig. 4a of the paper.

    python analysis/success_rate.py RESULTS [--equal POINTS] [--out DIR]

"Fantastic Gains and Where to Find Them" (arXiv 2310.17653), Fig. 4a, shows for each method how many
of a student's teachers improve it. A success may be a single sample won, so here the size of the
change stands beside the rate, split by how good the teacher is, with intervals, with an exact test of
every trial, with each method paired with plain KL, and with a control that trains without a teacher.

Reads nothing but the Parquet files in RESULTS/trials. Left out on purpose: any choice of the best
setting (every trial counts), models of the data (intervals resample whole students instead), and the
mixing of settings: two trials of one method, student, teacher and seed in one folder are refused.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import textwrap
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from uncertainty import bootstrap_interval, mcnemar_exact, paired_wilcoxon, wilson_interval

LABELS = {  # in the order of every table and figure; other methods follow alphabetically
    "xe": "XE (control)",
    "kl": "KL",
    "xe_kl": "XE-KL",
    "xe_kl_mcl": "XE-KL+MCL",
    "kl_dp": "KL+DP",
    "kl_dp_unsupervised": "KL+DP (unsup.)",
}
KEYS = ["trial", "study", "status", "reason", "student", "teacher", "method", "seed"]
MEASURES = ["evaluation_samples", "transfer_delta", "knowledge_gain", "knowledge_loss"]
TEACHER_MEASURES = ["accuracy_difference"]  # and transfer_rate, which may be null
UNIT = ["method", "student", "teacher", "seed"]
LEVELS = {
    "weaker": ["weaker"],
    "equal": ["equal"],
    "stronger": ["stronger"],
    "not_stronger": ["weaker", "equal"],
}
SIGNIFICANCE = 0.05
READ_ERRORS = (OSError, ValueError, pa.ArrowException)
# Colours of Okabe and Ito, which every kind of colour vision tells apart; marker and lane say it again.
STYLES = {
    "stronger": ("#0072B2", "^", -0.27),
    "equal": ("#999999", "o", -0.09),
    "weaker": ("#D55E00", "v", 0.09),
    "no teacher": ("#000000", "x", -0.09),
}


class ResultsError(Exception):
    """Bad input, told in one sentence that names the file, the field and the remedy."""


# ---------------------------------------------------------------- reading


def load(results: Path | str) -> pd.DataFrame:
    """All trials recorded under `results`, failed ones too, one row each, as `docs/records.md` has them.

    Where studies say which trials they consist of (`results/plans`), others are left out: they are
    from before a study was edited.

    Raises:
        ResultsError: no folder, an unreadable file, a missing column or value, no finished trial, or
            two finished trials of one method, student, teacher and seed.
    """
    folder = Path(results) / "trials"
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such folder; give the results folder of a study that has run")
    try:
        trials = pd.read_parquet(folder)
    except READ_ERRORS as error:
        bad = next((path for path in sorted(folder.iterdir()) if not _readable(path)), folder)
        raise ResultsError(
            f"{bad}: not a readable record ({str(error).splitlines()[0].rstrip('.')}); "
            "remove it and run its trial again"
        ) from error
    plans = Path(results) / "plans"
    if plans.is_dir() and any(plans.glob("*.parquet")):
        trials = trials[trials["trial"].isin(pd.read_parquet(plans)["trial"])].reset_index(drop=True)
    if trials.empty:
        raise ResultsError(f"{folder}: no trial is recorded there; run the study first")
    missing = [c for c in [*KEYS, *MEASURES, *TEACHER_MEASURES, "transfer_rate"] if c not in trials]
    if missing:
        raise ResultsError(
            f"{folder}: the column {missing[0]} is missing; run the study again in a new folder"
        )
    done = trials[trials["status"] == "ok"]
    if done.empty:
        raise ResultsError(
            f"{folder}: none of the {len(trials)} recorded trials finished (the first failed with: "
            f"{trials['reason'].iloc[0]}); mend that and run the study again"
        )
    for rows, columns in [
        (trials, ["study", "method", "student"]),
        (done, ["seed", *MEASURES]),
        (done[done["teacher"].notna()], TEACHER_MEASURES),
    ]:
        for column in columns:
            broken = rows.loc[rows[column].isna() | rows[column].isin([np.inf, -np.inf]), "trial"]
            if len(broken):
                raise ResultsError(
                    f"{folder / broken.iloc[0]}.parquet: {column} is empty or not finite; "
                    "remove the file and run its trial again"
                )
    twice = done[done.duplicated(UNIT, keep=False)].sort_values(UNIT)
    if len(twice):
        raise ResultsError(
            f"{folder}: {len(twice)} trials differ in settings but not in method, student, teacher and seed "
            f"(such as {twice['trial'].iloc[0]} and {twice['trial'].iloc[1]}); keep one setting in a folder "
            "and move the other files elsewhere"
        )
    return trials


def _readable(path: Path) -> bool:
    try:
        pd.read_parquet(path)
    except READ_ERRORS:
        return False
    return True


# ---------------------------------------------------------------- measuring


def in_order(methods: Iterable[str]) -> list[str]:
    """The methods in the fixed order of `LABELS`, then the others alphabetically."""
    known = list(LABELS)
    return sorted(set(methods), key=lambda m: (known.index(m) if m in LABELS else len(known), m))


def teacher_level(accuracy_difference: pd.Series, equal: float = 1.0) -> pd.Series:
    """'weaker', 'equal' or 'stronger' for a teacher; null where there is none.

    Args:
        accuracy_difference: teacher's minus student's accuracy, fractions in [-1, 1] or null.
        equal: a teacher within +/- this many percentage points counts as equal, bounds included.
    """
    points = (100 * accuracy_difference.astype(float)).round(10)  # 0.86 - 0.85 is 1 point, not more
    level = np.select([points < -equal, points > equal], ["weaker", "stronger"], "equal")
    return pd.Series(level, index=accuracy_difference.index, dtype=object).where(points.notna(), None)


def per_student(trials: pd.DataFrame) -> pd.DataFrame:
    """Success of each student with each method: one row a (method, student), in the fixed order.

    The unit is a (teacher, seed) trial: a success rate is the share of a student's finished trials
    with transfer_delta > 0; for a method without a teacher, the share of its seeds.
    """
    done = trials[trials["status"] == "ok"]
    table = (
        done.assign(success=done["transfer_delta"] > 0)
        .groupby(["method", "student"], as_index=False)
        .agg(
            trials=("trial", "size"),
            teachers=("teacher", "nunique"),
            seeds=("seed", "nunique"),
            successes=("success", "sum"),
            success_rate=("success", "mean"),
            delta_mean=("transfer_delta", "mean"),
            delta_min=("transfer_delta", "min"),
        )
    )
    order = pd.CategoricalDtype(in_order(table["method"]), ordered=True)
    table = table.astype({"method": order}).sort_values(["method", "student"], ignore_index=True)
    return table.astype({"method": str})


def paired_with(
    trials: pd.DataFrame, reference: str = "kl", on: tuple[str, ...] = ("student", "teacher", "seed")
) -> pd.DataFrame:
    """Each finished trial beside the reference method's trial of the same student, teacher and seed.

    Args:
        trials: as `load` gives them.
        reference: the method to compare with.
        on: what two trials must share; ("student", "seed") compares with a control without a teacher.

    Returns:
        One row a matched trial of every other method: the trial's columns, and `delta_reference` and
        `difference` = transfer_delta - delta_reference, as fractions. Empty without the reference.
    """
    done = trials[trials["status"] == "ok"]
    base = done.loc[done["method"] == reference, [*on, "transfer_delta"]]
    base = base.rename(columns={"transfer_delta": "delta_reference"})
    pairs = done[done["method"] != reference].merge(base, on=list(on), validate="many_to_one")
    # Both are multiples of 1/samples: without the noise of floating point, equal is equal.
    return pairs.assign(difference=(pairs["transfer_delta"] - pairs["delta_reference"]).round(12))


def by_method(
    trials: pd.DataFrame, equal: float = 1.0, reference: str = "kl", control: str = "xe"
) -> pd.DataFrame:
    """The table by method: one row a method in the fixed order; rates and deltas are fractions.

    Columns that start with `delta` measure the transfer delta, with `over_reference` its difference from
    the reference's delta on the same student, teacher and seed, with `over_control` its difference from
    the control's on the same student and seed; `_weaker`, `_equal`, `_stronger`, `_not_stronger` are the
    trials with such teachers. Each comes with `_trials`, `_mean`, `_positive` (trials above 0) and
    `_wilcoxon_p`. `_low` and `_high` bound 95 % intervals by a bootstrap of whole students, except
    `success_wilson_*`. What does not exist is NaN: an interval of one student, the weaker teachers of
    the control, a method's difference from itself.

    Args:
        trials: as `load` gives them.
        equal: half width, in percentage points, of the band of equal teachers (`teacher_level`).
        reference: the method that the others are paired with.
        control: the method without a teacher.
    """
    trials = trials.assign(level=teacher_level(trials["accuracy_difference"], equal))
    done, students = trials[trials["status"] == "ok"], per_student(trials)
    over_reference = paired_with(trials, reference)
    over_control = paired_with(trials, control, on=("student", "seed"))
    rows = []
    for method in in_order(trials["method"]):
        mine, paired, controlled = (t[t["method"] == method] for t in (done, over_reference, over_control))
        rates = students.loc[students["method"] == method, "success_rate"]
        success, samples = mine["transfer_delta"] > 0, mine["evaluation_samples"]
        gained = (mine["knowledge_gain"] * samples).round()
        lost = (mine["knowledge_loss"] * samples).round()
        significant = mcnemar_exact(gained, lost) < SIGNIFICANCE
        row = {
            "method": method,
            "label": label(method),
            "trials": len(mine),
            "failed": int((trials["method"] == method).sum()) - len(mine),
            "pairs": mine.dropna(subset="teacher").groupby(["student", "teacher"]).ngroups,
            "students": mine["student"].nunique(),
            "seeds": mine["seed"].nunique(),
            "success_rate": success.mean(),
            **_bounds("success_wilson", wilson_interval(success.sum(), len(mine))),
            **_bounds("success", bootstrap_interval(success, groups=mine["student"])),
            "success_student_median": rates.median(),
            "success_student_q1": rates.quantile(0.25),
            "success_student_q3": rates.quantile(0.75),
            **_bounds("success_student_median", bootstrap_interval(rates, np.nanmedian)),
            **_effect("delta", mine, "transfer_delta"),
            "delta_median": mine["transfer_delta"].median(),
            "delta_min": mine["transfer_delta"].min(),
            "delta_max": mine["transfer_delta"].max(),
            "significant_positive": int((significant & (gained > lost)).sum()),
            "significant_negative": int((significant & (gained < lost)).sum()),
            # The standard deviation of a delta if each changed sample were gained or lost by a coin's toss.
            "noise": (np.sqrt(gained + lost) / samples).mean(),
            "knowledge_gain_median": mine["knowledge_gain"].median(),
            "knowledge_loss_median": mine["knowledge_loss"].median(),
            "transfer_rate_median": mine["transfer_rate"].median(),
            **_effect("over_control", controlled, "difference"),
            **_effect("over_reference", paired, "difference"),
        }
        for name, levels in LEVELS.items():
            row |= _effect(f"delta_{name}", mine[mine["level"].isin(levels)], "transfer_delta")
            row |= _effect(f"over_reference_{name}", paired[paired["level"].isin(levels)], "difference")
        rows.append(row)
    return pd.DataFrame(rows)


def _bounds(name: str, interval: tuple[float, float]) -> dict:
    return {f"{name}_low": float(interval[0]), f"{name}_high": float(interval[1])}


def _effect(name: str, rows: pd.DataFrame, column: str) -> dict:
    values = rows[column].astype(float)
    return {
        f"{name}_trials": len(values),
        f"{name}_mean": values.mean(),
        **_bounds(name, bootstrap_interval(values, groups=rows["student"])),
        f"{name}_positive": int((values > 0).sum()),
        f"{name}_wilcoxon_p": paired_wilcoxon(values, np.zeros(len(values))),
    }


# ---------------------------------------------------------------- telling


def label(method: str) -> str:
    """The method's name in tables and figures."""
    return LABELS.get(method, method)


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


# ---------------------------------------------------------------- drawing


def figure(trials: pd.DataFrame, summary: pd.DataFrame, equal: float = 1.0) -> Figure:
    """Box plot of the students' success rates (after Fig. 4a), and beside it every trial's delta."""
    done, students = trials[trials["status"] == "ok"], per_student(trials)
    level = teacher_level(done["accuracy_difference"], equal).fillna("no teacher")
    shown = summary[summary["trials"] > 0].reset_index(drop=True)
    drawing = Figure(figsize=(10, 1.4 + 0.65 * len(shown)), layout="constrained")
    rates, deltas = drawing.subplots(1, 2, sharey=True, width_ratios=[4, 5])
    jitter = np.random.default_rng(0).uniform  # spreads points that would hide each other; means nothing
    grey = {"color": "#777777"}
    for y, row in shown.iterrows():
        of_method = 100 * students.loc[students["method"] == row["method"], "success_rate"]
        rates.boxplot(
            of_method,
            positions=[y],
            orientation="horizontal",
            widths=0.6,
            showfliers=False,
            medianprops={"color": "black", "linewidth": 2},
            boxprops=grey,
            whiskerprops=grey,
            capprops=grey,
        )
        spread = y + jitter(-0.2, 0.2, len(of_method))
        rates.scatter(of_method, spread, s=22, color="#009E73", alpha=0.75, linewidth=0, zorder=3)
        for name, (color, marker, lane) in STYLES.items():
            points = 100 * done.loc[(done["method"] == row["method"]) & (level == name), "transfer_delta"]
            spread, width = y + lane + jitter(-0.06, 0.06, len(points)), float(marker == "x")
            deltas.scatter(points, spread, s=22, color=color, marker=marker, alpha=0.75, linewidth=width)
        mean, low, high = (100 * row[f"delta_{part}"] for part in ("mean", "low", "high"))
        deltas.plot([low, high], [y + 0.3] * 2, color="black", linewidth=1.5)
        deltas.plot(mean, y + 0.3, "D", color="white", markeredgecolor="black", markersize=6)
    deltas.axvline(0, color="black", linewidth=1, zorder=1)
    rates.set(xlabel="success rate per student (% of its trials)", title="How often: one dot a student")
    rates.set(xlim=(-4, 104), ylim=(len(shown) - 0.4, -0.6))
    rates.set_yticks(range(len(shown)), shown["label"])
    deltas.set(xlabel="transfer delta (percentage points of accuracy)", title="How much: one mark a trial")
    bounds = {"weaker": f" (< -{equal:g})", "equal": f" (±{equal:g})", "stronger": f" (> +{equal:g})"}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=name + bounds.get(name, ""))
        for name, (color, marker, _) in STYLES.items()
        if (level == name).any()
    ]
    handles += [Line2D([], [], color="black", marker="D", markerfacecolor="white", label="mean, 95 %")]
    title = "teacher's accuracy minus the student's, in points"
    drawing.legend(handles=handles, title=title, loc="outside lower center", ncols=5, frameon=False)
    for axes in (rates, deltas):
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return drawing


# ---------------------------------------------------------------- writing


@contextlib.contextmanager
def replacing(path: Path):
    """Yield a temporary path beside `path`, renamed to it on success and removed on failure."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def report(trials: pd.DataFrame, summary: pd.DataFrame, out: Path, equal: float = 1.0) -> list[Path]:
    """Write the tables, the report and the figure into the folder `out`; returns what was written.

    Raises:
        ResultsError: the folder cannot be written.
    """

    def text(content: str):
        return lambda path: path.write_text(content, encoding="utf-8")

    def draw(kind: str, **metadata):
        return lambda path: drawing.savefig(path, format=kind, dpi=160, metadata=metadata)

    # The salt and the missing date make equal results equal bytes.
    with rc_context({"svg.hashsalt": "success_rate", "font.size": 11}):
        drawing = figure(trials, summary, equal)
        writers = {
            "success_rate.parquet": summary.to_parquet,
            "success_rate.csv": text(summary.to_csv(index=False)),
            "success_rate.md": text(markdown(trials, summary, equal)),
            "per_student.parquet": per_student(trials).to_parquet,
            "success_rate.png": draw("png"),
            "success_rate.svg": draw("svg", Date=None),
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, write in writers.items():
                with replacing(out / name) as temporary:
                    write(temporary)
        except OSError as error:
            raise ResultsError(
                f"{out}: cannot be written ({error.strerror or error}); choose another folder with --out"
            ) from error
    return [out / name for name in writers]


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
        lines += [title, aligned(pd.concat(columns, axis=1).reset_index()), ""]
    lines += [
        textwrap.fill(sentence, 120, break_on_hyphens=False) for sentence in conclusions(summary, equal)
    ]
    failed = failures(trials)
    if failed:
        lines += [textwrap.fill(f"Left out, failed: {len(failed)}, such as {failed[0]}", 120)]
    return "\n".join(lines)


def _band(text: str) -> float:
    value = float(text)
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 percentage points")
    return value


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for bad input, told in one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("results", type=Path, metavar="RESULTS", help="results folder, which holds trials/")
    help_equal = "teachers within POINTS percentage points of the student's accuracy are equal (default 1.0)"
    parser.add_argument("--equal", type=_band, default=1.0, metavar="POINTS", help=help_equal)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default RESULTS/analysis)")
    options = parser.parse_args(arguments)
    try:
        trials = load(options.results)
        summary = by_method(trials, options.equal)
        paths = report(trials, summary, options.out or options.results / "analysis", options.equal)
    except ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(console(trials, summary, options.equal), "", *paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
