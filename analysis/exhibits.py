"""The figures and tables of the report, section by section: each with what it shows and how to read it.

An exhibit is made of a table of numbers, written as CSV beside it, so that whatever a figure shows can be
looked up and traced to the trials' rows. The functions that make the tables are in `measures`,
`knowledge_measures`, `training_measures`, `flips`, `tables` and `several_teachers`, those that draw them in
`*_figures`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import (
    atlas_figures,
    atlas_measures,
    atlas_report,
    beyond_accuracy,
    flips,
    knowledge_figures,
    knowledge_measures,
    measures,
    reference,
    results,
    several_teachers,
    statistics,
    success_figures,
    success_report,
    tables,
    training_figures,
    training_measures,
)
from analysis.atlas_results import Atlas
from analysis.measures import label
from analysis.readable import Column, between, mean_and_sd, number, percent, points, readable, text

SHORT = 40  # rows, up to which the page shows a table at once
SHOWN = ("transfer_delta", "low", "high", "published", "over_best")  # of several teachers
EVERY_PAIR = 100_000  # of the atlas, up to which a figure's numbers are written beside it


@dataclass(frozen=True)
class Exhibit:
    """A figure, a table, or both.

    Attributes:
        name: of its files.
        title: what the page calls it: 'Fig. 4a', or what it shows.
        note: how to read it; why it is left out, where it is.
        numbers: what it is made of, fractions as in the records; written as CSV.
        drawing: the figure; None for a table.
        cells: the numbers as text; None where the page shows the figure alone.
        meanings: of the columns of `cells`, by header.
    """

    name: str
    title: str
    note: str
    numbers: pd.DataFrame | None = None
    drawing: Figure | None = None
    cells: pd.DataFrame | None = None
    meanings: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Names of its files: a figure's, with its numbers, under `figures/`, a table's under `tables/`."""
        kinds = ["figures/{}.svg", "figures/{}.png"] if self.drawing is not None else []
        folder = "figures" if self.cells is None else "tables"
        kinds += [folder + "/{}.csv"] if self.numbers is not None else []
        kinds += ["tables/{}.md"] if self.cells is not None else []
        return [kind.format(self.name) for kind in kinds]


@dataclass(frozen=True)
class Section:
    """A part of the report: its id in the page, title, first sentences, and exhibits."""

    name: str
    title: str
    lines: list[str]
    exhibits: list[Exhibit]


@dataclass(frozen=True)
class Sweep:
    """The transfer trials of a results folder, and what several exhibits are made of.

    Attributes:
        recorded: all of them, as `results.load` gives them.
        trials: those of one teacher or none; all but `finished` below are of these.
        several: those of several teachers.
        history: as `training_measures.load_history` gives it, of all trials.
        evaluations: as `beyond_accuracy.load_evaluations` gives them, of trials of one teacher or none.
        flips: as `flips.class_flips` counts them, of all trials.
        equal: half width, in points, of the band of equal teachers.
        tested: `measures.tested`.
        units: `measures.over_seeds`, with what `tables.comparable` adds.
        summary: `measures.by_method`.
        finished: `tested`, and the same of `several`.
    """

    recorded: pd.DataFrame
    trials: pd.DataFrame
    several: pd.DataFrame
    history: pd.DataFrame
    evaluations: pd.DataFrame
    flips: pd.DataFrame
    equal: float
    tested: pd.DataFrame
    units: pd.DataFrame
    summary: pd.DataFrame
    finished: pd.DataFrame

    @classmethod
    def of(cls, recorded: pd.DataFrame, folder: Path, counted: pd.DataFrame, equal: float) -> Sweep:
        """Make what the exhibits share, of recorded trials and the other tables in their folder."""
        trials = results.one_teacher(recorded)
        several = recorded.drop(trials.index)
        tested = measures.tested(trials)
        units = tables.comparable(measures.over_seeds(tested), trials)
        return cls(
            recorded=recorded,
            trials=trials,
            several=several,
            history=training_measures.load_history(folder, recorded),
            evaluations=beyond_accuracy.load_evaluations(folder, trials),
            flips=counted,
            equal=equal,
            tested=tested,
            units=units,
            summary=measures.by_method(trials, equal),
            finished=pd.concat([tested, measures.tested(several)]) if len(several) else tested,
        )

    @property
    def taught(self) -> pd.DataFrame:
        """The units with a teacher."""
        return knowledge_measures.taught(self.units)


