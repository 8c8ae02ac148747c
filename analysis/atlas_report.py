"""What the atlas found, told to a reader: sentences made of `statements`, the report, and the files.

Beside the zoo's numbers stands what arXiv 2310.17653 claims in its section 3. Equal results give equal
bytes.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import atlas_figures, style, timm_results
from analysis import atlas_measures as measures
from analysis.atlas_results import Atlas
from analysis.readable import row_of
from analysis.results import write

FULL = 60  # models, up to which the report's table has all of them
EACH = 10  # else so many of those that know most as teachers, and least
NO_CLASSES = "no pair's flips are recorded class by class"
NO_MEANING = (
    "the classes' names have no embeddings: `pip install -r requirements-semantics.txt`, then run "
    "jobs/atlas.py again"
)


class _Told:
    """Rows of `statements`, and their numbers as text."""

    def __init__(self, table: pd.DataFrame):
        self.rows = {row["name"]: row for row in table.to_dict("records")}

    def __contains__(self, name: str) -> bool:
        return name in self.rows and math.isfinite(self.rows[name]["value"])

    def value(self, name: str) -> float:
        return self.rows[name]["value"]

    def n(self, name: str) -> str:
        return f"{self.rows[name]['n']:,}"

    def bare(self, name: str, digits: int = 2, factor: int = 1) -> str:
        return f"{factor * self.value(name):.{digits}f}"

    def plain(self, name: str, unit: str = "", digits: int = 2, factor: int = 1) -> str:
        """The value with its interval, where it has one."""
        low, high = (f"{factor * self.rows[name][bound]:.{digits}f}" for bound in ("low", "high"))
        interval = "" if math.isnan(self.rows[name]["low"]) else f" [{low}, {high}]"
        return self.bare(name, digits, factor) + unit + interval

    def percent(self, name: str, digits: int = 2) -> str:
        return self.plain(name, " %", digits, 100)

    def points(self, name: str) -> str:
        return self.plain(name, " points", 2, 100)

    def share(self, name: str) -> str:
        """In percent; 100 and 0 only if it is all or none."""
        value = self.value(name)
        return f"{100 * value:.0f} %" if value in (0, 1) else f"{np.clip(100 * value, 0.01, 99.99):.2f} %"

    def pair(self, name: str) -> str:
        return f"{self.rows[name]['teacher']} teaching {self.rows[name]['student']}"


def conclusions(atlas: Atlas, table: pd.DataFrame, gap: float = 5.0) -> list[tuple[str, str, str]]:
    """How the atlas came out, made of `statements`: (subject, sentences, what the paper says, or "")."""
    told = _Told(table)
    found = [
        (
            "Complementary knowledge",
            f"rho_pos is {told.percent('rho_pos_mean')} of the samples on average over "
            f"{told.n('rho_pos_mean')} ordered pairs, median {told.percent('rho_pos_median')}; least "
            f"{told.percent('rho_pos_min')} ({told.pair('rho_pos_min')}), most "
            f"{told.percent('rho_pos_max')} ({told.pair('rho_pos_max')}). It is above 0 for "
            f"{told.share('pairs_with_flips')} of the pairs.",
            "each of its 466 pairs of 301 models has some, above the chance level.",
        ),
        (
            "Weaker teachers",
            _weaker(told, gap),
            "even teachers more than 20 points weaker know something that their student does not.",
        ),
        (
            "Chance",
            _chance(told),
            "0.1 % expected (one in 1,000 classes), 0.03 % measured, on ImageNet.",
        ),
        ("rho_pos and Delta_acc", _correlations(told), ""),
        ("Disagreement", _disagreement(told), ""),
        ("Ceilings", _ceilings(told), ""),
        ("Spread over classes", _entropy(told), ""),
        ("Top classes", _top(told), ""),
        ("Meaning of the top classes", _meaning(atlas, told), ""),
        ("Families", _families(told, gap), ""),
        ("Published accuracies", _published(atlas, told), ""),
    ]
    return [row for row in found if row[1]]


def _weaker(told: _Told, gap: float) -> str:
    if "weaker_rho_pos_min" not in told:
        return f"no teacher is weaker than its student by {gap:g} points or more."
    return (
        f"among the {told.value('weaker_pairs'):,.0f} pairs whose teacher is weaker by {gap:g} points or "
        f"more, rho_pos is at least {told.percent('weaker_rho_pos_min')} "
        f"({told.pair('weaker_rho_pos_min')}, {told.bare('weaker_delta_of_min', 2, -100)} points weaker), "
        f"and {told.percent('weaker_rho_pos_mean')} on average."
    )


def _chance(told: _Told) -> str:
    text = (
        f"a teacher that guesses is expected to have a rho_pos of {told.percent('chance_expected', 3)}, and "
        f"{told.share('above_expected')} of the pairs have more than that for their student; "
    )
    if "chance_measured" not in told:
        return text + "no untrained teacher was run to measure it."
    return text + (
        f"{told.value('untrained'):.0f} untrained teachers have {told.percent('chance_measured', 3)} on "
        f"average, and {told.share('above_measured')} of the pairs have more than each of those for their "
        "student."
    )


def _correlations(told: _Told) -> str:
    if "pearson" not in told:
        return ""
    return (
        f"rho_pos has a correlation with Delta_acc of {told.plain('pearson')} (Pearson), "
        f"{told.plain('spearman')} (Spearman). But rho_pos = (D + Delta_acc) / 2 with D = rho_pos + "
        f"rho_neg, so of Pearson's {told.bare('pearson_identity')} are an identity and "
        f"{abs(told.value('pearson_rest')):.2f} come from D: {told.share('variance_by_delta')} of the "
        "variance of rho_pos is that of the accuracies, whatever the models know."
    )


def _disagreement(told: _Told) -> str:
    text = (
        f"on D = {told.percent('disagreement_mean')} of the samples one of two models is right and the other "
        f"wrong (standard deviation over pairs {told.bare('disagreement_sd', 2, 100)} points)"
    )
    if "disagreement_size_pearson" in told:
        text += f"; D's correlation with the size of Delta_acc is {told.plain('disagreement_size_pearson')}"
    if "error_consistency_mean" in told:
        kappa = told.plain("error_consistency_mean")
        text += f". Error consistency (kappa; 0 if they erred independently) is {kappa} on average"
    return f"{text}."


def _ceilings(told: _Told) -> str:
    text = (
        f"an oracle that picks the right one of two models is {told.points('union_gain_mean')} better than "
        f"the better of them, mean over {told.n('union_gain_mean')} pairs"
    )
    if "ensemble_gain_mean" in told:
        text += (
            f"; the mean of their probabilities is {told.points('ensemble_gain_mean')} better, and better at "
            f"all for {told.share('ensemble_better')} of the pairs"
        )
    if "kappa_p_mean" in told:
        text += f". Their probabilities are alike by {told.plain('kappa_p_mean')} (CAPA; 0 if independent)"
    return f"{text}."


def _entropy(told: _Told) -> str:
    parts = [
        f"{told.plain(f'entropy_ratio_{level}')} for {level} teachers ({told.bare(f'entropy_{level}')} of "
        f"{told.bare(f'entropy_uniform_{level}')}; {told.n(f'entropy_ratio_{level}')} pairs)"
        for level in measures.LEVELS
        if f"entropy_ratio_{level}" in told
    ]
    start = "entropy of a pair's flips, over that of as many flips drawn uniformly over the classes: mean"
    return f"{start} {'; '.join(parts)}." if parts else ""


def _top(told: _Told) -> str:
    parts = [
        f"{told.percent(f'top_{level}', 0)} with {level} teachers (drawn uniformly "
        f"{told.bare(f'top_uniform_{level}', 0, 100)} %; {told.n(f'top_{level}')} pairs)"
        for level in measures.LEVELS
        if f"top_{level}" in told
    ]
    start = (
        f"the {told.value('top_classes'):.0f} of {told.n('top_classes')} classes with most of a pair's flips"
    )
    return f"{start} hold, on average, {'; '.join(parts)}." if parts else ""


def _meaning(atlas: Atlas, told: _Told) -> str:
    if atlas.embeddings is None or not len(atlas.class_flips):
        return f"no Fig. 2b: {NO_CLASSES if atlas.embeddings is not None else NO_MEANING}."
    parts = [
        f"{told.bare(f'alike_{percent}_median')} at {percent} % ({told.bare(f'alike_{percent}_q1')} to "
        f"{told.bare(f'alike_{percent}_q3')}; {told.n(f'alike_{percent}_median')} pairs)"
        for percent in measures.TOP_PERCENT
        if f"alike_{percent}_median" in told
    ]
    if not parts:
        return "no pair has two top classes whose names can be compared."
    return (
        "similarity between the names of the fewest classes that hold a share of a pair's flips, over that "
        f"between all classes, median (quartiles; pairs with two such classes): {', '.join(parts)}."
    )


def _families(told: _Told, gap: float) -> str:
    if "disagreement_families" not in told:
        return ""
    text = (
        f"D is {told.percent('disagreement_within')} between two models of one family, "
        f"{told.percent('disagreement_between')} of two families: {told.points('disagreement_families')} "
        "apart"
    )
    if "near_families" in told:
        text += (
            f"; for accuracies less than {gap:g} points from each other {told.percent('near_within')} and "
            f"{told.percent('near_between')}: {told.points('near_families')} apart"
        )
    means = f"Mean rho_pos: {told.percent('rho_pos_within')} and {told.percent('rho_pos_between')}."
    return f"{text}. {means}"


def _published(atlas: Atlas, told: _Told) -> str:
    if not told.value("published"):
        return "none is known for these models."
    lines = deviations(atlas)
    more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
    listed = f": {'; '.join(lines[:3])}{more}" if lines else ""
    return (
        f"{told.value('deviating'):.0f} of the {told.n('deviating')} models that have one are off it by "
        f"more than {100 * measures.DEVIATION:g} points{listed}."
    )


def deviations(atlas: Atlas) -> list[str]:
    """A line a model whose accuracy is not the published one, the largest deviation first."""
    table = measures.by_model(atlas)
    table = table[measures.deviates(table["deviation"])]
    table = table.iloc[np.argsort(-table["deviation"].abs().to_numpy(), kind="stable")]
    return [
        f"{row.name} {100 * row.deviation:+.2f} ({100 * row.accuracy:.2f} %, published "
        f"{100 * row.published_accuracy:.2f} %)"
        for row in table[["name", "deviation", "accuracy", "published_accuracy"]].itertuples(index=False)
    ]


def failures(atlas: Atlas) -> list[str]:
    """A line a failed model: its name and why it failed."""
    return [f"{row.name}: {row.reason}" for row in atlas.failed[["name", "reason"]].itertuples(index=False)]


def readings(atlas: Atlas, gap: float = 5.0) -> dict[str, str]:
    """How to read each figure, by the end of its name; why it is left out where it is."""
    classes = meaning = f"Left out: {NO_CLASSES}."
    if len(atlas.class_flips):
        top = f"{measures.top_count(atlas.classes)} of {atlas.classes:,}"
        classes = (
            "In how few classes a pair's flips lie. Each pair's classes are sorted by its own flips, so "
            "that even uniform draws fall from left to right: compare with the dotted lines (mean of "
            f"{measures.DRAWS} draws of as many flips as the pair has), not with the black one. To the "
            f"right the same, added up; a fifth of the classes is {top}."
        )
        meaning = (
            "Whether those classes belong together. The top classes of a pair are the fewest that hold 2, "
            "5, 10, 20 or 50 % of its flips, those with most first, ties by number. Shown is the mean "
            "cosine similarity between the names of two of them, over that of two of all classes: 1 is "
            "the mean of random sets. Pairs whose set is a single class do not count. At low shares, or "
            "with few classes, that is most pairs, and those that are left are the ones whose flips lie "
            "most evenly."
        )
        if atlas.embeddings is None:
            meaning = f"Left out: {NO_MEANING}."
    knowledge = (
        "How much a teacher knows that its student does not; to the right the teacher is better. No pair can "
        "be below the black line, since rho_pos - rho_neg = Delta_acc: only the height above it is for the "
        "models to decide. The orange lines are teachers that know nothing, and the ring is the least of "
        f"teachers weaker by {gap:g} points or more."
    )
    entropy = (
        "How evenly that lies over the classes; 1 is the same share of the flips in each. Few flips cannot "
        "reach it: the orange line is what as many flips, drawn uniformly, are expected to have. Between it "
        "and 1 lies what is due to small numbers, between it and the pairs what is due to the models."
    )
    zoo = (
        "The whole zoo, a row a student, a column a teacher. Within a family, models that disagree little "
        "(D, average linkage) are neighbours. Light rows are students beside whom others know much, light "
        "columns teachers that know much beside others; dark blocks on the diagonal err alike."
    )
    return {"1a": knowledge, "1b": entropy, "2a": classes, "2b": meaning, "heatmap": zoo}


def markdown(atlas: Atlas, table: pd.DataFrame, gap: float = 5.0) -> str:
    """The report: how it came out, how to read each figure, the models, and all numbers."""
    lines = [
        "# The atlas of complementary knowledge",
        "",
        f"Study {atlas.study}: {len(atlas.models):,} trained and {len(atlas.untrained)} untrained models "
        f"({len(atlas.failed)} failed), each run once on the {atlas.samples:,} samples and "
        f"{atlas.classes:,} classes of the {atlas.split} split. rho_pos is the share of samples that the "
        "teacher gets right and the student wrong, rho_neg the reverse, Delta_acc the teacher's minus the "
        "student's accuracy. [95 % intervals]. Here in percent and percentage points; the CSV and Parquet "
        "files hold fractions.",
        "",
    ]
    for subject, text, paper in conclusions(atlas, table, gap):
        lines.append(f"- **{subject}**: {text}" + (f" *The paper*: {paper}" if paper else ""))
    lines += ["", "## Figures"]
    for name, text in readings(atlas, gap).items():
        picture = [] if text.startswith("Left out") else [f"![{name}](complementarity_{name}.png)", ""]
        title = "Heat map" if name == "heatmap" else f"Fig. {name}"
        lines += ["", *picture, f"**{title}.** {text}"]
    lines += ["", "## Models", "", *_models(atlas)]
    for title, listed in [
        ("Accuracies off the published ones", deviations(atlas)),
        ("Failed", failures(atlas)),
    ]:
        if listed:
            lines += ["", f"## {title}", "", *(f"- {line}" for line in listed)]
    return "\n".join([*lines, "", "## All numbers", "", *_numbers(table), ""])


def _models(atlas: Atlas) -> list[str]:
    models = measures.by_model(atlas).sort_values("rho_pos_as_teacher", ascending=False, kind="stable")
    some = ""
    if len(models) > FULL:
        models, some = pd.concat([models.head(EACH), models.tail(EACH)]), f"The first and last {EACH}. "
    lines = [
        f"{some}In percent, by what they know as teachers: `as teacher` is the mean rho_pos over students, "
        "`as student` over teachers (what others know and it does not), `D` the mean disagreement. All "
        "models and columns are in `complementarity_models.csv`.",
        "",
        "| model | family | weights | accuracy | published | as teacher | as student | D |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    columns = ["accuracy", "published_accuracy", "rho_pos_as_teacher", "rho_pos_as_student", "disagreement"]
    for row in models.to_dict("records"):
        cells = ["-" if math.isnan(row[name]) else f"{100 * row[name]:.2f}" for name in columns]
        lines.append(row_of([row["name"], row["family"], row["source"], *cells]))
    return lines


def _numbers(table: pd.DataFrame) -> list[str]:
    lines = [
        "As in `complementarity_statements.csv`. Pairs share models: of M models there are M (M - 1) "
        "ordered pairs, but only M things were drawn. So the intervals come from a bootstrap of whole "
        "models. They tell how another draw of such models might differ, not other images or classes.",
        "",
        "| name | value | 95 % interval | n | unit | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in table.itertuples(index=False):
        value = "-" if math.isnan(row.value) else f"{row.value:.6g}"
        interval = "-" if math.isnan(row.low) else f"{row.low:.6g} to {row.high:.6g}"
        pair = f" ({row.teacher} teaching {row.student})" if row.teacher else ""
        lines.append(row_of([row.name, value, interval, f"{row.n}", row.unit, row.meaning + pair]))
    return lines


def console(atlas: Atlas, table: pd.DataFrame, gap: float = 5.0) -> str:
    """What the command prints, in 120 columns: the conclusions, and what was left out."""

    def wrapped(text: str, first: str = "", others: str = "  ") -> str:
        return textwrap.fill(
            text, 120, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
        )

    lines = [
        wrapped(
            f"atlas {atlas.study}: {len(atlas.models):,} models, {atlas.samples:,} samples and "
            f"{atlas.classes:,} classes of the {atlas.split} split; [95 % intervals by a bootstrap of models]"
        )
    ]
    for subject, text, paper in conclusions(atlas, table, gap):
        lines.append(wrapped(f"{subject}: {text.replace('`', '')}"))
        if paper:
            lines.append(wrapped(f"The paper: {paper}", "  ", "  "))
    failed = failures(atlas)
    if failed:
        lines.append(wrapped(f"Left out, failed: {len(failed)}, such as {failed[0]}"))
    return "\n".join(lines)


def report(atlas: Atlas, table: pd.DataFrame, out: Path, gap: float = 5.0) -> list[Path]:
    """Write the report, its tables and figures into the folder `out`; returns what was written.

    A figure that these results do not have is removed where it is left of older ones.

    Raises:
        ResultsError: the folder cannot be written.
    """
    models = measures.by_model(atlas)
    contents: dict = {
        "complementarity.md": markdown(atlas, table, gap),
        "complementarity_models.csv": models.to_csv(index=False),
        "complementarity_models.parquet": models.to_parquet,
        "complementarity_statements.csv": table.to_csv(index=False),
    }

    contents["complementarity_timm.csv"] = timm_results.csv(timm_results.of_models(atlas.models))
    for name, drawing in atlas_figures.draw(atlas, gap).items():
        contents |= style.files(name, drawing)
    return write(out, contents)
