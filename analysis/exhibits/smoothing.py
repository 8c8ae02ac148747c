"""Label smoothing and distillation: claims with their verdicts, and what they rest on
(docs/label_smoothing.md).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import reference, style
from analysis import smoothing_claims as claims
from analysis import smoothing_measures as measures
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.inference import crossed_bootstrap
from analysis.material import Material
from analysis.text import Column, many

TITLE = "Label smoothing"
COLORS = {"hard": style.BLUE, "smooth": style.ORANGE}
NAMES = {"hard": "unsmoothed teacher", "smooth": "smoothed teacher"}
ANCHORED = 0.003  # how near a reading of 1 - S has to be to every published value
PANELS = 6  # of a figure, at most
VALUE = "bounded(value, low, high)|points if unit == 'fraction' else bounded(value, low, high)|number('+.3f')"


def lines(material: Material) -> list[str] | None:
    """How many claims are supported and refuted; None where no model is known to be smoothed."""
    try:
        smoothing = material.smoothing
    except LeftOut:
        return None
    table = smoothing.verdicts[0]
    counts = table["verdict"].value_counts()
    found = []
    for verdict in (claims.SUPPORTED, claims.REFUTED):
        names = table.loc[table["verdict"] == verdict, "claim"]
        found.append(f"{verdict} {len(names)}" + (f" ({', '.join(names)})" if len(names) else ""))
    measured = len(table) - counts.get(claims.NOT_MEASURED, 0)
    said = [
        f"Of {len(table)} claims on label smoothing {measured} are measured (α {smoothing.alpha:g}): "
        f"{'; '.join(found)}; undecided {counts.get(claims.UNDECIDED, 0)}."
    ]
    lonely = measures.lonely(smoothing.tables)
    if lonely:
        verb = "are" if lonely > 1 else "is"
        said.append(f"{many(lonely, 'teacher')} without a twin of another smoothing {verb} left out.")
    return said


@exhibit("Claims and verdicts")
def smoothing_claims(smoothing):
    """A row a claim, by its main measurement; twins are teachers that differ in their smoothing alone (α, in
    torch's convention). Means with 95 % intervals over students and twins. A verdict rests on all of a
    claim's measurements (next table) and on the p-value that Holm's method corrects for all claims: at most
    one time in twenty is any of these verdicts wrong. By itself: the verdict without this correction. Margins
    of no difference, 0.3 points and 0.05 of a correlation, were fixed beforehand. What is not measured here
    may be in other studies: `analysis/smoothing.py RESULTS [RESULTS ...]` makes this table of several."""
    table = smoothing.verdicts[0]
    columns = [
        Column("claim", "claim"),
        Column("says", "says"),
        Column("verdict", "verdict"),
        Column("by itself", "by_itself", "without correction for the other claims"),
        Column("measured", "measured", "the main measurement"),
        Column("value", VALUE, "points, or in the measurement's unit [95 % interval]"),
        Column("n", "n|number", "pairs of students, or twins"),
        Column("p", "p_value|p", "of the claim's measurements together"),
        Column("p (Holm)", "p_holm|p", "corrected for all claims"),
        Column("supports", "supports"),
        Column("refutes", "refutes"),
        Column("published", "published|text"),
        Column("source", "source|text"),
        Column("remark", "remark|text"),
    ]
    return Shown(table, None, columns, keys=["claim"])


@exhibit("What the verdicts rest on")
def smoothing_measurements(smoothing):
    """Every measurement of every claim, with p-values of what supports and of what refutes it (two-sided; 1
    where the value lies on the other side). Controls stand beside, and no verdict rests on them."""
    table = measures.needed(smoothing.verdicts[1], "no claim is measured")
    columns = [
        Column("claim", "claim"),
        Column("measured", "measured"),
        Column("value", VALUE, "points, or in the measurement's unit [95 % interval]"),
        Column("n", "n|number", "pairs of students, or twins"),
        Column("p supports", "p_supports|p"),
        Column("p refutes", "p_refutes|p"),
        Column("", "'' if counts else 'control'", "whether the verdict rests on it"),
        Column("remark", "remark"),
    ]
    return Shown(table, None, columns, keys=["claim", "measured"])


@exhibit("Students of twins")
def smoothing_pairs(smoothing):
    """Students that differ in their teacher's smoothing alone, at each temperature: accuracies on the
    evaluation images. Gained and lost: images that one of both students alone gets right, at T = 1, with the
    exact McNemar test. Left out: teachers without a twin."""
    tables = smoothing.tables
    pairs = measures.student_pairs(tables.trials[tables.trials["objective"] == "kl"], smoothing.alpha)
    table = measures.mcnemar(pairs, tables.right)
    names = ["study", "student", "twin", "teacher_hard", "teacher_smooth", "method", "seed", "temperature"]
    names += ["accuracy_hard", "accuracy_smooth", "difference", "gained", "lost", "p_value"]
    table = table[names].sort_values([*names[:6], "seed"], ignore_index=True)
    columns = [
        Column("study", "study"),
        Column("student", "student"),
        Column("unsmoothed", "teacher_hard"),
        Column("smoothed", "teacher_smooth"),
        Column("method", "method|label"),
        Column("T", "temperature|number('g')"),
        Column("unsmoothed %", "accuracy_hard|percent(2)", "accuracy of the unsmoothed teacher's student"),
        Column("smoothed %", "accuracy_smooth|percent(2)", "of the smoothed teacher's"),
        Column("difference", "difference|points"),
        Column("gained", "gained|number"),
        Column("lost", "lost|number"),
        Column("p", "p_value|p", "exact McNemar test"),
    ]
    keys = ["study", "student", "teacher_smooth", "method", "seed"]
    return Shown(table.astype({"seed": str}), None, columns, keys=keys)


@exhibit("Students by method and teacher")
def smoothing_students(smoothing):
    """Students on the evaluation images after training, by method and by their teacher's α: means with 95 %
    intervals over students and twins, which are wide since students differ. The differences within pairs of
    one student, above, are known better."""
    trials = smoothing.tables.trials
    trials = trials[trials["alpha"].notna() | trials["teacher"].isna()]
    numbers = {
        "accuracy": "accuracy",
        "nll": "student_negative_log_likelihood_after",
        "calibration_error": "student_calibration_error_after",
        "intra_class_variance": "student_intra_class_variance_after",
    }
    rows = []
    for (study, method, alpha), mine in trials.groupby(["study", "method", "alpha"], dropna=False):
        row = {"study": study, "method": method, "alpha": "none" if pd.isna(alpha) else f"{alpha:g}"}
        row |= {"n": len(mine), "accuracy": mine["accuracy"].mean()}
        twins = None if pd.isna(alpha) else mine["twin"].fillna(mine["teacher"])
        bounds = crossed_bootstrap(mine["accuracy"], mine["student"], twins)
        row |= dict(zip(("accuracy_low", "accuracy_high"), bounds, strict=True))
        rows.append(row | {name: mine[column].astype(float).mean() for name, column in numbers.items()})
    columns = [
        Column("study", "study"),
        Column("method", "method|label"),
        Column("teacher's α", "alpha"),
        Column("trials", "n|number"),
        Column("accuracy %", "bounded(accuracy, accuracy_low, accuracy_high)|percent(2)", "[95 % interval]"),
        Column("NLL", "nll|number('.4f')", "negative log-likelihood, in nats"),
        Column("ECE %", "calibration_error|percent(2)", "calibration error, 15 bins"),
        Column("1 − S", "intra_class_variance|number('.4f')", "of the student"),
    ]
    return Shown(pd.DataFrame(rows), None, columns, keys=["study", "method", "alpha"])


# --- models ---------------------------------------------------------------------------------------


@exhibit("Stability, softness and accuracy (Table 1 of arXiv 2104.00676)")
def smoothing_stability(smoothing):
    """1 - S, the variance of a model's probabilities within a class, and the spread ratio, which unlike it
    does not change with the scale of the logits, against accuracy and against γ, the probability mass on
    wrong classes. Evaluation split; a mark a model, twins joined. Crosses: Table 1 of arXiv 2104.00676, whose
    reading of 1 - S is not certain (next table)."""
    names = ["study", "name", "twin", "label_smoothing", "accuracy", "off_target_mass", "entropy", "nll"]
    names += [*measures.READINGS, "intra_class_variance_low", "intra_class_variance_high", "spread_ratio"]
    models = smoothing.tables.models
    table = models.loc[models["source"] != "seed", names]  # of chance there is nothing to see
    table = measures.needed(
        table.dropna(subset="intra_class_variance"),
        "1 - S is not recorded of any model; jobs/atlas.py STUDY --measure computes it from stored outputs",
    )
    table = table.astype(dict.fromkeys(names[3:], float) | {"twin": object, "label_smoothing": float})
    return Shown(table.reset_index(drop=True), _stability(table), keys=["study", "name"])


def _stability(table: pd.DataFrame) -> Figure:
    published = reference.table("shen2021_table1_stability")
    drawing, panels = style.panelled("Is a smoothed model more stable, or softer?", 4, columns=2)
    axes = [(x, y) for y in ("intra_class_variance", "spread_ratio") for x in ("accuracy", "off_target_mass")]
    titles = {"accuracy": "accuracy (%)", "off_target_mass": "γ", "intra_class_variance": "1 − S"}
    for panel, (x, y) in zip(panels, axes, strict=True):
        scale = 100 if x == "accuracy" else 1
        ordered = table.dropna(subset="twin").sort_values("label_smoothing")
        for _, twins in ordered.groupby(["study", "twin"]):
            panel.plot(scale * twins[x], twins[y], color=style.GREY, linewidth=0.8, zorder=1)
        for color, mine in _by_smoothing(table):
            panel.scatter(scale * mine[x], mine[y], color=color, s=28, zorder=2)
        if (x, y) == axes[0]:
            for smoothing, mine in published.groupby("smoothing"):
                color = COLORS["smooth" if smoothing == "yes" else "hard"]
                panel.scatter(mine["top1"], mine["one_minus_stability"], color=color, marker="x", s=24)
        panel.set(xlabel=titles[x], ylabel=titles.get(y, "spread ratio"))
    handles = [
        _mark(COLORS["hard"], "unsmoothed"),
        _mark(COLORS["smooth"], "smoothed"),
        _mark(style.GREY, "not known"),
    ]
    handles.append(Line2D([], [], color=style.BLACK, marker="x", linestyle="", label="published"))
    style.legend(drawing, handles, f"{len(table)} models", 4)
    return drawing


def _by_smoothing(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    alpha = table["label_smoothing"]
    parts = ((COLORS["hard"], alpha == 0), (COLORS["smooth"], alpha > 0), (style.GREY, alpha.isna()))
    return [(color, table[chosen]) for color, chosen in parts if chosen.any()]


def _mark(color: str, name: str, marker: str = "o") -> Line2D:
    return Line2D([], [], color=color, marker=marker, linestyle="", label=name)


@exhibit("Which reading of 1 − S is the published one")
def smoothing_anchors(smoothing):
    """Six of the unsmoothed networks of Table 1 of arXiv 2104.00676 are torchvision's weights, which timm
    has: their published 1 - S beside three readings of its Eq. 2, the literal one, the variance of the true
    class's probability, and its standard deviation. {{ said }}"""
    printed = reference.table("shen2021_table1_stability").dropna(subset="timm_name")
    ours = (
        smoothing.tables.models.dropna(subset=measures.READINGS[0]).drop_duplicates("timm").set_index("timm")
    )
    table = printed[["network", "timm_name", "top1", "one_minus_stability"]].join(
        ours[["accuracy", *measures.READINGS]].astype(float), on="timm_name"
    )
    known = table.dropna(subset=measures.READINGS[0])
    if known.empty:
        raise LeftOut(
            "none of the six is recorded; jobs/atlas.py studies/label_smoothing_anchors.yaml runs them, "
            "with ImageNet"
        )
    apart = {name: (known[name] - known["one_minus_stability"]).abs().max() for name in measures.READINGS}
    near = [name for name, far in apart.items() if far <= ANCHORED and len(known) == len(table)]
    said = f"Within {ANCHORED} of all six: {', '.join(near) or 'none'}."
    columns = [
        Column("network", "network"),
        Column("published %", "top1|number('.3f')"),
        Column("ours %", "accuracy|percent(3)"),
        Column("published 1 − S", "one_minus_stability|number('.4f')"),
        *(Column(name.replace("_", " "), f"{name}|number('.4f')") for name in measures.READINGS),
    ]
    return Shown(table, None, columns, keys=["network", "timm_name"], facts={"said": said})


@exhibit("Soft labels (Fig. 4 of arXiv 2104.00676)")
def smoothing_soft_labels(smoothing):
    """Mean probabilities of the other classes on images of a class, the largest first by the unsmoothed
    teacher, on a logarithmic axis: means over twins. Shen et al. say that smoothing lifts the small ones and
    keeps their order; what is erased is flat."""
    tables = smoothing.tables
    soft = measures.needed(
        measures.one_split(tables.soft_labels),
        "no soft labels are recorded; jobs/atlas.py STUDY --measure computes them from stored outputs",
    )
    twins = measures.model_twins(measures.teachers(tables), smoothing.alpha)
    twins = twins[twins["study"] == twins["study"].iloc[0]]
    sides = {
        side: soft[soft["id"].isin(twins[f"model_{side}"])].groupby(["class", "other"])["probability"].mean()
        for side in measures.SIDES
    }
    table = measures.needed(pd.DataFrame(sides).dropna().reset_index(), "no twins have soft labels")
    names = smoothing.class_names
    for column in ("class", "other"):
        table[f"{column}_name"] = [str(names.get(one, one)) for one in table[column]]
    off = table[table["class"] != table["other"]]
    classes = [*off["class"].drop_duplicates()][:PANELS]
    drawing, panels = style.panelled(
        "Which other classes does a teacher think of?", len(classes), sharey=True
    )
    for panel, one in zip(panels, classes, strict=True):
        mine = off[off["class"] == one].sort_values("hard", ascending=False)
        for side in measures.SIDES:
            panel.plot(
                range(len(mine)), mine[side].clip(lower=1e-9), color=COLORS[side], marker="o", markersize=4
            )
        panel.set_yscale("log")
        panel.set_title(mine["class_name"].iloc[0], fontsize=11)
        if len(mine) <= 10:
            panel.set_xticks(range(len(mine)), mine["other_name"], rotation=60, fontsize=7, ha="right")
    style.axis_labels(panels, "", "mean probability")
    style.legend(drawing, _sides(), f"{len(twins)} twins", 2)
    return Shown(table, drawing, keys=["class_name", "other_name"])


def _sides() -> list[Line2D]:
    return [_mark(COLORS[side], NAMES[side]) for side in measures.SIDES]


@exhibit("Projections of the penultimate layer (Fig. 1 of arXiv 1906.02629)")
def smoothing_projections(smoothing):
    """Images of three classes, projected onto the plane through their templates, the last layer's rows, with
    orthonormal axes in it (Müller et al., section 2): the same plane's classes for a teacher and its smoothed
    twin, {{ splits }}. Where smoothing erases, a class is a tight cluster."""
    table = measures.needed(
        smoothing.projections, "no projections are recorded; `geometry` in the study, and jobs/atlas.py STUDY"
    )
    pairs = measures.model_twins(measures.teachers(smoothing.tables), smoothing.alpha)
    pairs = pairs[pairs["model_hard"].isin(table["id"]) & pairs["model_smooth"].isin(table["id"])]
    first = measures.needed(pairs, "no twins have projections").iloc[0]
    models = {first["model_hard"]: first["name_hard"], first["model_smooth"]: first["name_smooth"]}
    table = table[table["id"].isin(models)].astype({"x": float, "y": float})
    table = table.assign(name=table["id"].map(models)).reset_index(drop=True)
    groups = list(table.groupby(["plane", "split", "name"], sort=False))[: 2 * PANELS]
    drawing, panels = style.panelled(
        "Does a smoothed teacher draw its classes together?", len(groups), columns=4
    )
    colors = [style.BLUE, style.ORANGE, style.GREEN]
    names = smoothing.class_names
    for panel, ((_, split, name), mine) in zip(panels, groups, strict=True):
        for color, (one, part) in zip(colors, mine.groupby("class"), strict=False):
            panel.scatter(part["x"], part["y"], s=6, color=color, label=str(names.get(one, one)))
        panel.set_title(f"{name}, {split}", fontsize=9)
        panel.legend(fontsize=7, frameon=False)
    return Shown(table, drawing, facts={"splits": " and ".join(sorted(table["split"].unique()))})


@exhibit("Distances of class centres (section 5 of arXiv 2104.00676)")
def smoothing_centres(smoothing):
    """Distances between class centres in the penultimate layer, of similar classes (the tenth of all pairs
    that *other* unsmoothed models confuse most) and of the others, unsmoothed and smoothed twin side by side:
    relative to the mean over all pairs, and in units of the classes' own spread. Evaluation split."""
    table = measures.centre_changes(smoothing.tables, smoothing.alpha)
    drawing, panels = style.panelled("Do similar classes move apart?", 2, columns=2)
    for panel, name in zip(panels, ("relative_distance", "separation"), strict=True):
        for place, kind in enumerate(("similar", "other")):
            for row in table[table["pairs"] == kind].to_dict("records"):
                values = [row[f"{name}_{side}"] for side in measures.SIDES]
                panel.plot([3 * place, 3 * place + 1], values, color=style.GREY, linewidth=0.8, zorder=1)
                panel.scatter([3 * place, 3 * place + 1], values, color=[*COLORS.values()], s=28, zorder=2)
        panel.set_xticks([0.5, 3.5], ["similar classes", "other classes"])
        panel.set_ylabel(
            {"relative_distance": "relative distance", "separation": "distance over spread"}[name]
        )
    style.legend(drawing, _sides(), f"{len(table) // 2} twins", 2)
    return Shown(table, drawing, keys=["study", "twin", "pairs"])


# --- students -------------------------------------------------------------------------------------


@exhibit("Training loss and test error by epoch (Fig. 5 of arXiv 2104.00676)")
def smoothing_curves(smoothing):
    """The loss that Shen et al. plot is the cross-entropy with the teacher's probabilities: KL, which a
    student can bring to 0, plus the teacher's entropy, which it cannot. All at T, on views of the transfer
    set, beside the student's error on watched images. Means over students and twins; bands: standard
    deviation."""
    tables = smoothing.tables
    trials = measures.distilled(tables)
    trials = trials[(trials["alpha"] == 0) | np.isclose(trials["alpha"], smoothing.alpha)]
    epochs = measures.losses(tables, trials).assign(
        teacher=lambda table: np.where(table["alpha"] == 0, *measures.SIDES),
        temperature=lambda t: t["temperature"].map("{:g}".format),
    )
    epochs = epochs.rename(columns={"kl": "kl_divergence"})
    names = ["cross_entropy", "kl_divergence", "entropy", "watched_error"]
    measures.needed(
        epochs.dropna(subset=names, how="all"), "losses by epoch are not recorded; run the trials again"
    )
    groups = epochs.groupby(["study", "teacher", "temperature", "epoch"])
    table = groups[names].mean().join(groups[names].std().add_suffix("_sd"))
    table = table.join(groups.size().rename("n")).reset_index()
    titles = ["cross-entropy (nats)", "KL (nats)", "teacher's entropy (nats)", "watched error (%)"]
    drawing, panels = style.panelled("Is a smoothed teacher's loss higher, or its floor?", 4, columns=2)
    looks = dict(
        zip(sorted(table["temperature"].unique(), key=float), ("-", "--", ":", "-.") * 9, strict=False)
    )
    for panel, name, title in zip(panels, names, titles, strict=True):
        scale = 100 if name == "watched_error" else 1
        for (_, teacher, temperature), mine in table.groupby(["study", "teacher", "temperature"]):
            x, y, sd = mine["epoch"] + 1, scale * mine[name], scale * mine[f"{name}_sd"].fillna(0)
            panel.plot(x, y, color=COLORS[teacher], linestyle=looks[temperature])
            panel.fill_between(x, y - sd, y + sd, color=COLORS[teacher], alpha=0.12, linewidth=0)
        panel.set(xlabel="epoch", ylabel=title)
    handles = _sides() + [
        Line2D([], [], color=style.BLACK, linestyle=line, label=f"T = {t}") for t, line in looks.items()
    ]
    style.legend(drawing, handles, f"{epochs['trial'].nunique()} trials", 4)
    return Shown(table.astype({"epoch": str}), drawing, keys=["study", "teacher", "temperature", "epoch"])


@exhibit("Student on teacher accuracy (Fig. 8 of arXiv 2104.00676)")
def smoothing_teacher_accuracy(smoothing):
    """Students from scratch at T = 1 against the accuracy of their teacher, a panel a student. Does a better
    teacher teach better, and smoothing change anything beyond that?"""
    trials = measures.distilled(smoothing.tables)
    trials = trials[(trials["temperature"] == 1) & trials["alpha"].notna()].dropna(
        subset=["teacher_accuracy"]
    )
    names = ["study", "student", "teacher", "twin", "alpha", "seed", "teacher_accuracy", "accuracy"]
    names += ["teacher_transfer_accuracy"]
    table = measures.needed(
        trials[names], "no student was taught at T = 1 by a teacher whose smoothing is known"
    )
    table = table.astype({"teacher_accuracy": float, "teacher_transfer_accuracy": float, "seed": str})
    groups = list(table.groupby(["study", "student"], sort=False))[: 2 * PANELS]
    drawing, panels = style.panelled("Does the teacher's accuracy decide?", len(groups))
    for panel, ((_, student), mine) in zip(panels, groups, strict=True):
        for side, chosen in zip(measures.SIDES, (mine["alpha"] == 0, mine["alpha"] > 0), strict=True):
            part = 100 * mine.loc[chosen, ["teacher_accuracy", "accuracy"]]
            panel.scatter(*part.to_numpy().T, color=COLORS[side], s=24)
        panel.set_title(student, fontsize=11)
    style.axis_labels(panels, "teacher (%)", "student (%)")
    style.legend(drawing, _sides(), f"{len(table)} trials", 2)
    return Shown(table.reset_index(drop=True), drawing, keys=["study", "student", "teacher", "seed"])


@exhibit("Smoothing and temperature (arXiv 2206.14532)")
def smoothing_temperature(smoothing):
    """What smoothing the teacher gains at each temperature, with 95 % intervals over students and twins, and
    what a temperature changes against T = 1 with an unsmoothed and with a smoothed teacher. Grey: single runs
    of the repository of arXiv 2206.14532 (ImageNet and CUB, α 0.1)."""
    pairs = measures.by_temperature(measures.distilled(smoothing.tables), smoothing.alpha)
    rows = []
    for temperature, mine in pairs.groupby("temperature"):
        row = {"temperature": f"{temperature:g}"}
        for name in ("difference", "change_hard", "change_smooth", "interaction"):
            found = claims.of_pairs(name, mine, ("above", 0.0), name)
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high, "n": found.n}
        rows.append(row)
    table = pd.DataFrame(rows)
    drawing, (panel,) = style.panelled("What does smoothing gain at a temperature?", 1, size=(7, 5))
    for _, mine in claims.followups_gains().groupby(["data", "student"]):
        panel.plot(
            mine["temperature"], mine["gain"], color=style.GREY, linewidth=0.8, marker="x", markersize=4
        )
    x, y = table["temperature"].astype(float), 100 * table["difference"]
    bars = [(y - 100 * table["difference_low"]).fillna(0), (100 * table["difference_high"] - y).fillna(0)]
    panel.errorbar(x, y, yerr=bars, color=style.ORANGE, marker="o", capsize=3)
    panel.axhline(0, color=style.BLACK, linewidth=1)
    panel.set(
        xscale="log", xlabel="temperature", ylabel="smoothed minus unsmoothed teacher's student (points)"
    )
    handles = [_mark(style.ORANGE, "ours"), Line2D([], [], color=style.GREY, marker="x", label="published")]
    style.legend(drawing, handles, f"{len(pairs)} pairs of students", 2)

    def column(header: str, name: str) -> Column:
        return Column(header, f"bounded({name}, {name}_low, {name}_high)|points", "points [95 % interval]")

    columns = [
        Column("T", "temperature"),
        Column("n", "n|number", "pairs of students"),
        column("smoothed minus unsmoothed", "difference"),
        column("T against 1, unsmoothed", "change_hard"),
        column("T against 1, smoothed", "change_smooth"),
        column("difference of both", "interaction"),
    ]
    return Shown(table, drawing, columns, keys=["temperature"])


