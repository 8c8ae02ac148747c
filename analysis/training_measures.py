"""How transfers ran: learning curves from `history`, and time and cost from `trials`. Tables, and no text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.inference import crossed_bootstrap
from analysis.measures import paired
from analysis.methods import TOP_K, by_order_of_methods
from analysis.results import ResultsError, read, require_columns

COLUMNS = [
    *("trial", "epoch", "stage", "teacher", "loss", "lr", "teacher_share", "seconds"),
    *("knowledge_gain", "knowledge_loss"),
]
EVALUATED = ["student_accuracy", "tune_accuracy", "teacher_accuracy"]  # of every epoch, or of none
LAST, BY_TUNE, BY_EVALUATION = "last", "by_tune", "by_evaluation"


PAIR = ["student", "teacher"]


def load_history(results: Path | str, trials: pd.DataFrame) -> pd.DataFrame:
    """The epochs of the finished trials, one row each, with the trial's method; empty without any.

    Raises:
        ResultsError: a file is damaged, or lacks a column.
    """
    folder = Path(results) / "history"
    if not folder.is_dir() or not any(folder.glob("[!.]*.parquet")):
        return pd.DataFrame(columns=[*COLUMNS, *EVALUATED, "method"])
    history = read(folder, "run its trial again", [*COLUMNS, *EVALUATED], COLUMNS)
    require_columns(history, COLUMNS, folder, "run the study again in a new folder")
    done = trials.loc[trials["status"] == "ok", ["trial", "method"]]
    # While files are merged, or after two sweeps at once, a trial may stand in two.
    history = history.drop_duplicates(["trial", "epoch"])
    if history["epoch"].isna().any():
        raise ResultsError(f"{folder}: epoch is empty in some rows; run the study again in a new folder")
    history = history.reindex(columns=[*history, *(name for name in EVALUATED if name not in history)])
    return history.merge(done, on="trial")


def epochs_chosen(history: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """What it adds to choose a trial's best epoch, by the images that are reported on or by others.

    Args:
        history: as `load_history` gives it.
        trials: of one teacher or none, finished.

    Returns:
        One row a (method, model), the model `student` or, where it learns, too, `teacher`, of the methods
        with trials that were evaluated after several epochs: `pairs` of a student and a teacher, their seeds
        averaged; the mean deltas after the `last` epoch, after that which is best on the images kept aside
        (`by_tune`; null without) and after that which is best on the evaluation images (`by_evaluation`),
        each with its 95 % interval over students and teachers (`last_low`, ...); and what the latter two are
        over the last one (`by_evaluation_over`, with its interval).
    """
    known = trials.set_index("trial")
    said = history[history["trial"].isin(known.index)].dropna(subset="student_accuracy")
    said = said.sort_values(["trial", "epoch"]).reset_index(drop=True)
    said = said[said.groupby("trial")["epoch"].transform("size") > 1]
    tune = said["tune_accuracy"].astype(float)
    on_tune = tune.fillna(-1).groupby(said["trial"]).idxmax()
    on_tune = on_tune[tune.notna().groupby(said["trial"]).all()]
    tables = []
    for model, first in (("student", "student_accuracy_before"), ("teacher", "teacher_accuracy")):
        after = said[f"{model}_accuracy"].astype(float)
        after = after[after.notna().groupby(said["trial"]).transform("all")]
        mine = after.groupby(said["trial"])
        found = pd.DataFrame({LAST: mine.last(), BY_TUNE: np.nan, BY_EVALUATION: mine.max()})
        if model == "student":
            found[BY_TUNE] = pd.Series(after[on_tune].to_numpy(), on_tune.index).reindex(found.index)
        found = found.sub(known.loc[found.index, first].astype(float), axis=0)
        tables.append(found.join(known[["method", *PAIR]]).assign(model=model))
    table = pd.concat(tables)
    ways = [LAST, BY_TUNE, BY_EVALUATION]
    pairs = table.groupby(["method", "model", "student", "teacher"], dropna=False)[ways].mean().reset_index()
    pairs = pairs.round(12)
    found = []
    for (method, model), mine in pairs.groupby(["method", "model"]):
        row = {"method": method, "model": model, "pairs": len(mine)}
        for way in ways:
            row |= _mean(way, mine[way], mine)
            if way != LAST:
                row |= _mean(f"{way}_over", (mine[way] - mine[LAST]).round(12), mine)
        found.append(row)
    return by_order_of_methods(pd.DataFrame(found), ["method", "model"]) if found else pd.DataFrame()


def _mean(name: str, values: pd.Series, pairs: pd.DataFrame) -> dict[str, float]:
    """The mean over pairs with its interval; null where a value is."""
    if values.isna().any():
        return dict.fromkeys([name, f"{name}_low", f"{name}_high"], np.nan)
    # The best of some is no worse than the last of them.
    least = 0 if name == f"{BY_EVALUATION}_over" else -np.inf
    low, high = crossed_bootstrap(values, pairs["student"], pairs["teacher"], bounds=(least, np.inf))
    return {name: values.mean(), f"{name}_low": low, f"{name}_high": high}


def outside_top_k(results: Path | str, trials: pd.DataFrame) -> pd.DataFrame:
    """Appendix B.1: how much of the divergence lies outside the teacher's k largest classes.

    Args:
        results: the results folder.
        trials: as `results.load` gives them.

    Returns:
        One row a (student, teacher) that KL over the top k and KL both taught, seeds averaged: `outside`, the
        divergence over all classes minus that over the k in the first epoch, means over samples in nats (what
        lies outside later is a result of the transfer), and the `difference` of the transfer deltas, top k
        minus all. Empty where `history` does not have these measures.
    """
    mine = trials.loc[(trials["status"] == "ok") & (trials["method"] == TOP_K), ["trial", *PAIR]]
    folder = Path(results) / "history"
    if mine.empty or not folder.is_dir() or not any(folder.glob("[!.]*.parquet")):
        return pd.DataFrame(columns=[*PAIR, "outside", "difference"])
    history = read(folder, "run its trial again", ["trial", "epoch", "measures"], ["trial", "epoch"])
    first = history[history["epoch"] == 0].drop_duplicates("trial").merge(mine, on="trial")
    first = first.reindex(columns=[*first.columns.union(["measures"], sort=False)]).dropna(subset="measures")
    known = pd.DataFrame(map(dict, first["measures"]), index=first.index)
    known = known.reindex(columns=["divergence", "divergence_top_k"]).astype(float)
    outside = first[PAIR].assign(outside=known["divergence"] - known["divergence_top_k"]).dropna()
    means = outside.groupby(PAIR, as_index=False)["outside"].mean()
    return means.merge(paired(trials, TOP_K, "kl")[[*PAIR, "difference"]], on=PAIR)


def learning_curves(history: pd.DataFrame) -> pd.DataFrame:
    """Median and quartiles over trials, by method and epoch.

    Losses of different methods are different quantities, so each trial's is given as a multiple of its own
    first epoch's.

    Returns:
        One row a (method, measure, epoch): `trials`, `q1`, `median`, `q3` of `relative_loss`, and of
        `teacher_share` for the methods that partition the data.
    """
    first = history[history["epoch"] == 0].set_index("trial")["loss"]
    history = history.assign(relative_loss=history["loss"] / history["trial"].map(first))
    long = history.melt(
        ["method", "epoch"], ["relative_loss", "teacher_share"], var_name="measure", value_name="value"
    ).dropna(subset="value")
    table = (
        long.astype({"value": float})
        .groupby(["method", "measure", "epoch"])["value"]
        .agg(
            trials="size",
            q1=lambda values: values.quantile(0.25),
            median="median",
            q3=lambda values: values.quantile(0.75),
        )
        .reset_index()
    )
    units = table["measure"].map({"relative_loss": "ratio", "teacher_share": "fraction"})
    return by_order_of_methods(table.assign(unit=units), ["method", "measure", "epoch"])


def time_by_method(trials: pd.DataFrame) -> pd.DataFrame:
    """Time and cost by method and device.

    Returns:
        One row a (method, device): `trials`; median `seconds` and its 90 % quantile `seconds_p90`; the
        medians of its parts `seconds_load`, `seconds_train` and `seconds_evaluate`; `samples_per_second`,
        the median of transfer samples times epochs over training time; `hours`, the sum over trials.
    """
    done = trials[trials["status"] == "ok"]
    rate = done["transfer_samples"] * done["epochs"] / done["seconds_train"]
    table = (
        done.assign(rate=rate)
        .groupby(["method", "device"])
        .agg(
            trials=("trial", "size"),
            seconds=("seconds", "median"),
            seconds_p90=("seconds", lambda values: values.quantile(0.9)),
            seconds_load=("seconds_load", "median"),
            seconds_train=("seconds_train", "median"),
            seconds_evaluate=("seconds_evaluate", "median"),
            samples_per_second=("rate", "median"),
            hours=("seconds", lambda values: values.sum() / 3600),
        )
        .reset_index()
    )
    return by_order_of_methods(table, ["method", "device"])