def _left_out(name: str, title: str, why: str) -> Exhibit:
    return Exhibit(name, title, f"Left out: {why}.")


# --- how often and how much -----------------------------------------------------------------------


def success(sweep: Sweep) -> Section:
    """Success rates and deltas, by method."""
    drawing = success_figures.success_rates(sweep.trials, sweep.summary, sweep.equal)
    exhibits = [
        Exhibit(
            "fig_4a_success_rates",
            "Fig. 4a",
            "Left: a box over the students' success rates (the share of a student's teachers, seeds "
            "averaged, with a transfer delta above 0), a dot a student. Right: every trial's delta; diamonds "
            "are means, with intervals over students and teachers. A success may be one sample won, "
            "and a method that changes nothing but by chance succeeds half the time: read both panels.",
            sweep.summary,
            drawing,
        )
    ]
    for title, (cells, meanings) in success_report.readable(sweep.summary, sweep.equal).items():
        name = "success_" + "".join(letter if letter.isalnum() else "_" for letter in title.lower())
        exhibits.append(Exhibit(name, title, "", sweep.summary, None, cells, meanings))
    exhibits += [_by_difference(sweep), _forest(sweep)]
    return Section("success", "How often, and how much, a transfer helps", [], exhibits)


def _by_difference(sweep: Sweep) -> Exhibit:
    name, title = "fig_4b_delta_by_difference", "Fig. 4b"
    if sweep.taught.empty:
        return _left_out(name, title, "no trial has a teacher")
    table = knowledge_measures.by_difference(sweep.units)
    note = (
        "Pairs in bins of equal number by Δ_acc. The paper shows the mean of the best quarter of each bin "
        "(left), which is above 0 even for a method that changes nothing but by chance; the mean and the "
        "median beside it show what a pair can expect. Intervals are over students."
    )
    return Exhibit(name, title, note, table, success_figures.by_difference(table))


def _forest(sweep: Sweep) -> Exhibit:
    name, title = "forest", "Every pair"
    if sweep.taught.empty:
        return _left_out(name, title, "no trial has a teacher")
    one = sweep.tested[sweep.tested["teacher"].notna()]
    low, high = statistics.paired_interval(one["gained"], one["lost"], one["evaluation_samples"])
    columns = ["method", "student", "teacher", "seed", "trial", "accuracy_difference", "transfer_delta"]
    table = one[[*columns, "gained", "lost", "p", "q", "verdict"]].assign(low=low, high=high)
    note = (
        "Each line is a trial's delta with its 95 % interval from the samples it gained and lost; seeds of a "
        "pair lie side by side. Filled marks are those that an exact McNemar test tells from 0 at q < 0.05, "
        "corrected for all trials of the study (Benjamini-Hochberg): one in twenty of them is expected to be "
        "chance."
    )
    return Exhibit(name, title, note, table, success_figures.forest(table))


