"""What makes a good augmentation: T. stddev against the student's test loss, and what choosing costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import augmentation_measures as measures
from analysis import style
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.text import Column, Number, filled, number, p_value

TITLE = "Augmentations in distillation"
KEYS = ["student", "teacher"]
PREDICTORS = {
    "teacher_stddev": "T. stddev",
    "teacher_stddev_augmented": "T. stddev of copies alone",
    "teacher_covariance": "covariance of originals and copies",
    "teacher_entropy_augmented": "teacher's entropy of copies",
    "teacher_entropy_stddev": "deviation of a window's entropy",
}
OUTCOMES = {
    "loss": "test loss",
    "scaled_loss": "test loss after temperature scaling",
    "error": "test error",
}
BOUNDS = ("-", "--")
SIGNS = {"pearson": "r", "spearman": "ρ", "kendall": "τ"}
CORRELATES = (
    "T. stddev and the student's test loss: Pearson's correlation {{ of|number('+.2f') }} over the schemes "
    "of {{ 'one pair' if pairs == 1 else pairs ~ ' pairs, on average' }}; without CutMix and its relatives "
    "{{ without|number('+.2f') }}."
)
CHOOSES = (
    "The scheme of least T. stddev loses {{ chosen|number('.3f') }} nats to the best one"
    "{% if cutmix.known %}, CutMix {{ cutmix|number('.3f') }}{% endif %}."
)


def lines(material: Material) -> list[str] | None:
    """What correlates, and what a choice costs; None without second inputs and students from scratch."""
    try:
        material.augmented  # noqa: B018 - whether there are any
    except LeftOut:
        return None
    points = material.scheme_points  # or left out, and there is nothing to say
    said = []
    correlations = measures.correlations(points).query("predictor == 'teacher_stddev'")
    mine = correlations[correlations["coefficient"] == "pearson"].dropna(subset="correlation")
    if len(mine):
        row = mine.iloc[-1]  # of all pairs, where there are several
        reduced = measures.robustness(points).query("left_out == 'CutMix and its relatives'")["correlation"]
        facts = {"of": _number(row, "correlation"), "pairs": row["n"] if len(mine) > 1 else 1}
        z = np.arctanh(reduced.clip(-0.999, 0.999))
        said.append(filled(CORRELATES, facts | {"without": Number(float(np.tanh(z.mean())))}))
    row = measures.regret(points).iloc[-1]
    facts = {"chosen": _number(row, "regret"), "cutmix": _number(row, "regret_of_cutmix")}
    return [*said, filled(CHOOSES, facts)]


def _number(row: pd.Series, name: str) -> Number:
    low, high = (row.get(f"{name}_{end}", np.nan) for end in ("low", "high"))
    return Number(row[name], low, high)


@exhibit("T. stddev and test loss (Fig. 4 of arXiv 2012.02909)")
def augmentation_scatter(scheme_points):
    """A panel a pair, a mark a scheme: how much the teacher's mean probabilities vary between windows of
    images and their copies (T. stddev; bars: its standard error in one trial), against the student's negative
    log-likelihood on the evaluation split (mean over seeds; bars: standard deviation). Pearson's r,
    Spearman's ρ and Kendall's τ with 95 % intervals and p-values. The paper finds r near 0.95 on CIFAR100.
    Grey crosses are its own points, where data and networks are the same. Schemes of a pair share images and
    seeds, so they differ less by chance than the bars say. Grey lines: what a teacher that is certain of
    every image would have, if copies tell as much as other images do, and (dashed) if they tell nothing."""
    published = measures.published(scheme_points)
    numbers = scheme_points.drop(columns=["data", "student_timm", "teacher_timm", *measures.SCHEME])
    numbers = numbers.merge(_published_points(scheme_points, published), on=["method", *KEYS], how="left")
    correlations = measures.correlations(scheme_points)
    drawing = _scatter(scheme_points, correlations, published)
    return Shown(numbers.astype({"epochs": str}), drawing, keys=["method", *KEYS, "epochs"])


def _published_points(points: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """The paper's numbers of the same schemes: `published_stddev`, `published_loss`; no row without."""
    ours = points.assign(scheme=measures.papers_scheme(points))[["method", *KEYS, "scheme"]]
    names = {"t_stddev": "published_stddev", "s_test_loss": "published_loss"}
    theirs = published.rename(columns=names)[[*KEYS, "scheme", *names.values()]]
    return ours.dropna(subset="scheme").merge(theirs, on=[*KEYS, "scheme"]).drop(columns="scheme")


