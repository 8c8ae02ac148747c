"""Records, written whole and read back: files of the tables that `study.store.schemas` describes.

The row in `trials` (or `models`) is written last, so a trial is recorded when, and only when, that file
exists; a file appears whole or not at all (`study.store.storage`), so writers need no locks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import StudyError
from study.store import storage
from study.store.schemas import TABLES
from study.store.storage import Location

MERGED = "merged-"  # how names of compacted files begin; ids of trials are hexadecimal


def prepare(results: Location, tables: Iterable[str]) -> None:
    """Make the folders of some tables, and refuse results that cannot be written.

    Raises:
        StudyError: the folder cannot be created or written.
    """
    storage.prepare(results, "results", tables)


class MissingError(StudyError):
    """A record that is not there, or in a merged file since."""


def write(results: Location, table: str, name: str, columns: Mapping[str, Sequence]) -> Location:
    """Write one file of one table, whole or not at all.

    Args:
        results: the results folder (see `prepare`).
        table: a key of `TABLES`.
        name: the file's name without its ending: the id of the trial or model, or the study's name.
        columns: a value list (or array) a column, all of one length, NaN being null; a column of the
            schema left out is null, except that the id (`trial`, `model` or `id`) is filled with `name`.

    Raises:
        ValueError: a column the schema does not know, or columns of different lengths.
        StorageError: the results could not be written for longer than one waits.
    """
    schema = TABLES[table]
    unknown = set(columns) - set(schema.names)
    lengths = {len(values) for values in columns.values()}
    if unknown or len(lengths) != 1:
        raise ValueError(f"{table}: unknown columns {sorted(unknown)} or lengths {lengths}")
    (length,) = lengths
    default = dict.fromkeys(("trial", "model", "id"), [name] * length)
    arrays = [
        pa.array(
            columns.get(field.name, default.get(field.name, [None] * length)),
            type=field.type,
            from_pandas=True,
        )
        for field in schema
    ]
    content = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema), content, compression="zstd", write_page_checksum=True
    )
    path = results / table / f"{name}.parquet"
    storage.write(path, content.getvalue())
    return path


def write_trial(
    results: Location,
    trial: str,
    row: Mapping,
    predictions: Mapping,
    history: Mapping,
    evaluations: Mapping | None = None,
    **others: Mapping,
) -> None:
    """Record a finished trial: its other tables first, the row that says so last."""
    write(results, "predictions", trial, predictions)
    write(results, "history", trial, history)
    for table, columns in {"evaluations": evaluations, **others}.items():
        if columns:
            write(results, table, trial, columns)
    write(results, "trials", trial, {name: [value] for name, value in row.items()})


def write_model(
    results: Location, model: str, row: Mapping, predictions: Mapping | None = None, **others: Mapping
) -> None:
    """Record a model that was run: its other tables first, the row that says so last.

    Without `predictions` those that are recorded stay.
    """
    for table, columns in {"model_predictions": predictions, **others}.items():
        if columns:
            write(results, table, model, columns)
    write(results, "models", model, {name: [value] for name, value in row.items()})


def write_failure(results: Location, table: str, name: str, row: Mapping) -> None:
    """Record that a trial or model failed, unless a finished record of it exists already."""
    if status_of(results, table, name) != "ok":
        write(results, table, name, {column: [value] for column, value in row.items()})


def write_plan(results: Location, table: str, study: str, columns: Mapping[str, Sequence]) -> None:
    """Say which trials a study (`plans`), or which models its atlas (`atlas`), now consists of.

    `columns` are the table's others by name, a value a trial or model.
    """
    count = len(columns[TABLES[table].names[0]])
    write(results, table, study, {"study": [study] * count, **columns})


def status(results: Location, table: str) -> dict[str, str]:
    """The status of everything recorded in `trials` or `models`, by id; empty where there is nothing yet.

    Raises:
        StudyError: a file of the table is not a readable record.
    """
    paths = storage.files(results / table, ".parquet")
    read = storage.at_once(_status, paths)
    now = storage.files(results / table, ".parquet")
    if None in read and now == paths:
        raise StudyError(f"{paths[read.index(None)]}: cannot be opened; remove it")
    if None in read or _merged(now) != _merged(paths):
        # Compacted meanwhile: what is gone, or was when the folder's list came to it, is in a new file.
        return status(results, table)
    found: dict[str, str] = {}
    for states in read:
        # A trial may stand in a compacted file and, run by two sweeps at once, in one of its own.
        found |= {name: state for name, state in states.items() if found.get(name) != "ok"}
    return found


def _merged(paths: Iterable[Location]) -> list[Location]:
    return [path for path in paths if path.name.startswith(MERGED)]


def status_of(results: Location, table: str, name: str) -> str | None:
    """The status of one trial or model; None if it has no file of its own (see `study.store.compaction`)."""
    return (_status(results / table / f"{name}.parquet") or {}).get(name)


def read(results: Location, table: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One file of one table, or some of its columns; its pages are checked.

    Raises:
        MissingError: there is none.
        StudyError: it is damaged.
    """
    try:
        with (
            storage.open_file(results / table / f"{name}.parquet") as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as file,
        ):
            return file.read(columns)
    except (OSError, pa.ArrowException) as error:
        kind = MissingError if isinstance(error, FileNotFoundError) else StudyError
        raise kind(_unreadable(results, table, name, error)) from error


def of_trial(results: Location, table: str, trial: str, columns: Sequence[str]) -> pa.Table:
    """The rows of a trial or model, from its own file or from the merged ones that it stands in, once.

    Raises:
        MissingError: there are none.
        StudyError: a file is damaged.
    """
    with contextlib.suppress(MissingError):
        return read(results, table, trial, columns)
    key = TABLES[table].names[0]
    for path in _merged(storage.files(results / table, ".parquet")):
        try:
            with storage.open_file(path) as stream:
                rows = pq.read_table(stream, columns=list(columns), filters=[(key, "==", trial)])
        except (OSError, pa.ArrowException) as error:
            raise StudyError(_unreadable(results, table, path.stem, error)) from error
        if len(rows):
            return rows
    raise MissingError(f"{results / table}: nothing is recorded there of {trial}")


def reasons(results: Location, table: str, names: Iterable[str]) -> dict[str, str]:
    """Why those of some trials or models failed that did, by id."""
    found = {}
    for name in names:
        with contextlib.suppress(MissingError):
            (row,) = read(results, table, name, ["status", "reason"]).to_pylist()
            if row["status"] == "failed":
                found[name] = row["reason"]
    return found


def _unreadable(results: Location, table: str, name: str, error: Exception) -> str:
    path = results / table / f"{name}.parquet"
    row = results / f"{TABLES[table].names[0]}s" / path.name  # that says there is a record
    too = "" if row == path else f" and {row}"
    return (
        f"{path}: not a readable record ({storage.reason(error)}); remove the file{too}, and what it "
        "recorded will be run again"
    )


def _status(path: Location) -> dict[str, str] | None:
    """The status of each id in a file; None where there is no such file."""
    results, table = path.parent.parent, path.parent.name
    try:
        rows = read(results, table, path.stem, [TABLES[table].names[0], "status"]).to_pydict()
        ids, states = rows.values()
        strange = set(states) - {"ok", "failed"}
        if strange or not ids:
            raise ValueError(f"its status is {strange.pop()!r}" if strange else "it is empty")
        return dict(zip(ids, states, strict=True))
    except MissingError:
        return None
    except ValueError as error:
        raise StudyError(_unreadable(results, table, path.stem, error)) from error
