"""Label smoothing and distillation: teachers that differ in smoothing alone, and what their students learn.

After Shen et al., "Is Label Smoothing Truly Incompatible with Knowledge Distillation" (arXiv 2104.00676),
beside Müller et al. (arXiv 1906.02629) and Chandrasegaran et al. (arXiv 2206.14532). Twins are two teachers
with the same recipe, seed and images, one of them with smoothed labels (α, in torch's convention): what
differs between their students is the smoothing. Pure functions on the recorded tables, and no text. What the
claims of the papers come to is in `analysis.smoothing_claims`. Left out on purpose: a teacher without a twin.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.exhibit import LeftOut
from analysis.inference import mcnemar_exact
from analysis.results import is_from_scratch

TRIALS = [  # columns of `trials`, beside those that every analysis reads
    *("student_source", "student_timm", "student_accuracy_after", "teacher_timm", "teacher_accuracy"),
    *("temperature", "student_temperature", "settings", "search", "spec", "data_sha256", "classes", "epochs"),
    *("teacher_share", "student_negative_log_likelihood_after"),
    *("student_calibration_error_after", "student_label_smoothing", "teacher_label_smoothing"),
    *("teacher_twin", "teacher_transfer_accuracy", "teacher_entropy_at_t", "teacher_off_target"),
    *("teacher_intra_class_variance", "student_intra_class_variance_after"),
]
READINGS = ("intra_class_variance", "true_class_variance", "true_class_sd")  # of 1 - S
_OF_BOTH = ("accuracy", "nll", *READINGS, "spread_ratio", "off_target_mass", "entropy")
MODELS = [  # of `models`
    *("model", "study", "status", "name", "timm", "source", "split", "samples", "classes", "data_sha256"),
    "class_imbalance",
    *("label_smoothing", "label_smoothing_source", "twin", "spec", *_OF_BOTH, "calibration_error", "brier"),
    *("intra_class_variance_low", "intra_class_variance_high", "confidence_q99"),
    *(f"transfer_{name}" for name in _OF_BOTH),
]
HISTORY = ["trial", "epoch", "loss", "teacher_entropy", "watched_accuracy", "watched_nll"]
CLASSES = ["model", "split", "class", "samples", "right"]
SOFT_LABELS = ["id", "split", "class", "other", "probability"]
APART = ("relative_distance", "separation", "equidistance")  # of two classes' centres
CENTRES = ["id", "split", "class", "other", *APART]
PROJECTIONS = ["id", "split", "plane", "class", "index", "x", "y"]
UNIT = ["study", "twin", "student", "method", "seed"]
SIDES = ("hard", "smooth")
ATLAS, TRIALS_AGAIN = "jobs/atlas.py STUDY --measure", "running its trials again"  # what gives numbers
SIMILAR = 0.1  # of the unordered pairs of classes, the most confused ones, count as similar


@dataclass(frozen=True)
class Tables:
    """What results hold of label smoothing; a table or a column that they lack is empty, or null.

    Attributes:
        trials: finished ones, as `prepared` makes them.
        models: of the atlases, with `MODELS`.
        history, model_classes, soft_labels, centres: with `HISTORY`, `CLASSES`, `SOFT_LABELS`, `CENTRES`.
        right: of trials whose predictions are there, which samples the student got right afterwards, bool, by
            trial, each in the order of their indices.
    """

    trials: pd.DataFrame
    models: pd.DataFrame
    history: pd.DataFrame
    model_classes: pd.DataFrame
    soft_labels: pd.DataFrame
    centres: pd.DataFrame
    right: dict[str, np.ndarray]


def needed(table: pd.DataFrame, why: str) -> pd.DataFrame:
    """The table.

    Raises:
        LeftOut: it is empty; says why.
    """
    if table.empty:
        raise LeftOut(why)
    return table


# --- trials ---------------------------------------------------------------------------------------


def prepared(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished trials of one teacher or none, with what they were taught by.

    Columns beside: `objective`, `smoothing` (α of a student's own labels, with `xe`; 0 elsewhere), `scratch`
    (whether the student is from scratch), `alpha` and `twin` (the teacher's), `accuracy` (the student's
    afterwards) and `plain` (whether it distils with both sides at one temperature).

    Args:
        trials: with `TRIALS`; combinations of a search are left out.
    """
    done = trials[(trials["status"] == "ok") & trials["search"].isna() & trials["combine"].isna()]
    done = done.reset_index(drop=True)
    settings = [json.loads(text) if isinstance(text, str) else {} for text in done["settings"]]
    spec = [json.loads(text) if isinstance(text, str) else {} for text in done["spec"]]
    named = zip(spec, done["method"], strict=True)
    table = done.assign(
        objective=[of.get("method", {}).get("method", name) for of, name in named],
        smoothing=[float(of.get("label_smoothing") or 0) for of in settings],
        scratch=is_from_scratch(done),
        alpha=done["teacher_label_smoothing"].astype(float),
        twin=done["teacher_twin"],
        accuracy=done["student_accuracy_after"].astype(float),
        temperature=done["temperature"].astype(float),
    )
    own = table["student_temperature"].astype(float)
    return table.assign(plain=own.isna() | (own == table["temperature"]))