def comparisons(sweep: Sweep) -> Section:
    """Methods against each other, and properties of students."""
    differences = measures.method_differences(sweep.trials, sweep.equal)
    exhibits = []
    if differences.empty:
        why = "fewer than two methods with a teacher ran on the same pairs"
        exhibits.append(_left_out("method_differences", "Differences between methods", why))
    else:
        cells, meanings = success_report.differences_table(differences)
        note = (
            "Both methods had the same student, teacher and seed, so what makes a pair easy or hard is out "
            "of the comparison. Thick lines are intervals for other students with these teachers, thin ones "
            "for other teachers too: a few teachers of one kind say little about others of that kind."
        )
        drawing = success_figures.method_differences(differences)
        exhibits.append(
            Exhibit(
                "method_differences",
                "Differences between methods",
                note,
                differences,
                drawing,
                cells,
                meanings,
            )
        )
    properties = measures.student_properties(sweep.trials)
    if properties["rho"].notna().any():
        cells, meanings = success_report.properties_table(properties)
        note = (
            "Rank correlations over students, each with its mean over teachers, and their intervals. A few "
            "students cannot say much, and size, accuracy and family go together: see Fig. 8."
        )
        drawing = success_figures.student_properties(properties)
        exhibits.append(
            Exhibit(
                "student_properties", "Properties of students", note, properties, drawing, cells, meanings
            )
        )
    else:
        why = "fewer than four students differ in size or accuracy"
        exhibits.append(_left_out("student_properties", "Properties of students", why))
    return Section("methods", "Which method, for which student?", [], exhibits)


# --- what is transferred ---------------------------------------------------------------------------


def _rate_by_size(sweep: Sweep) -> Exhibit:
    """Fig. 5b."""
    name, title = "fig_5b_transfer_rate_by_size", "Fig. 5b"
    by_student = knowledge_measures.by_student(sweep.units).dropna(subset=["transfer_rate"])
    if by_student.empty:
        return _left_out(name, title, "no teacher got a sample right that its student got wrong")
    note = (
        "The transfer rate is the share of the samples that only the teacher got right before, which the "
        "student gets right afterwards. A mark is a student, larger for more teachers; lines join a "
        "family. It says nothing of what was lost meanwhile: see Fig. 7."
    )
    return Exhibit(name, title, note, by_student, knowledge_figures.by_size(by_student))


def knowledge(sweep: Sweep) -> Section:
    """Figs. 5, 7 and 8."""
    if sweep.taught.empty:
        why = "No trial has a teacher, so that nothing could be transferred."
        return Section("knowledge", "What is transferred", [why], [])
    exhibits = [_top_classes(sweep), _rate_by_size(sweep)]
    columns = [
        *("method", "student", "teacher", "seeds", "student_family", "student_parameters"),
        *("accuracy_difference", "knowledge_gain", "knowledge_loss", "transfer_delta"),
    ]
    units = sweep.taught.dropna(subset=["student_family", "student_parameters"])
    exhibits += [
        Exhibit(
            f"fig_7_gain_loss_by_{by}",
            f"Fig. 7, by {what}",
            "A mark is a pair. Above the line more was gained than lost, by the delta. Two methods with the "
            "same delta may differ in how much they rewrite.",
            units[columns],
            knowledge_figures.gain_against_loss(units, by),
        )
        for by, what in {"family": "family", "size": "size", "teacher": "teacher's accuracy"}.items()
    ]
    for part, varied in knowledge_measures.PROPERTIES.items():
        table = knowledge_measures.controlled_pairs(sweep.units, varied)
        note = (
            "A line joins two students that differ in this and are alike in the rest: accuracies within "
            f"{knowledge_measures.NEAR_ACCURACY:g} points, sizes within a factor of "
            f"{knowledge_measures.NEAR_SIZE:g}, or one family. Each is a mean over the teachers that both "
            "had. Few pairs are few pairs: no interval is drawn, since pairs share students."
        )
        drawing = knowledge_figures.controlled(table, varied)
        exhibits.append(Exhibit(f"fig_8{part}_{varied}", f"Fig. 8{part}", note, table, drawing))
    return Section("knowledge", "What is transferred, and by whom it is gained", [], exhibits)


def _top_classes(sweep: Sweep) -> Exhibit:
    name, title = "fig_5a_top_classes", "Fig. 5a"
    if sweep.flips.empty:
        return _left_out(name, title, "no trial's predictions are there")
    rates = flips.top_class_rates(sweep.flips)
    table = knowledge_measures.rates_of_top_classes(rates, sweep.trials)
    if table.empty:
        return _left_out(name, title, "no trial has positive flips")
    classes = ", ".join(
        f"{share:.0%}: {count:g}" for share, count in table.groupby("share")["classes"].median().items()
    )
    note = (
        "The classes of a pair are sorted by its positive flips; the fewest that hold a share of them are "
        f"its top classes (median number: {classes}). If transfer favoured the teacher's areas of expertise, "
        "rates would fall from left to right. Where one class holds several of the shares, so do its points."
    )
    return Exhibit(name, title, note, table, knowledge_figures.top_classes(table))