@exhibit("Published gains beside ours")
def smoothing_published(smoothing):
    """What a smoothed teacher gains for a student at T = 1 and at higher temperatures, in points: Table 2 of
    arXiv 2104.00676 (means of three runs) and the repository of arXiv 2206.14532 (single runs, α 0.1), beside
    the means of these studies with 95 % intervals over students and twins. Other data, networks and budgets:
    signs compare, sizes do not."""
    shen = claims.shens_gains().assign(source="arXiv 2104.00676, Table 2", temperature=1, n=3)
    other = claims.followups_gains().assign(source="repository of arXiv 2206.14532", n=1)
    published = pd.concat([shen, other], ignore_index=True)
    published["gain"] /= 100
    pairs = measures.student_pairs(measures.distilled(smoothing.tables), smoothing.alpha)
    rows = []
    for (study, temperature), mine in pairs.groupby(["study", "temperature"]):
        found = claims.of_pairs("", mine, ("above", 0.0))
        row = {"source": "here", "data": study, "student": f"{mine['student'].nunique()} from scratch"}
        rows.append(
            row
            | {
                "temperature": temperature,
                "gain": found.value,
                "gain_low": found.low,
                "gain_high": found.high,
                "n": found.n,
            }
        )
    table = pd.concat([published, pd.DataFrame(rows)], ignore_index=True)
    table["temperature"] = table["temperature"].map("{:g}".format)
    columns = [
        Column("source", "source"),
        Column("data", "data"),
        Column("student", "student"),
        Column("T", "temperature"),
        Column("n", "n|number", "runs; here pairs of students"),
        Column("gain of smoothing", "bounded(gain, gain_low, gain_high)|points", "points [95 % interval]"),
    ]
    return Shown(table, None, columns, keys=["source", "data", "student", "temperature"])


