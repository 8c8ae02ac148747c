"""What makes a good augmentation in distillation: how the teacher's deviation goes with the student's loss.

After arXiv 2012.02909: a scheme makes second images, on which the student imitates the teacher. T. stddev
(its Eqs. 9 and 10) says how much the teacher's mean probabilities differ between sets of images; the paper
finds that the student's test loss is lower where it is. A point is a scheme: a method of one student and
teacher, over its seeds. Pure functions on data frames, and no text. Trials are finished ones of one teacher
or none.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from scipy import stats

from analysis import reference
from analysis.inference import benjamini_hochberg, correlation, crossed_bootstrap
from analysis.measures import PAIR
from analysis.methods import by_order_of_methods

MODELS = ["student", "teacher"]
SCHEME = ["augmentation", "augmentation_pick", "augmentation_draw"]
PREDICTORS = (  # of the student's loss, the paper's first
    "teacher_stddev",
    "teacher_stddev_augmented",
    "teacher_covariance",
    "teacher_entropy_augmented",
    "teacher_entropy_stddev",
)
KINDS = ("pearson", "spearman", "kendall")
COLUMNS = [  # of `trials`, which older results have not
    *SCHEME,
    *PREDICTORS,
    *("teacher_stddev_error", "teacher_stddev_windows", "teacher_stddev_samples", "teacher_entropy"),
    "student_scaled_negative_log_likelihood_after",
]
LOSS = "student_negative_log_likelihood_after"
OUTCOMES = ("loss", "scaled_loss", "error")  # of a student: what T. stddev may go with
ALL = "all"  # in place of a name: over all pairs
LONGER = re.compile(r"_x\d+$")  # how methods end that are others', trained for longer
NEEDED = 4  # schemes, of which a correlation says something
PUBLISHED = {  # the paper's names of schemes, by ours: transforms, sorted, and what is picked by
    ("identity", None): "Identity",
    ("flip", None): "Flip",
    ("flip, shift", None): "Flip+Crop",
    ("cutout", None): "Cutout",
    ("autoaugment", None): "AutoAugment",
    ("mixup", None): "Mixup",
    ("cutmix", None): "CutMix",
    ("cutmix", "student_entropy"): "CutMixPick (S. ent.)",
    ("cutmix", "teacher_entropy"): "CutMixPick (T. ent.)",
}
IN_TABLES = {  # Tables 1 and 2: their methods, by ours
    (None, None): "KD",
    ("cutmix", None): "KD+CutMix",
    ("cutmix", "kl"): "KD+CutMixPick",
}
SHUFFLE = {"shufflenetv2": "shufflev2"}  # a network that the paper calls otherwise


# --- points ---------------------------------------------------------------------------------------


def schemes(trials: pd.DataFrame) -> pd.DataFrame:
    """Each method of a student and a teacher, and each number of epochs, over its seeds.

    Columns: `method`, `student`, `teacher`, `epochs`; those of `SCHEME`; `data`, `student_timm`,
    `teacher_timm`; `seeds`; `accuracy` and `loss` (nats) of the student afterwards, on the evaluation split,
    each with its standard deviation over seeds (`accuracy_sd`, `loss_sd`; n - 1); `scaled_loss`, the loss
    after temperature scaling; those of `PREDICTORS`, and `teacher_stddev_error`, of a trial: means over
    seeds. `bound` is T. stddev of a teacher that is certain, with independent images a window,
    sqrt(1/C (1 - 1/C) / n), and `bound_of_copies` that where copies are as their originals.

    Args:
        trials: with `COLUMNS`.
    """
    numbers = ["accuracy", "loss", "scaled_loss", *PREDICTORS, "teacher_stddev_error"]
    bounds = ["bound", "bound_of_copies"]
    share = 1 / trials["classes"].astype(float)
    least = np.sqrt(share * (1 - share) / trials["teacher_stddev_samples"].astype(float))
    values = trials.assign(
        accuracy=trials["student_accuracy_after"],
        loss=trials[LOSS],
        scaled_loss=trials["student_scaled_negative_log_likelihood_after"],
        bound=least,
        bound_of_copies=np.sqrt(2) * least,
    )
    values = values.astype(dict.fromkeys(numbers, float))
    groups = values.groupby([*PAIR, "epochs"], dropna=False)
    table = groups[[*numbers, *bounds]].mean()
    table.insert(0, "seeds", groups["seed"].nunique())
    for name in ("accuracy", "loss"):
        table[f"{name}_sd"] = groups[name].std()
    about = [*SCHEME, "data", "student_timm", "teacher_timm"]
    table[about] = groups[about].first()
    return by_order_of_methods(table.reset_index(), [*MODELS, "epochs", "method"])


def points(table: pd.DataFrame) -> pd.DataFrame:
    """The schemes that have a T. stddev and a loss: of each pair those of one number of epochs.

    It is the number that most of the pair's schemes have, of several the smallest.

    Args:
        table: as `schemes` makes it.
    """
    known = table.dropna(subset=["teacher_stddev", "loss"])
    counts = known.groupby([*MODELS, "epochs"])["method"].transform("size")
    known = known[counts == counts.groupby([known[name] for name in MODELS]).transform("max")]
    least = known.groupby(MODELS)["epochs"].transform("min")
    return known[known["epochs"] == least].reset_index(drop=True)


def is_cutmix(table: pd.DataFrame) -> pd.Series:
    """Whether a scheme is CutMix or a relative of it."""
    return table["augmentation"].astype(str).str.contains("cutmix")


# --- correlations ---------------------------------------------------------------------------------


def correlations(of: pd.DataFrame) -> pd.DataFrame:
    """How each predictor goes with the student's loss over the schemes of a pair.

    Args:
        of: as `points` makes them.

    Returns:
        A row a (student, teacher, predictor, coefficient): `correlation` with its 95 % interval, `p_value`,
        `q_value` (Benjamini-Hochberg over the pairs) and `n` schemes; where there are several pairs, then a
        row for all (`ALL`): the mean of Fisher's z over them, with an interval over students and teachers.
    """
    rows = []
    for (student, teacher), mine in of.groupby(MODELS, sort=False):
        for predictor in PREDICTORS:
            for kind in KINDS:
                found = correlation(mine[predictor], mine["loss"], kind)
                about = {"student": student, "teacher": teacher, "predictor": predictor}
                rows.append({**about, "coefficient": kind, **_named(found)})
    table = pd.DataFrame(rows)
    groups = table.groupby(["predictor", "coefficient"], sort=False)
    table["q_value"] = groups["p_value"].transform(lambda p: benjamini_hochberg(p.to_numpy()))
    known = table.dropna(subset="correlation")
    summaries = [
        {"student": ALL, "teacher": ALL, "predictor": predictor, "coefficient": kind, **_over_pairs(mine)}
        for (predictor, kind), mine in known.groupby(["predictor", "coefficient"], sort=False)
        if len(mine) > 1
    ]
    return pd.concat([table, pd.DataFrame(summaries)], ignore_index=True) if summaries else table


def _named(found) -> dict[str, float]:
    bounds = {"correlation_low": found.low, "correlation_high": found.high}
    return {"correlation": found.value, **bounds, "p_value": found.p, "n": found.n}


def _over_pairs(rows: pd.DataFrame) -> dict[str, float]:
    # A perfect correlation of ranks has no finite z: that of its bound's distance stands in for it.
    z = np.arctanh(rows["correlation"].clip(-0.999, 0.999))
    low, high = crossed_bootstrap(z.to_numpy(), rows["student"], rows["teacher"])
    bounds = {"correlation_low": np.tanh(low), "correlation_high": np.tanh(high)}
    return {"correlation": np.tanh(z.mean()), **bounds, "n": len(rows)}


def robustness(of: pd.DataFrame) -> pd.DataFrame:
    """Pearson's correlation of T. stddev and loss, of each pair, with schemes left out.

    Returns:
        A row a (student, teacher, left_out): with none, without CutMix and its relatives, and without each
        scheme; `correlation` with its interval, `p_value` and `n`.
    """
    rows = []
    for (student, teacher), mine in of.groupby(MODELS, sort=False):
        parts = {"none": mine, "CutMix and its relatives": mine[~is_cutmix(mine)]}
        parts |= {scheme: mine[mine["method"] != scheme] for scheme in mine["method"]}
        for left_out, part in parts.items():
            found = correlation(part["teacher_stddev"], part["loss"])
            rows.append({"student": student, "teacher": teacher, "left_out": left_out, **_named(found)})
    return pd.DataFrame(rows)


def outcomes(of: pd.DataFrame) -> pd.DataFrame:
    """How T. stddev goes with a student's loss, with that after temperature scaling, and with its error.

    A loss is smaller, too, where a student is only less sure of itself: the second one takes that out.

    Returns:
        A row a (student, teacher, outcome) of `OUTCOMES`: Pearson's `correlation` with its interval,
        `p_value` and `n`; where there are several pairs, then one for all, as `correlations` has it.
    """
    of, rows = of.assign(error=1 - of["accuracy"]), []
    for (student, teacher), mine in of.groupby(MODELS, sort=False):
        for outcome in OUTCOMES:
            found = correlation(mine["teacher_stddev"], mine[outcome])
            rows.append({"student": student, "teacher": teacher, "outcome": outcome, **_named(found)})
    known = pd.DataFrame(rows).dropna(subset="correlation")
    for outcome, mine in known.groupby("outcome", sort=False):
        if len(mine) > 1:
            rows.append({"student": ALL, "teacher": ALL, "outcome": outcome, **_over_pairs(mine)})
    return pd.DataFrame(rows)


# --- what to choose -------------------------------------------------------------------------------


def regret(of: pd.DataFrame) -> pd.DataFrame:
    """What choosing a scheme before any student is trained costs, in the student's loss.

    Returns:
        A row a (student, teacher): `chosen`, the scheme of least T. stddev, and `best`, that of least loss;
        `regret`, the loss of the chosen one minus the best's; `regret_of_cutmix`, that of always taking
        CutMix (NaN without), and `regret_difference`, the first minus the second; `accuracy_regret` and
        `accuracy_regret_of_cutmix`, the best accuracy minus that of the choice; `n` schemes. With several
        pairs a row of means (`ALL`), with 95 % intervals over students and teachers.
    """
    rows = []
    for (student, teacher), mine in of.groupby(MODELS, sort=False):
        chosen, best = (mine.loc[mine[name].idxmin()] for name in ("teacher_stddev", "loss"))
        plain = mine[(mine["augmentation"] == "cutmix") & mine["augmentation_pick"].isna()]
        cutmix = plain[["loss", "accuracy"]].mean()
        choices = {"": chosen, "_of_cutmix": cutmix}
        row = {"student": student, "teacher": teacher, "chosen": chosen["method"], "best": best["method"]}
        row |= {f"regret{name}": one["loss"] - best["loss"] for name, one in choices.items()}
        row["regret_difference"] = row["regret"] - row["regret_of_cutmix"]
        most = mine["accuracy"].max()
        row |= {f"accuracy_regret{name}": most - one["accuracy"] for name, one in choices.items()}
        rows.append({**row, "n": len(mine)})
    table = pd.DataFrame(rows)
    rows += [_mean_regret(table)] * (len(table) > 1)
    bounds = [f"{name}_{end}" for name in table if "regret" in name for end in ("low", "high")]
    return pd.DataFrame(rows, columns=[*table, *bounds])


def _mean_regret(table: pd.DataFrame) -> dict:
    row = {"student": ALL, "teacher": ALL, "n": len(table)}
    for name in [column for column in table if "regret" in column]:
        known = table.dropna(subset=name)
        can_be = (-np.inf if "difference" in name else 0.0, np.inf)  # nothing is better than the best
        of = known[name].to_numpy(), known["student"], known["teacher"]
        bounds = crossed_bootstrap(*of, bounds=can_be)
        row |= {name: known[name].mean(), f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
    return row


# --- tables ---------------------------------------------------------------------------------------


def against_identity(trials: pd.DataFrame) -> pd.DataFrame:
    """`schemes`, and what each differs by from Identity of the same pair, epochs and seeds.

    Two more numbers, each with its 95 % interval over seeds (t; NaN of one): `accuracy_difference` and
    `loss_difference`, NaN where there is no Identity. Methods without a teacher are held against the
    Identity of each teacher, on average.
    """
    table = schemes(trials)
    identity = trials[trials["augmentation"] == "identity"]
    keys = ["student", "epochs", "seed"]
    rows = [_differences(row, trials, identity, keys) for row in table.to_dict("records")]
    return table.join(pd.DataFrame(rows, index=table.index))


def _differences(row: dict, trials: pd.DataFrame, identity: pd.DataFrame, keys: list[str]) -> dict:
    mine = (trials["method"] == row["method"]) & (trials["epochs"] == row["epochs"])
    mine &= trials["student"] == row["student"]
    taught = not pd.isna(row["teacher"])
    mine &= (trials["teacher"] == row["teacher"]) if taught else trials["teacher"].isna()
    other = identity[identity["teacher"] == row["teacher"]] if taught else identity
    known = {"accuracy": "student_accuracy_after", "loss": LOSS}
    means = other.astype(dict.fromkeys(known.values(), float)).groupby(keys)[[*known.values()]].mean()
    both = trials[mine].merge(means.reset_index(), on=keys, suffixes=("", "_of_identity"))
    found = {}
    for name, column in known.items():
        differences = (both[column].astype(float) - both[f"{column}_of_identity"]).dropna()
        found |= {f"{name}_difference": differences.mean() if len(differences) else np.nan}
        low, high = _over_seeds(differences)
        found |= {f"{name}_difference_low": low, f"{name}_difference_high": high}
    return found


def _over_seeds(differences: pd.Series) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds, by Student's t; NaN of one."""
    count = len(differences)
    if count < 2:
        return np.nan, np.nan
    half = stats.t.ppf(0.975, count - 1) * differences.std() / np.sqrt(count)
    return differences.mean() - half, differences.mean() + half