# --- beyond accuracy --------------------------------------------------------------------------------

SCORES = {
    "top5_accuracy": ("top-5 accuracy", 100, "+.2f"),
    "negative_log_likelihood": ("negative log-likelihood", 1, "+.4f"),
    "calibration_error": ("calibration error", 100, "+.2f"),
}


def beyond(sweep: Sweep) -> Section:
    """Top-5, likelihood and calibration, and other images."""
    return Section("beyond", "Beyond top-1 accuracy", [], [_scores(sweep), _sets(sweep)])


def _scores(sweep: Sweep) -> Exhibit:
    name, title = "scores", "Top-5, likelihood and calibration"
    table = beyond_accuracy.scores(sweep.tested)
    if table.empty:
        return _left_out(name, title, "these trials were recorded by a version that did not measure them")
    note = (
        "Means over pairs, seeds averaged, with the 95 % interval of the change over students and teachers. "
        "Top-5 accuracy and calibration error (15 bins, arXiv 1706.04599) in percent and points, likelihood "
        "in nats. A student that learns from probabilities may be right more often and yet too sure, or less "
        "sure, of it."
    )

    def cell(value: str) -> Callable[[dict], str]:
        def made(row: dict) -> str:
            _, factor, form = SCORES[row["score"]]
            return number(value, form if value in ("change", "low", "high") else form[1:], factor)(row)

        return made

    columns = [
        Column("score", "", text("score", lambda score: SCORES[score][0])),
        Column("method", "", text("method", label)),
        Column("pairs", "of a student and a teacher", number("pairs")),
        Column("before", "mean", cell("before")),
        Column("after", "mean", cell("after")),
        Column("change", "mean [95 % interval]", between(cell, "change", "low", "high")),
    ]
    return Exhibit(name, title, note, table, None, *readable(table, columns))


def _sets(sweep: Sweep) -> Exhibit:
    name, title = "other_sets", "Other images"
    table = beyond_accuracy.sets(sweep.evaluations)
    if table.empty:
        return _left_out(name, title, "the study names no other sets to evaluate on (`data.also`)")
    note = (
        "The same students, before and after, on other images: does a gain hold there? Means over pairs, "
        "seeds averaged, with 95 % intervals over students and teachers; the last column compares each pair "
        "with itself."
    )
    columns = [
        Column("set", "", text("set")),
        Column("method", "", text("method", label)),
        Column("classes", "", number("classes")),
        Column("samples", "", number("samples")),
        Column("pairs", "of a student and a teacher", number("pairs")),
        Column("top-1 %", "mean accuracy before", percent("accuracy", 2)),
        Column("above 0", "pairs with a delta above 0", number("positive")),
        Column("Δ", "mean", between(points, "delta", "delta_low", "delta_high")),
        Column("Δ, own images", "mean", between(points, "own_delta", "own_delta_low", "own_delta_high")),
        Column("difference", "mean", between(points, "difference", "difference_low", "difference_high")),
    ]
    return Exhibit(name, title, note, table, None, *readable(table, columns))


# --- the atlas --------------------------------------------------------------------------------------