# --- other studies --------------------------------------------------------------------------------


@exhibit("Long tail (appendix of arXiv 2104.00676)")
def smoothing_long_tail(smoothing):
    """What smoothing changes in the accuracy of each class under a long tail, by the images of the class in
    the transfer set, which has the tail of the training images. Means over twins, on balanced test images."""
    table = measures.by_class_size(smoothing.tables, smoothing.alpha)
    table["class_name"] = [str(smoothing.class_names.get(one, one)) for one in table["class"]]
    drawing, (panel,) = style.panelled("Whom does smoothing cost under a long tail?", 1, size=(7, 5))
    panel.scatter(table["images"], 100 * table["difference"], color=style.ORANGE)
    panel.axhline(0, color=style.BLACK, linewidth=1)
    panel.set(xscale="log", xlabel="images of the class", ylabel="smoothed minus unsmoothed (points)")
    columns = [
        Column("study", "study"),
        Column("class", "class_name"),
        Column("part", "part"),
        Column("images", "images|number", "of the class in the transfer set"),
        Column("unsmoothed %", "hard|percent(1)"),
        Column("smoothed %", "smooth|percent(1)"),
        Column("difference", "difference|points"),
        Column("twins", "twins|number"),
    ]
    return Shown(table, drawing, columns, keys=["study", "class_name", "part"])