def over_epochs(table: pd.DataFrame) -> pd.DataFrame:
    """The schemes that were trained for several numbers of epochs, with the student's `error`.

    A scheme's methods are called alike but for an ending such as '_x4': their `scheme` is without it.

    Args:
        table: as `schemes` makes it.
    """
    stem = table["method"].str.replace(LONGER, "", regex=True)
    table = table.assign(scheme=stem, error=1 - table["accuracy"], error_sd=table["accuracy_sd"])
    several = table.groupby(["scheme", *MODELS], dropna=False)["epochs"].transform("nunique") > 1
    return table[several].reset_index(drop=True)


# --- published ------------------------------------------------------------------------------------


def _plain(name: object) -> str:
    """Of a name of data or networks the letters and digits, without a tag of weights."""
    text = str(name).partition(".")[0].lower().removeprefix("cifar_")
    text = "".join(character for character in text if character.isalnum())
    return SHUFFLE.get(text, text)


def published(of: pd.DataFrame, file: str = "good_da_points") -> pd.DataFrame:
    """The paper's rows of the pairs that are these: the same data, and networks called alike in timm.

    Args:
        of: rows with `student`, `teacher`, `student_timm`, `teacher_timm` and `data`.
        file: of `analysis/reference`.

    Returns:
        Its rows with `student` and `teacher` as they are called here.
    """
    names = {
        (_plain(row.data), _plain(row.student_timm), _plain(row.teacher_timm)): (row.student, row.teacher)
        for row in of.dropna(subset="teacher_timm").itertuples()
    }
    table = reference.table(file)
    theirs = zip(*(map(_plain, table[name]) for name in ("dataset", "student", "teacher")), strict=True)
    found = [names.get(key) for key in theirs]
    table = table[[pair is not None for pair in found]]
    pairs = pd.DataFrame([pair for pair in found if pair is not None], columns=MODELS, index=table.index)
    return table.assign(**pairs).reset_index(drop=True)