def complementarity(atlas: Atlas | None, statements: pd.DataFrame | None, gap: float, why: str) -> Section:
    """Figs. 1 and 2, and the heat map."""
    title = "What the models know of each other: the atlas"
    if atlas is None:
        absent = [
            *(_left_out(f"fig_{part}", f"Fig. {part}", why) for part in ("1a", "1b", "2a", "2b")),
            _left_out("heatmap", "Every pair of the zoo", why),
            _left_out("atlas_models", "The models", why),
        ]
        return Section("atlas", title, [], absent)
    models = atlas_measures.by_model(atlas)
    delta = atlas_measures.accuracy_difference(atlas.rho_pos)
    names = atlas.models["name"].to_numpy()
    student, teacher = np.nonzero(np.isfinite(atlas.rho_pos))
    pairs = pd.DataFrame(
        {
            "student": names[student],
            "teacher": names[teacher],
            "accuracy_difference": delta[student, teacher],
            "rho_pos": atlas.rho_pos[student, teacher],
            "flip_entropy": atlas.flip_entropy[student, teacher],
        }
    )
    readings = atlas_report.readings(atlas, gap)
    exhibits = []
    for name, drawing in atlas_figures.draw(atlas, gap).items():
        part = name.removeprefix("complementarity_")
        numbers = pairs if len(pairs) <= EVERY_PAIR and part not in {"2a", "2b"} else None
        label_ = "Every pair of the zoo" if part == "heatmap" else f"Fig. {part}"
        exhibits.append(
            Exhibit(f"fig_{part}" if part != "heatmap" else part, label_, readings[part], numbers, drawing)
        )
    lines = [
        f"{subject}: {text_}" + (f" The paper: {paper}" if paper else "")
        for subject, text_, paper in atlas_report.conclusions(atlas, statements, gap)
    ]
    columns = [
        Column("model", "", text("name")),
        Column("family", "", text("family")),
        Column("accuracy %", "on the split", percent("accuracy", 2)),
        Column("published %", "timm's ImageNet top-1", percent("published_accuracy", 2)),
        Column("as teacher %", "mean ρ_pos over students", percent("rho_pos_as_teacher", 2)),
        Column("as student %", "mean ρ_pos over teachers", percent("rho_pos_as_student", 2)),
    ]
    ordered = models.sort_values("rho_pos_as_teacher", ascending=False, kind="stable")
    exhibits.append(Exhibit("atlas_models", "The models", "", ordered, None, *readable(ordered, columns)))
    return Section("atlas", title, lines, exhibits)


# --- several teachers -------------------------------------------------------------------------------


def several(sweep: Sweep) -> Section:
    """Tables 4 and 9, the order of teachers, and Fig. 11."""
    done = sweep.finished.drop(sweep.tested.index)
    table = several_teachers.by_student(done, sweep.units, sweep.recorded)
    lines = [
        "Several teachers of one student: one after the other, where the student of a stage is the frozen "
        "student of the next (sequential), all at once, where each sample is taught by the most confident of "
        "them and the frozen student (parallel), or each a student of its own, whose weights are averaged "
        "(soup). Single mean, min and max are of the same teachers one by one.",
        "These trials are in no number of the other sections; their q is corrected for them alone.",
        *_over_best(table),
    ]
    exhibits = [_by_student(mine) for _, mine in table.groupby("method", sort=False)]
    return Section("several", "Several teachers", lines, [*exhibits, _orders(done), _sequences(sweep)])


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
            f"{100 * mine['over_best'].mean():+.0f} % (mean of {len(mine)} student{'s' * (len(mine) > 1)}"
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


