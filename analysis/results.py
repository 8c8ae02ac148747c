"""Reading a results folder, and writing beside it: what every analysis starts and ends with.

The Parquet schema (`docs/records.md`) is the only contract with the program that made the records.
Left out on purpose: the mixing of settings. Two finished trials of one method, student, teacher and
seed in one folder are refused, since every number would be of both.
"""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

KEYS = ["trial", "study", "status", "reason", "student", "teacher", "method", "seed"]
MEASURES = ["evaluation_samples", "transfer_delta", "knowledge_gain", "knowledge_loss"]
TEACHER_MEASURES = ["accuracy_difference"]  # and transfer_rate, which may be null
UNIT = ["method", "student", "teacher", "seed"]
READ_ERRORS = (OSError, ValueError, pa.ArrowException)


class ResultsError(Exception):
    """Bad input, told in one sentence that names the file, the field and the remedy."""


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


@contextlib.contextmanager
def replacing(path: Path):
    """Yield a temporary path beside `path`, renamed to it on success and removed on failure."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
