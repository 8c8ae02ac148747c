"""Reading a results folder, and writing beside it: what every analysis starts and ends with.

The Parquet schema (`docs/records.md`) is the only contract with the program that made the records.
Left out on purpose: the mixing of settings. Two finished trials of one method, student, teacher and
seed in one folder are refused, since every number would be of both. Trials of several teachers are no pairs
of a student and a teacher, and students from scratch gain whatever they know: `load` leaves both out unless
asked.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

KEYS = [
    *("trial", "study", "status", "reason", "student", "teacher", "combine", "order", "method", "seed"),
]
MEASURES = ["evaluation_samples", "transfer_delta", "knowledge_gain", "knowledge_loss"]
TEACHER_MEASURES = ["accuracy_difference"]  # and transfer_rate, which may be null
NEEDED = [*KEYS, *MEASURES, *TEACHER_MEASURES, "transfer_rate"]
SOURCE = "student_source"  # of the student's weights before
UNIT = ["method", "student", "teacher", "combine", "order", "seed"]
READ_ERRORS = (OSError, ValueError, pa.ArrowException)
TOGETHER = 64  # files: what each says of its columns takes a quarter of a MiB until they are put together


class ResultsError(Exception):
    """Bad input, told in one sentence that names the file, the field and the remedy."""


def told(error: ResultsError | PermissionError) -> str:
    """The sentence of what a user can mend; other people's files are what every step may meet."""
    if isinstance(error, PermissionError):
        return f"{error.filename}: you may not read, or write, here; see to its permissions, or name another"
    return str(error)


def load(
    results: Path | str,
    columns: Sequence[str] | None = None,
    *,
    several: bool = False,
    from_scratch: bool = False,
) -> pd.DataFrame:
    """All trials recorded under `results`, failed ones too, one row each, as `docs/records.md` has them.

    Where studies say which trials they consist of (`results/plans`), others are left out: they are
    from before a study was edited.

    Args:
        results: the results folder.
        columns: to read beside those that are checked; all where None. One that some trials were recorded
            without, by an older version, is null for these.
        several: whether trials of several teachers are among them (`one_teacher`).
        from_scratch: whether those of students from scratch are (`is_from_scratch`).

    Raises:
        ResultsError: no folder, an unreadable file, a missing column or value, no finished trial, or
            two finished trials of one method, student, teacher and seed.
    """
    folder = Path(results) / "trials"
    if not folder.is_dir():
        remedy = "give that of a study that has run"
        if ":/" in str(results):
            remedy = "fetch its URL first (analysis.fetch.fetched)"
        raise ResultsError(f"{folder}: no such folder of results; {remedy}")
    wanted = None if columns is None else {*NEEDED, *columns, SOURCE}
    trials = read(folder, "run its trial again", wanted, NEEDED)
    if len(trials):
        require_columns(trials, NEEDED, folder, "run the study again in a new folder")
        plan = planned(results)
        if plan is not None:
            trials = trials[trials["trial"].isin(plan["trial"])].reset_index(drop=True)
    if trials.empty:
        raise ResultsError(f"{folder}: no trial is recorded there; run the study first")
    if not several:
        trials = one_teacher(trials).reset_index(drop=True)
        if trials.empty:
            raise ResultsError(
                f"{folder}: all trials there are of several teachers; analysis/report.py shows them"
            )
    if not from_scratch:
        trials = trials[~is_from_scratch(trials)].reset_index(drop=True)
        if trials.empty:
            raise ResultsError(
                f"{folder}: all trials there are of students from scratch; analysis/report.py shows them"
            )
    trials = once(trials)
    done = trials[trials["status"] == "ok"]
    if done.empty:
        raise ResultsError(
            f"{folder}: none of the {len(trials)} recorded trials finished (the first failed with: "
            f"{trials['reason'].iloc[0]}); mend that and run the study again"
        )
    _check(folder, trials, done)
    return trials


def _check(folder: Path, trials: pd.DataFrame, done: pd.DataFrame) -> None:
    """Refuse trials that lack a value, and two that differ in their settings alone."""
    if done[MEASURES[1:]].isna().all(axis=None):
        raise ResultsError(
            f"{folder}: nobody has said the classes of the images that these trials were scored on, so there "
            "is nothing to report; what the models answered is in predictions/"
        )
    for rows, names in [
        (trials, ["study", "method", "student"]),
        (done, ["seed", *MEASURES]),
        (one_teacher(done).dropna(subset="teacher"), TEACHER_MEASURES),
    ]:
        for column in names:
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