def _scatter(points: pd.DataFrame, correlations: pd.DataFrame, published: pd.DataFrame) -> Figure:
    groups = list(points.groupby(KEYS, sort=False))
    title, in_row = "Does the teacher's deviation tell a good augmentation?", 2 if len(groups) == 4 else 3
    drawing, panels = style.panelled(title, len(groups), columns=in_row)
    looks = style.styles(style.METHODS, points["method"])
    for panel, ((student, teacher), mine) in zip(panels, groups, strict=True):
        said = _said(correlations, student, teacher)
        panel.set_title("\n".join([f"{teacher} teaching {student}", *said]), fontsize=9)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        theirs = published[(published["student"] == student) & (published["teacher"] == teacher)]
        panel.scatter(theirs["t_stddev"], theirs["s_test_loss"], marker="x", s=18, color=style.GREY)
        for bound, dashes in zip(mine[["bound", "bound_of_copies"]].mean(), BOUNDS, strict=True):
            panel.axvline(bound, color=style.GREY, linestyle=dashes, linewidth=0.8)
        for row in mine.itertuples():
            color, marker = looks[row.method]
            panel.errorbar(
                row.teacher_stddev,
                row.loss,
                xerr=_bar(row.teacher_stddev_error),
                yerr=_bar(row.loss_sd),
                color=color,
                marker=marker,
                linewidth=0.8,
            )
    style.axis_labels(panels, "T. stddev", "student's test loss (nats)")
    handles = style.method_handles(looks)
    if len(published):
        handles += [Line2D([], [], color=style.GREY, marker="x", linestyle="", label="published")]
    style.legend(drawing, handles, f"{len(points)} schemes of {len(groups)} pairs", 3)
    return drawing


def _bar(size: float) -> float | None:
    return None if pd.isna(size) else size


def _said(correlations: pd.DataFrame, student: str, teacher: str) -> list[str]:
    """The coefficients of a pair, a line each."""
    mine = correlations.query("predictor == 'teacher_stddev' and student == @student and teacher == @teacher")
    return [
        f"{SIGNS[row.coefficient]} {number(_number(row, 'correlation'), '+.2f')}, p {p_value(row.p_value)}"
        for _, row in mine.dropna(subset="correlation").iterrows()
    ]


@exhibit("What predicts the student's loss")
def augmentation_correlations(scheme_points):
    """Correlations with the student's test loss over the schemes of a pair: of T. stddev, and of what could
    explain the same. T. stddev of copies alone leaves out what copies share with their originals, which the
    covariance is; a teacher that is less sure of copies has more entropy. 95 % intervals by Fisher, and by
    Bonett and Wright; they are of other schemes, which these are no random sample of. q is of Pearson's,
    corrected over pairs (Benjamini-Hochberg). Over all pairs: the mean of Fisher's z, with an interval over
    students and teachers. Published: Fig. 4 of arXiv 2012.02909."""
    table = measures.correlations(scheme_points)
    if table["correlation"].isna().all():
        raise LeftOut(f"no pair has {measures.NEEDED} schemes")
    printed = measures.published(scheme_points, "good_da_correlations")
    table["published_correlation"] = [
        _printed(printed, row) for row in table[[*KEYS, "predictor", "coefficient"]].to_dict("records")
    ]
    rows = []
    for names, mine in table.groupby([*KEYS, "predictor"], sort=False):
        of = {one["coefficient"]: pd.Series(one) for one in mine.to_dict("records")}
        row = dict(zip([*KEYS, "predictor"], names, strict=True)) | {"n": mine["n"].iloc[0]}
        row |= {kind: _number(one, "correlation") for kind, one in of.items()}
        row |= {f"{kind}_p": one["p_value"] for kind, one in of.items()}
        pearson = of.get("pearson", pd.Series(dtype=float))
        row |= {"q": pearson.get("q_value"), "published": pearson.get("published_correlation")}
        rows.append(row | {"predictor": PREDICTORS[row["predictor"]]})
    columns = [
        Column("student", "student"),
        Column("teacher", "teacher"),
        Column("predictor", "predictor"),
        Column("n", "n|number", "schemes; of all pairs, pairs"),
    ]
    for kind in measures.KINDS:
        columns += [
            Column(kind.title(), f"{kind}|number('+.2f')", "correlation with the loss [95 % interval]"),
            Column(f"p ({SIGNS[kind]})", f"{kind}_p|p", "of no correlation, two-sided"),
        ]
    columns += [
        Column("q (r)", "q|p", "p of Pearson's, corrected over pairs"),
        Column("published", "published|number('+.4f')", "Pearson's, as printed"),
    ]
    return Shown(table, None, columns, rows, keys=[*KEYS, "predictor", "coefficient"])


