"""Reading a results folder, and writing beside it: what every analysis starts and ends with.

The Parquet schema (`docs/records.md`) is the only contract with the program that made the records.
Left out on purpose: the mixing of settings. Two finished trials of one method, student, teacher and
seed in one folder are refused, since every number would be of both.
"""

from __future__ import annotations

import argparse
import contextlib
import uuid
from collections.abc import Callable, Mapping, Sequence
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
        remedy = (
            "fetch it from its URL first" if ":/" in str(results) else "give that of a study that has run"
        )
        raise ResultsError(f"{folder}: no such folder of results; {remedy}")
    trials = read(folder, "run its trial again")
    plan = planned(results)
    if plan is not None:
        trials = trials[trials["trial"].isin(plan["trial"])].reset_index(drop=True)
    if trials.empty:
        raise ResultsError(f"{folder}: no trial is recorded there; run the study first")
    columns = [*KEYS, *MEASURES, *TEACHER_MEASURES, "transfer_rate"]
    require_columns(trials, columns, folder, "run the study again in a new folder")
    trials = once(trials)
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
            broken = rows.loc[lacking(rows[column]), "trial"]
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


def planned(results: Path | str) -> pd.DataFrame | None:
    """The trials that the studies in `results` consist of, one row each; None where no study says it.

    Raises:
        ResultsError: an unreadable file.
    """
    plans = Path(results) / "plans"
    if not plans.is_dir() or not any(plans.glob("[!.]*.parquet")):
        return None
    plan = read(plans, "run its study again")
    require_columns(plan, ["trial"], plans, "run its study again")
    return plan.drop_duplicates("trial")


def read(place: Path, again: str) -> pd.DataFrame:
    """One Parquet file, or all of a folder as one table.

    Args:
        place: the file or folder.
        again: how to get a file again that has to be removed.

    Raises:
        ResultsError: names the file that is damaged or missing.
    """
    files = sorted(place.glob("[!.]*.parquet"))
    try:
        return pd.read_parquet(place, page_checksum_verification=True)
    except READ_ERRORS as error:
        if files != sorted(place.glob("[!.]*.parquet")):
            return read(place, again)  # its small files are being merged (jobs/compact.py)
        bad = next((path for path in files if not _readable(path)), place)
        reason = str(error).splitlines()[0].rstrip(".")
        raise ResultsError(f"{bad}: not a readable record ({reason}); remove it and {again}") from error


def once(trials: pd.DataFrame) -> pd.DataFrame:
    """Each trial in one row: while files are merged, or after two sweeps at once, it may stand in two."""
    best = trials.sort_values("status", ascending=False, kind="stable")  # 'ok' before 'failed'
    return best[~best.duplicated("trial")].sort_index(ignore_index=True)


def _readable(path: Path) -> bool:
    try:
        pd.read_parquet(path, page_checksum_verification=True)
    except READ_ERRORS:
        return False
    return True


def require_columns(table: pd.DataFrame, columns: Sequence[str], place: Path, again: str) -> None:
    """Refuse a table that lacks a column: records of another version."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise ResultsError(f"{place}: the column {missing[0]} is missing; {again}")


def lacking(values: pd.Series) -> pd.Series:
    """Where values are null or not finite."""
    return values.isna() | values.isin([np.inf, -np.inf])


def points(text: str) -> float:
    """Argument of a command: percentage points, at least 0 and below 100."""
    value = float(text)
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 percentage points")
    return value


@contextlib.contextmanager
def replacing(path: Path):
    """Yield a temporary path beside `path`, renamed to it on success and removed on failure."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write(out: Path, contents: Mapping[str, str | Callable[[Path], object] | None]) -> list[Path]:
    """Write files into the folder `out`, each whole or not at all.

    Args:
        out: the folder, made where it is missing.
        contents: by file name, which may begin with a folder: a text, a function that writes the file at
            a path, or None for a file that these results do not have; one that is left of older results is
            removed.

    Returns:
        The files written.

    Raises:
        ResultsError: the folder cannot be written.
    """
    try:
        for name, content in contents.items():
            if content is None:
                (out / name).unlink(missing_ok=True)
                continue
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            with replacing(out / name) as temporary:
                if isinstance(content, str):
                    temporary.write_text(content, encoding="utf-8")
                else:
                    content(temporary)
    except OSError as error:
        raise ResultsError(
            f"{out}: cannot be written ({error.strerror or error}); choose another folder with --out"
        ) from error
    return [out / name for name, content in contents.items() if content is not None]
