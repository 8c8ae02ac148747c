"""What one or several results folders hold of label smoothing, as tables for `smoothing_measures`.

Studies that answer one claim each lie in folders of their own (a long tail, other numbers of classes, trained
students): their tables are put together, and kept apart by the study's name. Columns and tables that older
results lack are null, or empty. Left out on purpose: predictions, but for the students that are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset

from analysis import results, smoothing_claims, smoothing_measures
from analysis.exhibit import LeftOut
from analysis.smoothing_measures import Tables

OF_TABLES = {
    "model_classes": smoothing_measures.CLASSES,
    "soft_labels": smoothing_measures.SOFT_LABELS,
    "centres": smoothing_measures.CENTRES,
    "projections": smoothing_measures.PROJECTIONS,
}
NAMES = {"negative_log_likelihood": "nll", "transfer_negative_log_likelihood": "transfer_nll"}
AGAIN = "run its study again"


class Smoothing:
    """What the section on label smoothing is made of.

    Attributes:
        folders: of results.
    """

    def __init__(self, folders: Sequence[Path], progress: Callable[[str], None] = lambda text: None):
        self.folders, self.progress = [Path(folder) for folder in folders], progress

    @cached_property
    def tables(self) -> Tables:
        """The tables of all folders.

        Raises:
            ResultsError: a folder cannot be read, or has neither trials nor models.
        """
        for folder in self.folders:
            if not any(recorded(folder, table) for table in ("trials", "models")):
                raise results.ResultsError(
                    f"{folder}: neither trials nor models are recorded there; give the results of a study"
                )
        self.progress("reading what is recorded of label smoothing")
        trials = smoothing_measures.prepared(self._trials())
        trials = trials.drop_duplicates("trial", ignore_index=True)
        history = self._table("history", smoothing_measures.HISTORY)
        history = history[history["trial"].isin(trials["trial"])].drop_duplicates(["trial", "epoch"])
        others = {name: self._table(name, OF_TABLES[name]) for name in OF_TABLES if name != "projections"}
        soft = others["soft_labels"].dropna(subset="other")  # without what is kept of all others together
        others["soft_labels"] = soft.astype({"class": int, "other": int})
        tables = Tables(trials, self._models(), history, **others, right={})
        return Tables(**{**vars(tables), "right": self._right(tables)})

    @cached_property
    def alpha(self) -> float:
        """`smoothing_measures.main_alpha`."""
        return smoothing_measures.main_alpha(self.tables)

    @cached_property
    def verdicts(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """`smoothing_claims.verdicts`."""
        self.progress("testing claims on label smoothing")
        return smoothing_claims.verdicts(self.tables)

    @cached_property
    def projections(self) -> pd.DataFrame:
        """The table of that name."""
        return self._table("projections", OF_TABLES["projections"])

    @cached_property
    def class_names(self) -> dict[int, str]:
        """Names of the first folder's classes, by number; without any, none."""
        table = self._table("classes", ["class", "name"], self.folders[:1])
        return dict(zip(table["class"], table["name"], strict=True))

    def _trials(self) -> pd.DataFrame:
        parts = [
            results.load(folder, smoothing_measures.TRIALS, several=True, from_scratch=True)
            for folder in self.folders
            if recorded(folder, "trials")
        ]
        columns = [*dict.fromkeys([*results.NEEDED, *smoothing_measures.TRIALS])]
        return _together(parts, columns)

    def _models(self) -> pd.DataFrame:
        """Models that finished, on their evaluation split where they were run on several."""
        columns = [*smoothing_measures.MODELS, *NAMES]
        table = self._table("models", columns)
        for name, short in NAMES.items():
            table[short] = table[short].astype(float).fillna(table.pop(name).astype(float))
        done = table[table["status"] == "ok"].drop_duplicates("model")
        order = (done["split"] != "evaluation").astype(int)
        done = done.iloc[np.argsort(order.to_numpy(), kind="stable")]
        return done.drop_duplicates(["study", "name"]).sort_index().reset_index(drop=True)

    def _table(
        self, name: str, columns: Sequence[str], folders: Sequence[Path] | None = None
    ) -> pd.DataFrame:
        parts = [
            results.read(folder / name, AGAIN, columns)
            for folder in (self.folders if folders is None else folders)
            if recorded(folder, name)
        ]
        return _together(parts, columns)

    def _right(self, tables: Tables) -> dict[str, np.ndarray]:
        """Which samples the compared students got right, from their predictions."""
        try:
            alpha, trials = smoothing_measures.main_alpha(tables), tables.trials
            trials = trials[(trials["objective"] == "kl") & (trials["temperature"] == 1)]
            pairs = smoothing_measures.student_pairs(trials[trials["twin"].notna()], alpha)
        except LeftOut:
            return {}
        wanted = {*pairs["trial_hard"], *pairs["trial_smooth"]}
        found: dict[str, np.ndarray] = {}
        for folder in self.folders:
            files = [
                path
                for path in sorted((folder / "predictions").glob("[!.]*.parquet"))
                if path.stem in wanted or path.name.startswith("merged-")
            ]
            for path in files:
                said = _predictions(path, wanted.difference(found))
                for trial, mine in said.sort_values("index").groupby("trial", observed=True):
                    found[str(trial)] = (mine["student_after"] == mine["label"]).to_numpy(bool)
        return found


def recorded(folder: Path, table: str) -> bool:
    """Whether a table has a file."""
    return any((folder / table).glob("[!.]*.parquet"))


def is_smoothed(trials: pd.DataFrame, folder: Path) -> bool:
    """Whether results hold a model that was trained with smoothed labels, by what is known already.

    Args:
        trials: recorded ones, with the models' α where it was recorded; may be empty.
        folder: of the results. Its models are asked where no trial says of any model what its α is.
    """
    columns = [name for name in ("teacher_label_smoothing", "student_label_smoothing") if name in trials]
    known = pd.concat([trials[name].astype(float) for name in columns]) if columns else pd.Series(dtype=float)
    if (known > 0).any():
        return True
    if (len(trials) and known.isna().all()) or not recorded(folder, "models"):
        return False
    models = results.read(folder / "models", AGAIN, ["label_smoothing", "label_smoothing_source"])
    models = models.reindex(columns=["label_smoothing", "label_smoothing_source"])
    return bool(
        ((models["label_smoothing"].astype(float) > 0) & (models["label_smoothing_source"] == "recipe")).any()
    )


def _together(parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Tables as one, with these columns; null where none of them has one."""
    some = [part for part in parts if len(part)]
    table = pd.concat(some, ignore_index=True) if some else pd.DataFrame()
    return table.reindex(columns=[*columns])


def _predictions(path: Path, trials: set[str]) -> pd.DataFrame:
    """What students of some trials said afterwards, from one file."""
    try:
        table = pyarrow.dataset.dataset(path).to_table(
            columns=["trial", "index", "label", "student_after"],
            filter=pyarrow.dataset.field("trial").isin(sorted(trials)),
        )
    except results.READ_ERRORS as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise results.ResultsError(
            f"{path}: not a readable record ({reason}); remove it and {AGAIN}"
        ) from error
    return table.to_pandas()