def _by_student(table: pd.DataFrame) -> Exhibit:
    """The table of one method."""
    method = table["method"].iloc[0]
    number_, _ = reference.SEVERAL.get(method, (None, None))
    ways = several_teachers.ways_in_order(table["way"])
    rows = []
    for (teachers, student), mine in table.groupby(["teachers", "student"], sort=False, dropna=False):
        row = mine.iloc[0]
        name = student if pd.notna(student) else f"mean of {row['students']} students"
        cells = {"teachers": teachers, "student": name, "accuracy": row["student_accuracy_before"]}
        for one in mine.to_dict("records"):
            cells |= {f"{one['way']} {value}": one[value] for value in SHOWN}
        rows.append(cells)
    every = [f"{way} {value}" for way in ways for value in SHOWN]
    wide = pd.DataFrame(rows).reindex(columns=["teachers", "student", "accuracy", *every])
    columns = [
        *([Column("teachers", "", text("teachers"))] if table["teachers"].nunique() > 1 else []),
        Column("student", "", text("student")),
        Column("top-1 %", "accuracy before transfer", percent("accuracy", 2)),
    ]
    for way in ways:
        meaning = "delta in points; of the mean with its 95 % interval over students, with these teachers"
        delta, *bounds = (f"{way} {value}" for value in ("transfer_delta", "low", "high"))
        columns.append(Column(way, meaning, between(points, delta, *bounds)))
        if wide[f"{way} published"].notna().any():
            meaning = "as published; beside our mean the mean of these"
            columns.append(Column(f"{way}, paper", meaning, points(f"{way} published")))
        if way.startswith("sequential"):
            meaning = "delta over that of the best single teacher, minus 1, in percent, if that is above 0"
            columns.append(Column(f"{way}: over best %", meaning, number(f"{way} over_best", "+.0f", 100)))
    noise = 100 * table["noise"].astype(float).max()
    note = (
        f"Deltas in percentage points, seeds averaged, with {'; '.join(table['teachers'].unique())}. If "
        f"chance alone had gained and lost as many samples, a delta would be 0 ± {noise:.2f} (standard "
        "deviation of the noisiest)."
    )
    missing = several_teachers.missing(table)
    note += f" Not finished, so left out, also from means: {'; '.join(missing)}." if missing else ""
    name = "several_teachers_table_" + "".join(letter if letter.isalnum() else "_" for letter in method)
    title = (f"Table {number_}: " if number_ else "") + f"{label(method)} from several teachers"
    return Exhibit(name, title, note, table, None, *readable(wide, columns))


def _orders(done: pd.DataFrame) -> Exhibit:
    """Ascending against descending sequences."""
    name, title = "several_teachers_orders", "The order of teachers"
    table = several_teachers.orders(done)
    if table.empty:
        return _left_out(name, title, "no teachers taught a student in ascending and in descending order")
    note = (
        "The same student, teachers, method and seed, the best teacher last or first. The paper finds that "
        "in descending order disproportionately more is forgotten, and that any order gains."
    )
    means = {"transfer_delta": "delta", "knowledge_gain": "gained", "knowledge_loss": "lost"}
    columns = [
        Column("method", "", text("method", label)),
        Column("measure", "against the original student, at the end", text("measure", means.get)),
        Column("pairs", "of a student and a set of teachers", number("pairs")),
        Column("ascending", "mean in points", points("ascending")),
        Column("descending", "mean in points", points("descending")),
        Column(
            "ascending minus descending",
            "mean in points [95 % interval over students and sets of teachers]",
            between(points, "mean", "low", "high"),
        ),
        Column("ascending higher", "pairs", number("higher")),
        Column("ascending above 0", "pairs", number("ascending_positive")),
        Column("descending above 0", "pairs", number("descending_positive")),
    ]
    return Exhibit(name, title, note, table, None, *readable(table, columns))


def _sequences(sweep: Sweep) -> Exhibit:
    name, title = "several_teachers_fig_11", "Fig. 11"
    if (sweep.several["combine"] != "sequential").all():
        return _left_out(name, title, "no teachers taught one after the other")
    table = several_teachers.sequences(sweep.history, sweep.several)
    if table.empty:
        why = "no sequence that finished was evaluated after each epoch (`evaluate: epoch` in a study)"
        return _left_out(name, title, why)
    curves = len(table.drop_duplicates(several_teachers.CURVE))
    shown = training_figures.PANELS
    note = (
        "What a student has gained and lost after each epoch, against the original student, means over "
        "seeds; their difference is the delta. Vertical lines are between teachers. The paper's figure is of "
        "PiT-B with KL+DP from ResMLP-36, SWSL-ResNext101 and VOLO-D2, in this order; it ends at 1.04."
    )
    note += f" {shown} of {curves} sequences are drawn; the CSV has all." if curves > shown else ""
    return Exhibit(name, title, note, table, training_figures.sequences(table))