def published_accuracies(of: pd.DataFrame) -> pd.Series:
    """The student's accuracy in the paper's Tables 1 and 2, a fraction; NaN where they have none.

    Theirs is of KD, of CutMix beside it, and of CutMix picked by KL (the paper's text says by entropy, its
    numbers are those of picking by KL), at its numbers of epochs.

    Args:
        of: as `schemes` makes them. A method without a second input is KD if it is called so ('kd', 'kd_x4').
    """
    tables = [published(of, f"good_da_table{number}") for number in (1, 2)]
    keys = [*MODELS, "method", "epochs"]
    known = pd.concat(tables).drop_duplicates(keys).set_index(keys)["accuracy"] / 100
    found = []
    for row in of.astype(dict.fromkeys(SCHEME, object)).itertuples():
        scheme = tuple(None if pd.isna(part) else part for part in (row.augmentation, row.augmentation_pick))
        is_kd = scheme != (None, None) or LONGER.sub("", row.method) == "kd"
        key = (row.student, row.teacher, IN_TABLES.get(scheme) if is_kd else None, row.epochs)
        found.append(known.get(key, np.nan))
    return pd.Series(found, index=of.index, dtype=float)


def papers_scheme(table: pd.DataFrame) -> pd.Series:
    """What the paper calls each scheme; None where it has none."""
    picks = table["augmentation_pick"].astype(object).where(table["augmentation_pick"].notna(), None)
    shown = [", ".join(sorted(str(name).split(", "))) for name in table["augmentation"]]
    names = zip(shown, picks, strict=True)
    return pd.Series([PUBLISHED.get(name) for name in names], index=table.index, dtype=object)