def main_alpha(tables: Tables) -> float:
    """The α > 0 that most smoothed teachers of trials have; without any, that most smoothed models have.

    Raises:
        LeftOut: nothing is smoothed.
    """
    teachers = tables.trials.drop_duplicates(["study", "teacher"])["alpha"]
    models = tables.models["label_smoothing"].astype(float)
    for known in (teachers[teachers > 0], models[models > 0]):
        if len(known):
            counts = known.value_counts()
            return float(counts[counts == counts.max()].index.min())
    raise LeftOut("no teacher is known to be trained with smoothed labels (`recipe.label_smoothing`)")


def distilled(tables: Tables, *, scratch: bool = True) -> pd.DataFrame:
    """Trials by KL alone, without hard labels, of students from scratch or of trained ones."""
    trials = tables.trials
    chosen = (trials["objective"] == "kl") & trials["plain"] & (trials["scratch"] == scratch)
    who = "student from scratch" if scratch else "trained student"
    return needed(
        trials[chosen & trials["twin"].notna()], f"no {who} was taught by KL by a teacher with a twin"
    )


def side_by_side(table: pd.DataFrame, keys: list[str], alpha: float, smoothing: str) -> pd.DataFrame:
    """Rows of smoothed and of unsmoothed twins, one row a pair: `x_hard` and `x_smooth` of each column.

    Args:
        table: rows of teachers or of their students.
        keys: what the two share, their twin among it; rows without one of these have no pair.
        alpha: of the smoothed ones.
        smoothing: the column that says it.
    """
    table = table.dropna(subset=keys)  # which would be merged with each other
    values = table[smoothing].astype(float)
    hard, smooth = table[values == 0], table[np.isclose(values, alpha)]
    return hard.merge(smooth, on=keys, suffixes=[f"_{side}" for side in SIDES])