@exhibit("Number of classes (appendix of arXiv 2104.00676)")
def smoothing_classes(smoothing):
    """What smoothing gains for a model itself, by its number of classes: a mark a twin."""
    pairs = measures.by_classes(smoothing.tables, smoothing.alpha)
    names = ["study", "twin", "classes_hard", "accuracy_hard", "accuracy_smooth", "difference"]
    table = pairs[names].rename(columns={"classes_hard": "classes"}).reset_index(drop=True)
    drawing, (panel,) = style.panelled("Does smoothing gain less with more classes?", 1, size=(7, 5))
    panel.scatter(table["classes"], 100 * table["difference"], color=style.ORANGE)
    panel.axhline(0, color=style.BLACK, linewidth=1)
    panel.set(xscale="log", xlabel="classes", ylabel="smoothed minus unsmoothed (points)")
    return Shown(table, drawing, keys=["study", "twin"])


@exhibit("Who teaches under KL+DP")
def smoothing_shares(smoothing):
    """The share of the transfer set that the teacher teaches under data partitioning, by its smoothing; twins
    joined. A smoothed teacher's probability of the true class is capped near 1 - α: it is chosen less often
    for no lack of knowledge, unless both models are calibrated first. Trained students."""
    trials = smoothing.tables.trials
    chosen = trials["objective"].str.startswith("kl_dp") & ~trials["scratch"] & trials["twin"].notna()
    table = trials[chosen].dropna(subset=["teacher_share", "alpha"])
    measures.needed(
        table, "no trained student was taught by a partition, by teachers whose smoothing is known"
    )
    names = ["study", "method", "student", "teacher", "twin", "seed", "alpha", "teacher_share", "accuracy"]
    table = table[[*names, "teacher_accuracy"]].reset_index(drop=True)
    table = table.astype({"teacher_share": float, "teacher_accuracy": float, "seed": str})
    drawing, panels = style.by_method("Is a smoothed teacher asked less?", [*table["method"].unique()])
    for method, panel in panels.items():
        mine = table[table["method"] == method].sort_values("alpha")
        for _, twins in mine.groupby(["study", "student", "twin", "seed"]):
            panel.plot(
                twins["alpha"],
                100 * twins["teacher_share"],
                color=style.GREY,
                marker="o",
                linewidth=0.8,
                markersize=4,
            )
    style.axis_labels([*panels.values()], "smoothing α", "teacher's share (%)")
    return Shown(table, drawing, keys=["study", "method", "student", "teacher", "seed"])