# --- how it ran -------------------------------------------------------------------------------------


def training(sweep: Sweep) -> Section:
    """Learning curves, time and cost."""
    exhibits = []
    history = sweep.history[sweep.history["trial"].isin(sweep.trials["trial"])]
    if history.empty:
        exhibits.append(_left_out("learning_curves", "Learning curves", "there is no history of the trials"))
    else:
        curves = training_measures.learning_curves(history)
        note = (
            "Left: each trial's training loss over that of its own first epoch, since the methods' losses "
            "are different quantities; fallen is not better. Right: the share of the samples for which data "
            "partitioning chose the teacher. It is decided by frozen models: constant unless views change."
        )
        drawing = training_figures.learning_curves(curves)
        exhibits.append(Exhibit("learning_curves", "Learning curves", note, curves, drawing))
    times = training_measures.time_by_method(sweep.trials)
    columns = [
        Column("method", "", text("method", label)),
        Column("device", "", text("device")),
        Column("trials", "finished", number("trials")),
        Column("seconds", "of a trial: median", number("seconds", ",.1f")),
        Column("90 %", "of trials took at most so many seconds", number("seconds_p90", ",.1f")),
        Column("samples/s", "transfer samples times epochs over training time", number("samples_per_second")),
        Column(
            "hours", "of all trials together: what the method costs in device time", number("hours", ",.3g")
        ),
    ]
    note = (
        "What frozen models say is computed once and then shared by trials, so the first trials of a student "
        "or teacher take longer, whatever their method. Trials that shared a machine slowed each other."
    )
    drawing = training_figures.time_by_method(times)
    exhibits.append(
        Exhibit("time_by_method", "Time and cost", note, times, drawing, *readable(times, columns))
    )
    return Section("training", "How the trials ran", [], exhibits)


# --- the paper's tables -----------------------------------------------------------------------------


def papers_tables(sweep: Sweep) -> Section:
    """Tables 1, 3, 7 and 8, success rates, and data sets."""
    lines = [
        "Deltas in percentage points, mean ± standard deviation over teachers. Where a student, its teachers "
        "and the data are those of the paper, its number stands beside ours, with the difference.",
        _matched(sweep.units),
        *_published(),
        "In the paper's XE-KL runs the cross-entropy was fed softmax outputs, here it is logits.",
    ]
    if sweep.taught.empty:
        return Section("paper", "The paper's tables", lines[:1], [])
    ours = [
        ("table_1", "Table 1: KL and KL+DP", tables.table_1, {"kl": "KL", "kl_dp": "KL+DP"}),
        (
            "table_3",
            "Table 3: KL+DP with and without labels",
            tables.table_3,
            {"supervised": "supervised", "unsupervised": "unsupervised"},
        ),
        (
            "table_8",
            "Table 8: what KL+DP does to the flips",
            tables.table_8,
            {"transfer_delta": "Δ", "delta_rho_pos": "Δρ_pos", "delta_rho_neg": "Δρ_neg"},
        ),
    ]
    exhibits = []
    for name, title, made, starts in ours:
        table = made(sweep.units)
        if table.empty:
            exhibits.append(_left_out(name, title, "no trial of its methods finished"))
        else:
            exhibits.append(
                Exhibit(name, title, "", table, None, *readable(table, _of_students(table, starts)))
            )
    seven = tables.table_7(sweep.units)
    exhibits.insert(
        2, Exhibit("table_7", "Table 7: every pair", "", seven, None, *readable(seven, _pairs(seven)))
    )
    rates = tables.success_rates(sweep.units, sweep.summary)
    columns = [
        Column("method", "", text("method", label)),
        Column("pairs", "of a student and a teacher", number("pairs")),
        Column(
            "success %",
            "pairs with a delta above 0 [95 % interval over students and teachers]",
            between(lambda part: percent(part, 0), "success_rate", "success_low", "success_high"),
        ),
        Column("median %", "success rate of each student: median", percent("success_student_median", 0)),
        Column("paper %", "as printed, for its 400 pairs", text("published")),
        Column("which is", "the statistic that the paper gives", text("statistic")),
    ]
    exhibits.append(
        Exhibit("success_rates", "Success rates (section 5.1)", "", rates, None, *readable(rates, columns))
    )
    data = tables.by_data(sweep.trials, sweep.units)
    columns = [
        Column("data", "", text("data")),
        Column("classes", "", number("classes")),
        Column("samples", "of the evaluation", number("evaluation_samples")),
        Column("method", "", text("method", label)),
        Column("pairs", "", number("pairs")),
        Column("success %", "pairs with a delta above 0", percent("success_rate", 0)),
        Column("Δ", "mean ± standard deviation over pairs", mean_and_sd("mean", "sd")),
    ]
    exhibits.append(Exhibit("by_data_set", "By data set", "", data, None, *readable(data, columns)))
    return Section("paper", "The paper's tables, and its numbers beside ours", lines, exhibits)