def one_teacher(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of one teacher or none, of which rates and means over pairs of models are made.

    `analysis.several_teachers` is of the others.
    """
    return trials[trials["combine"].isna()]


def is_from_scratch(trials: pd.DataFrame) -> pd.Series:
    """Whether each trial trained its student from initial weights: what it gains is no transfer's success.

    Records of an older version do not say it; there was no such study.
    """
    return trials[SOURCE] == "seed" if SOURCE in trials else pd.Series(False, index=trials.index)


def planned(results: Path | str) -> pd.DataFrame | None:
    """The trials that the studies in `results` consist of, one row each; None where no study says it.

    Plans of an older version have the column `trial` alone.

    Raises:
        ResultsError: an unreadable file.
    """
    plans = Path(results) / "plans"
    if not plans.is_dir() or not any(plans.glob("[!.]*.parquet")):
        return None
    plan = read(plans, "run its study again", needed=["trial"])
    require_columns(plan, ["trial"], plans, "run its study again")
    return plan.drop_duplicates("trial")


def read(
    place: Path, again: str, columns: Collection[str] | None = None, needed: Collection[str] = ()
) -> pd.DataFrame:
    """One Parquet file, or all of a folder as one table, in the order of the files' names.

    Files may be merged meanwhile (jobs/compact.py): nothing is missed then, but rows may be there twice. What
    is being written has a name that begins with a dot, and is passed over.

    Args:
        place: the file or folder.
        again: how to get a file again that has to be removed.
        columns: to read; all where None. One that some files lack is null there; one that all files lack is
            not in the table (`require_columns`).
        needed: columns that no file may lack if another has them.

    Raises:
        ResultsError: names the file that is damaged or missing, or whose columns do not fit the others'.
    """
    tables: list[pa.Table] = []
    seen: list[Path] = []
    without: dict[str, Path] = {}  # a file that lacks a needed column
    with ThreadPoolExecutor(cores()) as pool:
        # What vanishes while it is read has been merged into a file that the next look finds.
        while files := sorted(set(_files(place)).difference(seen)):
            seen += files
            parts = [files[first : first + TOGETHER] for first in range(0, len(files), TOGETHER)]
            for part, lacks in pool.map(lambda part: _read_part(part, place, again, columns, needed), parts):
                tables += part
                without |= lacks
    if not tables:
        return pd.DataFrame()
    table = _together(tables, seen, again)
    for name, path in without.items():
        if name in table.column_names:
            raise ResultsError(
                f"{path}: the column {name} is missing, so another version made this record; "
                f"remove it and {again}"
            )
    return table.to_pandas()


def _files(place: Path) -> list[Path]:
    return list(place.glob("[!.]*.parquet")) if place.is_dir() else [place]


def _read_part(
    paths: Sequence[Path],
    place: Path,
    again: str,
    columns: Collection[str] | None,
    needed: Collection[str],
) -> tuple[list[pa.Table], dict[str, Path]]:
    """Some files of `place`, as `read` takes them, but for those that have vanished from it.

    Returns:
        Their table, none if all have vanished; and by needed column that is lacking a file that lacks it.
    """
    tables: list[pa.Table] = []
    without: dict[str, Path] = {}
    for path in paths:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                # Of many files several are read at once, of one several columns.
                table = file.read(None if columns is None else list(columns), use_threads=len(paths) == 1)
        except READ_ERRORS as error:
            if path != place and not path.exists():
                continue
            raise _unreadable(path, error, again) from error
        tables.append(table)
        without |= dict.fromkeys(set(needed).difference(table.column_names), path)
    return [_together(tables, paths, again)] if tables else [], without


def _together(tables: Sequence[pa.Table], files: Sequence[Path], again: str) -> pa.Table:
    """Tables as one, without what their schemas say beside names and types.

    Args:
        tables: at least one; values of columns that it lacks and others have are null.
        files: what they are of, to find the one that does not fit.
        again: as in `read`.
    """
    table = tables[0]
    if len(tables) > 1:
        try:
            table = pa.concat_tables(tables)
        except pa.ArrowInvalid:  # of several versions
            table = _fitted(tables, files, again)
        table = table.combine_chunks()
    fields = [pa.field(field.name, field.type) for field in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def _fitted(tables: Sequence[pa.Table], files: Sequence[Path], again: str) -> pa.Table:
    """Tables of differing columns as one."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        schema = pq.read_schema(files[0])
        for path in files:
            try:
                schema = pa.unify_schemas([schema, pq.read_schema(path)], promote_options="permissive")
            except pa.ArrowException as error:
                raise _unreadable(path, error, again) from error
        raise


def _unreadable(path: Path, error: Exception, again: str) -> ResultsError:
    reason = str(error).splitlines()[0].rstrip(".")
    return ResultsError(f"{path}: not a readable record ({reason}); remove it and {again}")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def once(trials: pd.DataFrame) -> pd.DataFrame:
    """Each trial in one row: while files are merged, or after two sweeps at once, it may stand in two."""
    best = trials.sort_values("status", ascending=False, kind="stable")  # 'ok' before 'failed'
    return best[~best.duplicated("trial")].sort_index(ignore_index=True)


def require_columns(table: pd.DataFrame, columns: Sequence[str], place: Path, again: str) -> None:
    """Refuse a table that lacks a column: records of another version."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise ResultsError(
            f"{place}: the column {missing[0]} is missing, so another version made these records; {again}"
        )


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


def write(out: Path, contents: Mapping[str, str | bytes | Callable[[Path], object] | None]) -> list[Path]:
    """Write files into the folder `out`, each whole or not at all.

    Args:
        out: the folder, made where it is missing.
        contents: by file name, which may begin with a folder: text, bytes, a function that writes the file at
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
                elif isinstance(content, bytes):
                    temporary.write_bytes(content)
                else:
                    content(temporary)
    except OSError as error:
        raise ResultsError(
            f"{out}: cannot be written ({error.strerror or error}); choose another folder with --out"
        ) from error
    return [out / name for name, content in contents.items() if content is not None]