def _printed(printed: pd.DataFrame, row: dict) -> float:
    mine = printed[(printed["student"] == row["student"]) & (printed["teacher"] == row["teacher"])]
    known = len(mine) and row["predictor"] == "teacher_stddev"
    return float(mine[row["coefficient"]].iloc[0]) if known else np.nan


@exhibit("What the correlation rests on")
def augmentation_robustness(scheme_points):
    """Pearson's correlation of T. stddev with the student's loss, with schemes left out. CutMix and its
    relatives are one idea in several forms, with the least T. stddev and the least loss: in the paper's own
    points the correlation falls to 0.07 without them (Tiny ImageNet, resnet56 teaching resnet20), to 0.21
    (ImageNet100) and 0.63 (CIFAR100, resnet56 teaching resnet20)."""
    table = measures.robustness(scheme_points)
    if table["correlation"].isna().all():
        raise LeftOut(f"no pair has {measures.NEEDED} schemes")
    columns = _of_pearson(Column("left out", "left_out|label"), "schemes that are left")
    return Shown(table, None, columns, keys=[*KEYS, "left_out"])


def _of_pearson(of: Column, counted: str) -> list[Column]:
    """Columns of a table of Pearson's correlations, a row a pair and whatever they are `of`."""
    bounds = "bounded(correlation, correlation_low, correlation_high)|number('+.2f')"
    return [
        Column("student", "student"),
        Column("teacher", "teacher"),
        of,
        Column("n", "n|number", counted),
        Column("Pearson", bounds, "[95 % interval]"),
        Column("p", "p_value|p", "of no correlation, two-sided"),
    ]


@exhibit("Loss, calibrated loss and error")
def augmentation_outcomes(scheme_points):
    """Pearson's correlation of T. stddev with the student's test loss, with its test loss at the temperature
    that suits `tune` best, and with its test error (Fig. 6 of arXiv 2012.02909). Targets with more entropy
    make students less sure, and a loss smaller at the same accuracy: what is left after scaling is not that.
    Over all pairs: the mean of Fisher's z, with an interval over students and teachers."""
    table = measures.outcomes(scheme_points)
    if table["correlation"].isna().all():
        raise LeftOut(f"no pair has {measures.NEEDED} schemes")
    columns = _of_pearson(Column("outcome", "outcome"), "schemes; of all pairs, pairs")
    shown = table.dropna(subset="correlation").replace({"outcome": OUTCOMES})
    return Shown(table, None, columns, shown.to_dict("records"), keys=[*KEYS, "outcome"])


@exhibit("What choosing by T. stddev costs")
def augmentation_regret(scheme_points):
    """Of each pair the scheme of least T. stddev, which is known before any student is trained: how much more
    test loss it has than the best scheme, against always taking CutMix. Below 0, the difference says that
    T. stddev chose better. Over all pairs: means, with 95 % intervals over students and teachers."""
    table = measures.regret(scheme_points)

    def column(header: str, name: str, form: str, meaning: str) -> Column:
        return Column(header, f"bounded({name}, {name}_low, {name}_high)|{form}", meaning)

    columns = [
        Column("student", "student"),
        Column("teacher", "teacher"),
        Column("schemes", "n|number", "of all pairs: pairs"),
        Column("chosen", "chosen|label if chosen is string else none|text", "the scheme of least T. stddev"),
        Column("best", "best|label if best is string else none|text", "the scheme of least loss"),
        column("regret", "regret", "number('.4f')", "loss of the chosen one minus the best's, in nats"),
        column("CutMix", "regret_of_cutmix", "number('.4f')", "the same of always taking CutMix"),
        column("difference", "regret_difference", "number('+.4f')", "the first minus the second"),
        column("in accuracy", "accuracy_regret", "percent(2)", "points that it is below the best one"),
        column("CutMix in accuracy", "accuracy_regret_of_cutmix", "percent(2)", "the same of CutMix"),
    ]
    return Shown(table, None, columns, keys=KEYS)


