"""How transfers ran: learning curves from `history`, and time and cost from `trials`. Tables, and no text."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.methods import by_order_of_methods
from analysis.results import ResultsError, read, require_columns

COLUMNS = [
    *("trial", "epoch", "stage", "teacher", "loss", "lr", "teacher_share", "seconds"),
    *("knowledge_gain", "knowledge_loss"),
]


def load_history(results: Path | str, trials: pd.DataFrame) -> pd.DataFrame:
    """The epochs of the finished trials, one row each, with the trial's method; empty without any.

    Raises:
        ResultsError: a file is damaged, or lacks a column.
    """
    folder = Path(results) / "history"
    if not folder.is_dir() or not any(folder.glob("[!.]*.parquet")):
        return pd.DataFrame(columns=[*COLUMNS, "method"])
    history = read(folder, "run its trial again", COLUMNS, COLUMNS)
    require_columns(history, COLUMNS, folder, "run the study again in a new folder")
    done = trials.loc[trials["status"] == "ok", ["trial", "method"]]
    # While files are merged, or after two sweeps at once, a trial may stand in two.
    history = history.drop_duplicates(["trial", "epoch"])
    if history["epoch"].isna().any():
        raise ResultsError(f"{folder}: epoch is empty in some rows; run the study again in a new folder")
    return history.merge(done, on="trial")


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