def student_pairs(trials: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Students that differ in their teacher's smoothing alone, with the `difference` of their accuracies."""
    pairs = side_by_side(trials, [*UNIT, "temperature"], alpha, "alpha")
    pairs["difference"] = pairs["accuracy_smooth"] - pairs["accuracy_hard"]
    return needed(pairs, "no smoothed teacher has an unsmoothed twin that taught the same student")


def lonely(tables: Tables) -> int:
    """How many teachers of trials are left out since they have no twin of another smoothing."""
    trials = tables.trials[tables.trials["teacher"].notna()]
    teachers = trials.drop_duplicates(["study", "teacher"])
    levels = teachers.groupby(["study", "twin"])["alpha"].transform("nunique")
    return int((levels.fillna(0) < 2).sum())


def mcnemar(pairs: pd.DataFrame, right: dict[str, np.ndarray]) -> pd.DataFrame:
    """Exact McNemar tests between the two students of each pair, on the same evaluation images.

    Returns:
        `pairs` with `gained` (samples that the smoothed teacher's student alone gets right), `lost` (the
        other's) and `p_value`; NaN where predictions are not there.
    """
    rows = []
    for hard, smooth in zip(pairs["trial_hard"], pairs["trial_smooth"], strict=True):
        if hard not in right or smooth not in right or len(right[hard]) != len(right[smooth]):
            rows.append((np.nan, np.nan, np.nan))
            continue
        gained = int((right[smooth] & ~right[hard]).sum())
        lost = int((right[hard] & ~right[smooth]).sum())
        rows.append((gained, lost, float(mcnemar_exact(gained, lost))))
    found = pd.DataFrame(rows, columns=["gained", "lost", "p_value"], index=pairs.index)
    return pairs.join(found)


def by_temperature(trials: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Pairs of students at each temperature beside their own at T = 1.

    Columns beside those of `student_pairs`: `first_hard` and `first_smooth` (accuracies at T = 1),
    `change_hard` and `change_smooth` (accuracies minus these), and the `interaction`, the second change minus
    the first.
    """
    pairs = student_pairs(trials, alpha)
    keys = ["study", "twin", "student", "seed"]
    names = {f"accuracy_{side}": f"first_{side}" for side in SIDES}
    first = pairs[pairs["temperature"] == 1].drop_duplicates(keys)[[*keys, *names]].rename(columns=names)
    table = pairs.merge(first, on=keys)
    for side in SIDES:
        table[f"change_{side}"] = table[f"accuracy_{side}"] - table[f"first_{side}"]
    return table.assign(interaction=table["change_smooth"] - table["change_hard"])


def at_equal_softness(trials: pd.DataFrame, alpha: float, column: str) -> pd.DataFrame:
    """A number of the unsmoothed twin, at the temperature at which it is as soft as the smoothed one at T =
    1.

    Softness is γ (`teacher_off_target`). Between two temperatures the number is interpolated linearly in γ.

    Returns:
        One row a (study, twin, student, seed) whose γ lies between those of its unsmoothed twin at two
        temperatures: `smooth` (the number at T = 1), `hard` (at that γ) and `gamma`.
    """
    keys = ["study", "twin", "student", "seed"]
    known = trials.dropna(subset=["teacher_off_target", column])
    known = known.astype({"teacher_off_target": float, column: float})
    hard = known[known["alpha"] == 0].sort_values("teacher_off_target")
    smooth = known[np.isclose(known["alpha"], alpha) & (known["temperature"] == 1)]
    curves = dict(tuple(hard.groupby(keys)))
    rows = []
    for row in smooth.to_dict("records"):
        mine, gamma = curves.get(tuple(row[key] for key in keys)), row["teacher_off_target"]
        if mine is None or not mine["teacher_off_target"].min() <= gamma <= mine["teacher_off_target"].max():
            continue
        found = np.interp(gamma, mine["teacher_off_target"], mine[column])
        rows.append({**{key: row[key] for key in keys}, "smooth": row[column], "hard": found, "gamma": gamma})
    return pd.DataFrame(rows, columns=[*keys, "smooth", "hard", "gamma"])


def losses(tables: Tables, trials: pd.DataFrame) -> pd.DataFrame:
    """The epochs of trials by KL alone, with the trials' columns beside.

    `kl` (the loss over T²) and `entropy` of the teacher, and their sum, the `cross_entropy` (nats, at T, on
    views of the transfer set); `watched_error` and `watched_nll` of the student on the split that the study
    watches. NaN where it is not recorded.
    """
    table = trials.drop(columns=HISTORY[1:], errors="ignore").merge(tables.history, on="trial")
    numbers = table[HISTORY[2:]].astype(float)
    kl, entropy = numbers["loss"] / table["temperature"] ** 2, numbers["teacher_entropy"]
    return table.assign(
        kl=kl,
        entropy=entropy,
        cross_entropy=kl + entropy,
        watched_error=1 - numbers["watched_accuracy"],
        watched_nll=numbers["watched_nll"],
    ).sort_values(["trial", "epoch"], ignore_index=True)


def last_epochs(tables: Tables, trials: pd.DataFrame, column: str, why: str) -> pd.DataFrame:
    """The last of `losses` of each trial in which a number is known.

    Raises:
        LeftOut: it is known of none; says why.
    """
    known = losses(tables, trials).dropna(subset=column)
    return needed(known, why).groupby("trial", as_index=False).last()


# --- models ---------------------------------------------------------------------------------------


def teachers(tables: Tables) -> pd.DataFrame:
    """The models of the studies whose teachers distil; all models where nothing is distilled."""
    models = needed(tables.models, "no atlas is recorded; jobs/atlas.py STUDY makes it")
    studies = tables.trials.loc[tables.trials["twin"].notna(), "study"].unique()
    mine = models[models["study"].isin(studies)]
    return mine if len(mine) else models


def model_twins(models: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Unsmoothed and smoothed models of each twin, one row a pair, as `side_by_side` makes it."""
    known = models.dropna(subset=["twin", "label_smoothing"])
    pairs = side_by_side(known, ["study", "twin"], alpha, "label_smoothing")
    return needed(pairs, "no smoothed model of an atlas has an unsmoothed twin beside it")


def change(pairs: pd.DataFrame, column: str, again: str = ATLAS, sides: tuple = SIDES) -> pd.DataFrame:
    """The pairs of which both sides' number is known, with their `difference`, the second minus the first.

    Raises:
        LeftOut: it is known of none; says what gives it.
    """
    known = pairs.dropna(subset=[f"{column}_{side}" for side in sides])
    needed(known, f"{column} is not recorded; {again} gives it")
    first, second = (known[f"{column}_{side}"].astype(float) for side in sides)
    return known.assign(difference=second - first)


# --- classes --------------------------------------------------------------------------------------


def one_split(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the evaluation split where there are any, else of the first split by name."""
    splits = sorted(table["split"].dropna().unique(), key=lambda name: (name != "evaluation", name))
    return table[table["split"] == splits[0]] if splits else table


def confusion(soft_labels: pd.DataFrame) -> pd.DataFrame:
    """How much each unordered pair of classes is taken for each other: `probability`, mean of both ways.

    Args:
        soft_labels: of some models, of one split.

    Returns:
        Indexed by (class, other), class below other.
    """
    off = soft_labels[soft_labels["class"] != soft_labels["other"]]
    low, high = (getattr(np, name)(off["class"], off["other"]) for name in ("minimum", "maximum"))
    return off.assign(**{"class": low, "other": high}).groupby(["class", "other"])[["probability"]].mean()


def similar_pairs(tables: Tables) -> pd.DataFrame:
    """Of each twin the similar classes: the tenth of all pairs that *other* models confuse most.

    The others are the unsmoothed models of other twins of the study, so that no pair is chosen by the models
    that are compared. At least one pair; none of a twin that has no others.

    Returns:
        One row a (study, twin, class, other), class below other.
    """
    models = tables.models.dropna(subset="twin")
    hard = models[models["label_smoothing"].astype(float) == 0]
    labels = one_split(tables.soft_labels).merge(
        hard[["model", "study", "twin"]], left_on="id", right_on="model"
    )
    found = []
    for study, twin in models[["study", "twin"]].drop_duplicates().itertuples(index=False):
        of_others = labels[(labels["study"] == study) & (labels["twin"] != twin)]
        if len(of_others):
            table = confusion(of_others).sort_values("probability", ascending=False, kind="stable")
            most = table.index[: max(1, round(SIMILAR * len(table)))]
            found.append(most.to_frame(index=False).assign(study=study, twin=twin))
    keys = ["study", "twin", "class", "other"]
    return pd.concat(found)[keys] if found else pd.DataFrame(columns=keys)


def with_kind(apart: pd.DataFrame, similar: pd.DataFrame) -> pd.DataFrame:
    """Pairs of classes of twins with `pairs`, 'similar' or 'other'; without those of a twin of which none is
    known to be similar.

    Args:
        apart: with `study`, `twin`, `class` and `other`.
        similar: as `similar_pairs` gives them.
    """
    known = apart.merge(similar[["study", "twin"]].drop_duplicates(), on=["study", "twin"])
    found = known.merge(similar, on=["study", "twin", "class", "other"], how="left", indicator="pairs")
    return found.assign(pairs=np.where(found["pairs"] == "both", "similar", "other"))


def distances(centres: pd.DataFrame) -> pd.DataFrame:
    """What is recorded of unordered pairs of classes, class below other: means of both ways.

    Args:
        centres: of models or trials, of one split, with `CENTRES`.

    Returns:
        One row a (id, class, other) with `APART`.
    """
    both = centres[centres["class"] != centres["other"]]
    low, high = (getattr(np, name)(both["class"], both["other"]) for name in ("minimum", "maximum"))
    table = both.assign(**{"class": low, "other": high}).astype(dict.fromkeys(APART, float))
    return table.groupby(["id", "class", "other"], as_index=False)[[*APART]].mean()


def centre_changes(tables: Tables, alpha: float) -> pd.DataFrame:
    """How class centres of smoothed models lie beside those of their unsmoothed twins.

    Returns:
        One row a (study, twin, `pairs`: 'similar' or 'other'): means of `APART` over these pairs of classes,
        of both sides (`separation_hard`, `separation_smooth`, ...), and how many pairs (`n`).
    """
    centres = needed(
        one_split(tables.centres), "no centres are recorded; `geometry` in the study, and jobs/atlas.py STUDY"
    )
    apart = distances(centres)
    twins, sides = model_twins(teachers(tables), alpha), []
    for side in SIDES:
        mine = twins[["study", "twin", f"model_{side}"]].rename(columns={f"model_{side}": "id"})
        table = with_kind(apart.merge(mine, on="id"), similar_pairs(tables))
        groups = table.groupby(["study", "twin", "pairs"])
        means = groups[[*APART]].mean().add_suffix(f"_{side}")
        sides.append(means if sides else means.assign(n=groups.size()))
    why = "no twins have centres, and other unsmoothed models that say which classes are similar"
    return needed(sides[0].join(sides[1], how="inner").reset_index(), why)


def label_orders(tables: Tables, alpha: float) -> pd.DataFrame:
    """Whether a class's other classes keep their order under smoothing: Spearman's ρ of their mean
    probabilities.

    Returns:
        One row a (study, twin): `between_twins`, of the smoothed model with its unsmoothed twin, mean over
        classes, and `between_seeds`, of that twin with the unsmoothed models of other twins.
    """
    soft = needed(
        one_split(tables.soft_labels), "no soft labels are recorded; jobs/atlas.py STUDY --measure does it"
    )
    soft = soft[soft["class"] != soft["other"]]
    wide = {
        model: mine.pivot_table(index="class", columns="other", values="probability")
        for model, mine in soft.groupby("id")
    }
    hard = tables.models[tables.models["label_smoothing"].astype(float) == 0]
    rows = []
    for pair in model_twins(teachers(tables), alpha).itertuples():
        others = hard[(hard["study"] == pair.study) & (hard["twin"] != pair.twin)]["model"]
        if pair.model_hard not in wide or pair.model_smooth not in wide:
            continue
        own = wide[pair.model_hard]
        seeds = [_order_kept(own, wide[other]) for other in others if other in wide]
        row = {
            "study": pair.study,
            "twin": pair.twin,
            "between_twins": _order_kept(own, wide[pair.model_smooth]),
        }
        rows.append(row | {"between_seeds": float(np.mean(seeds)) if seeds else np.nan})
    table = pd.DataFrame(rows, columns=["study", "twin", "between_twins", "between_seeds"])
    return needed(
        table.dropna(), "no two unsmoothed models of one study have soft labels beside a smoothed one"
    )


def _order_kept(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Spearman's ρ of two models' rows, over the classes that both name; mean over classes."""
    first, second = first.align(second, join="inner")
    known = first.notna() & second.notna()
    ranks = [table.where(known).rank(axis=1) for table in (first, second)]
    return float(ranks[0].corrwith(ranks[1], axis=1).mean())


def diffusion(tables: Tables, alpha: float) -> pd.DataFrame:
    """The diffusion index η of students, similar and other classes apart (ours, after arXiv 2206.14532).

    η(c; T) = (δ_1 - δ_T) / δ_1, δ_T the mean relative distance of class c's centre to its similar (or other)
    classes in the student that was taught at T. The published index has another, unknown normalisation.

    Returns:
        One row a (study, twin, student, seed, side, temperature > 1): `similar` and `other`, means over the
        classes that have similar ones.
    """
    trials = distilled(tables)
    trials = trials[(trials["alpha"] == 0) | np.isclose(trials["alpha"], alpha)]
    centres = one_split(tables.centres[tables.centres["id"].isin(trials["trial"])])
    needed(centres, "no centres of students are recorded; `geometry` in the study, and its trials again")
    keys = ["study", "twin", "student", "seed", "alpha"]
    apart = distances(centres)
    apart = apart.merge(trials[["trial", *keys, "temperature"]], left_on="id", right_on="trial")
    apart = with_kind(apart, similar_pairs(tables))
    # A pair of classes says something of both.
    both = [apart.assign(own=apart[name]) for name in ("class", "other")]
    means = (
        pd.concat(both).groupby([*keys, "temperature", "own", "pairs"])["relative_distance"].mean().unstack()
    )
    means = means.reindex(columns=["similar", "other"]).dropna(subset="similar").reset_index("temperature")
    first = means[means["temperature"] == 1].drop(columns="temperature")
    later = means[means["temperature"] > 1].set_index("temperature", append=True)
    index = (1 - later / first).dropna(subset="similar").groupby([*keys, "temperature"]).mean().reset_index()
    needed(index, "no student's centres at T > 1 are recorded beside those at T = 1")
    return index.assign(side=np.where(index.pop("alpha") == 0, *SIDES))


# --- several studies ------------------------------------------------------------------------------


def series(models: pd.DataFrame) -> pd.Series:
    """Of studies that are called alike but for a number at the end, and differ in their classes, the common
    name.

    Such as 'classes' of 'classes_2' and 'classes_10'; null of all others.
    """
    name = models["study"].astype(str).str.replace(r"_\d+$", "", regex=True)
    return name.where(models.groupby(name)["classes"].transform("nunique") > 1)


def long_tails(tables: Tables, alpha: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Twins that were trained under a long tail, and those of its control: the same but for the tail.

    The control is a study of the same networks, classes and evaluation images without imbalance, and of no
    `series`. Both as `model_twins` makes them, with `imbalance` and the `difference` of accuracies.

    Raises:
        LeftOut: there is none, or no control.
    """
    imbalance = tables.models["class_imbalance"].astype(float).fillna(1.0)
    tailed = tables.models[imbalance > 1]
    needed(tailed, "no study of these has `data.splits.imbalance`; name its results beside")
    same = ["timm", "classes", "samples", "data_sha256"]
    others = tables.models[(imbalance <= 1) & series(tables.models).isna()]
    control = others.merge(tailed[same].drop_duplicates(), on=same)
    needed(control, "no study without imbalance has the same networks, classes and evaluation images")
    pairs = [change(model_twins(table, alpha), "accuracy") for table in (tailed, control)]
    return tuple(
        table.assign(imbalance=table["class_imbalance_hard"].astype(float).fillna(1.0)) for table in pairs
    )


def by_class_size(tables: Tables, alpha: float) -> pd.DataFrame:
    """What smoothing changes under a long tail in each class, by how many images of it the transfer set has.

    Returns:
        One row a (study, class): `images` of the transfer set, which has the tail of the training images,
        `part` ('head', 'middle', 'tail': thirds of the classes), `twins`, and means over twins of the
        accuracies `hard` and `smooth` on the evaluation split, with their `difference`.
    """
    tailed, _ = long_tails(tables, alpha)
    classes = tables.model_classes
    sizes = classes[classes["split"] == "transfer"].groupby(["model", "class"])["samples"].first()
    shown = one_split(classes[classes["split"] != "transfer"])
    accuracy = (shown["right"] / shown["samples"]).set_axis([shown["model"], shown["class"]])
    rows = []
    for pair in tailed.itertuples():
        both = [
            accuracy[accuracy.index.get_level_values(0) == m] for m in (pair.model_hard, pair.model_smooth)
        ]
        table = pd.DataFrame({s: one.droplevel(0) for s, one in zip(SIDES, both, strict=True)})
        images = sizes[sizes.index.get_level_values(0) == pair.model_hard].droplevel(0)
        rows.append(table.assign(images=images, study=pair.study).rename_axis("class").reset_index())
    table = pd.concat(rows).dropna()
    needed(table, "accuracies and sizes by class are not recorded; jobs/atlas.py STUDY --measure does it")
    groups = table.groupby(["study", "class"])
    found = groups[["images", *SIDES]].mean().assign(twins=groups.size()).reset_index()
    rank = found.groupby("study")["images"].rank(ascending=False, method="first")
    share = (rank - 1) / found.groupby("study")["images"].transform("size")
    found["part"] = np.select([share < 1 / 3, share < 2 / 3], ["head", "middle"], "tail")
    found["difference"] = found["smooth"] - found["hard"]
    return found.sort_values(["study", "images"], ascending=[True, False], ignore_index=True)


def by_classes(tables: Tables, alpha: float) -> pd.DataFrame:
    """Twins of a `series` of studies, with the `difference` of accuracies; its name is `series_hard`."""
    models = tables.models.assign(series=series(tables.models)).dropna(subset="series")
    needed(models, "no studies of these differ in their number of classes; name their results beside")
    return change(model_twins(models, alpha), "accuracy")


def by_classes_at_equal_share(tables: Tables) -> pd.DataFrame:
    """The same of pairs whose α/K, the share of each other class, is one number throughout a series.

    The number that most sizes of the series have; with it smoothing costs as much of the target everywhere.
    """
    models = tables.models.assign(series=series(tables.models)).dropna(subset="series")
    levels = models["label_smoothing"].astype(float)
    parts = [
        side_by_side(models.dropna(subset=["twin"]), ["study", "twin"], alpha, "label_smoothing")
        for alpha in sorted(levels[levels > 0].unique())
    ]
    pairs = pd.concat(parts, ignore_index=True) if parts else models.head(0)
    needed(pairs, "no smoothed models of studies that differ in their classes")
    share = (pairs["label_smoothing_smooth"].astype(float) / pairs["classes_hard"]).round(6)
    pairs = pairs.assign(share=share)
    sizes = pairs.groupby(["series_hard", "share"])["classes_hard"].transform("nunique")
    most = sizes.groupby(pairs["series_hard"]).transform("max")
    pairs = pairs[(sizes == most) & (sizes > 1)]
    needed(pairs, "no studies that differ in their classes have models of one α/K")
    return change(pairs, "accuracy")


def longer(tables: Tables) -> pd.DataFrame:
    """Unsmoothed models that differ in their epochs alone, one row a pair: `x_less` and `x_more`."""
    return _that_differ(tables, "epochs", lambda phase: phase.pop("epochs", 0))


def cut_mixed(tables: Tables) -> pd.DataFrame:
    """Unsmoothed models that differ in CutMix alone (Yun et al., arXiv 1905.04899), likewise."""

    def phases(phase: dict) -> int:
        given = phase.get("transforms", [])
        phase["transforms"] = [one for one in given if "cutmix" not in one]
        return len(given) - len(phase["transforms"])

    return _that_differ(tables, "CutMix", phases)


def _that_differ(tables: Tables, what: str, taken: Callable[[dict], int]) -> pd.DataFrame:
    """Unsmoothed models that differ in one thing alone, one row a pair: `x_less` and `x_more`.

    What is compared is the recorded definition of the model, without its name and that thing, on the same
    images. The two may be of different studies; a model that several have counts once.

    Args:
        what: they differ in.
        taken: takes it out of a phase, and says how much of it there was.
    """
    models = tables.models
    known = models[(models["label_smoothing"].astype(float) == 0) & models["spec"].notna()]
    recipes, amounts = [], []
    for text in known["spec"]:
        content = json.loads(text)
        amounts.append(sum(map(taken, content.get("weights", {}).get("phases", ()))))
        kept = {name: value for name, value in content.items() if name != "name"}
        recipes.append(json.dumps(kept, sort_keys=True))
    same = ["recipe", "data_sha256", "samples", "classes", "class_imbalance"]
    known = known.assign(recipe=recipes, amount=amounts).drop_duplicates([*same, "amount"])
    pairs = known.merge(known, on=same, suffixes=["_less", "_more"])
    pairs = pairs[pairs["amount_less"] < pairs["amount_more"]]
    return needed(pairs, f"no unsmoothed models of an atlas differ in {what} alone")