@exhibit("Schemes by pair")
def augmentation_schemes(augmented):
    """Accuracy and test loss of each method's students, means over seeds with their standard deviation, and
    what they differ by from Identity, seed by seed (95 % intervals over seeds, by t; wide with few). Identity
    shows the same images twice: what a method with a second input does beyond it is the augmentation's work,
    and what Identity does beyond plain KD is that of the doubled weight. A method without a teacher is held
    against the Identity of all teachers. Published: Tables 1 and 2 of arXiv 2012.02909, where data, networks,
    method and epochs are the same."""
    table = measures.against_identity(augmented)
    table["published_accuracy"] = measures.published_accuracies(table)
    numbers = table.drop(columns=["data", "student_timm", "teacher_timm", *measures.SCHEME])
    columns = [
        Column("student", "student"),
        Column("teacher", "teacher|text"),
        Column("method", "method|label"),
        Column("second input", "augmentation|text"),
        Column("picked by", "augmentation_pick|text"),
        Column("epochs", "epochs|number"),
        Column("seeds", "seeds|number"),
        Column("accuracy %", "accuracy|percent(2)", "of the student, mean over seeds"),
        Column("s.d.", "accuracy_sd|percent(2)", "standard deviation over seeds, in points"),
        Column("published", "published_accuracy|percent(2)", "the paper's accuracy, mean over three seeds"),
        Column(
            "minus Identity",
            "bounded(accuracy_difference, accuracy_difference_low, accuracy_difference_high)|points",
            "in points",
        ),
        Column("loss", "loss|number('.4f')", "negative log-likelihood, in nats"),
        Column("s.d. of loss", "loss_sd|number('.4f')", "standard deviation over seeds"),
        Column(
            "loss minus Identity's",
            "bounded(loss_difference, loss_difference_low, loss_difference_high)|number('+.4f')",
            "in nats",
        ),
    ]
    rows = table.to_dict("records")
    return Shown(
        numbers.astype({"epochs": str}), None, columns, rows, keys=["method", "student", "teacher", "epochs"]
    )


@exhibit("Error against epochs (Fig. 2 of arXiv 2012.02909)")
def error_against_epochs(schemes):
    """Test error of the student by how long it was trained, each time with its own schedule; bars: standard
    deviation over seeds. The paper finds that KD gains longer than cross-entropy, and longer the stronger
    the augmentation."""
    table = measures.over_epochs(schemes)
    if table.empty:
        raise LeftOut("no method was trained for several numbers of epochs (`epochs_factor`)")
    numbers = table[["scheme", *KEYS, "epochs", "seeds", "error", "error_sd", "loss", "loss_sd"]]
    drawing = _epochs(table)
    return Shown(numbers.astype({"epochs": str}), drawing, keys=["scheme", *KEYS, "epochs"])


def _epochs(table: pd.DataFrame) -> Figure:
    groups = list(table.groupby(KEYS, sort=False, dropna=False))
    drawing, panels = style.panelled("How long does a student gain?", len(groups))
    looks = style.styles(style.METHODS, table["scheme"])
    for panel, ((student, teacher), mine) in zip(panels, groups, strict=True):
        panel.set_title(
            f"{student} alone" if pd.isna(teacher) else f"{teacher} teaching {student}", fontsize=11
        )
        for scheme, part in mine.sort_values("epochs").groupby("scheme", sort=False):
            color, marker = looks[scheme]
            bars = 100 * part["error_sd"].fillna(0)
            panel.errorbar(part["epochs"], 100 * part["error"], yerr=bars, color=color, marker=marker)
        panel.set_xscale("log", base=2)
        panel.set_xticks(sorted(mine["epochs"].unique()), [f"{n:g}" for n in sorted(mine["epochs"].unique())])
    style.axis_labels(panels, "epochs", "student's test error (%)")
    style.legend(drawing, style.method_handles(looks), f"{len(groups)} pairs", 3)
    return drawing