def _matched(units: pd.DataFrame) -> str:
    pairs = units[units["papers_student"].notna() & units["papers_teacher"].notna()]
    pairs = pairs.drop_duplicates(["student", "teacher"])
    if pairs.empty:
        return "No pair here is one of the paper's in its setting, so no published number is comparable."
    counts = ", ".join(f"{count} of {name}" for name, count in pairs["setting"].value_counts().items())
    return f"Pairs here that are the paper's, by setting: {counts}."


def _published() -> list[str]:
    """Where the published tables disagree among themselves."""
    rows = reference.disagreements()
    parts = [
        f"the mean of Table 7's deltas of {row.student} with {label(row.method)} from {row.teachers} "
        f"teachers is {row.pairs:.2f}, where Table {row.table} says {row.published:.2f}"
        for row in rows.itertuples()
    ]
    if not parts:
        return []
    return [
        f"The published tables do not agree everywhere: {'; '.join(parts)}. Tables 1 and 9 agree with each "
        "other: they are of one set of runs, Table 7's KL of another (analysis/reference/README.md)."
    ]


def _of_students(table: pd.DataFrame, starts: dict[str, str]) -> list[Column]:
    columns = [
        Column("student", "", text("student")),
        Column("family", "", text("student_family")),
        Column("top-1 %", "accuracy before transfer", percent("student_accuracy_before", 2)),
        Column("parameters", "of the student", number("student_parameters")),
    ]
    for start, header in starts.items():
        columns += [
            Column(f"{header}, teachers", "number of teachers", number(f"{start}_teachers")),
            Column(
                header, "mean ± standard deviation over teachers", mean_and_sd(f"{start}_mean", f"{start}_sd")
            ),
        ]
        if table[f"{start}_mean_published"].notna().any():
            published = mean_and_sd(f"{start}_mean_published", f"{start}_sd_published")
            columns += [
                Column(f"{header}, paper", "as published", published),
                Column(f"{header}, ours minus paper", "", points(f"{start}_difference")),
            ]
    return columns


def _pairs(table: pd.DataFrame) -> list[Column]:
    columns = [
        Column("student", "", text("student")),
        Column("teacher", "", text("teacher")),
        Column("Δ_acc", "teacher's minus student's accuracy", points("accuracy_difference")),
    ]
    for method in measures.in_order(
        name.removesuffix("_published") for name in table if "_published" in name
    ):
        columns.append(Column(label(method), "transfer delta, seeds averaged", points(method)))
        if table[f"{method}_published"].notna().any():
            columns += [
                Column(f"{label(method)}, paper", "as published", points(f"{method}_published")),
                Column(f"{label(method)}, ours minus paper", "", points(f"{method}_difference")),
            ]
    return columns


# Before and after the sections that need an atlas, and trials of several teachers.
FIRST: tuple[Callable[[Sweep], Section], ...] = (success, comparisons, knowledge, beyond)
LAST: tuple[Callable[[Sweep], Section], ...] = (training, papers_tables)
