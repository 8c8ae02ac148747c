"""What a trial leaves behind: Parquet tables with explicit schemas, written atomically.

Three tables, one file a trial in each, under the results folder, and one file a study:

- `trials/<trial>.parquet`: one row, what was run and what came of it;
- `predictions/<trial>.parquet`: one row an evaluation sample, what the three models said of it;
- `history/<trial>.parquet`: one row an epoch of the transfer;
- `plans/<study>.parquet`: one row a trial the study now consists of. A study that was edited leaves
  the records of its former trials where they are; the plan says which ones count.

Every column carries its description in the field's Parquet metadata (`describe`), from which
`docs/records.md` is made. Shares, rates and accuracies are fractions in [0, 1]. The row in `trials`
is written last, so a trial is recorded when, and only when, that file exists; a file appears whole
or not at all (temporary name, then rename), so writers on one file system need no locks.

`python -m study.records` prints `docs/records.md`. The reading side (`analysis/`) shares nothing
with this module but the schema: `pandas.read_parquet(results / "trials")` is enough.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import StudyError


def _schema(table: str, *columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    fields = [pa.field(name, kind, metadata={"description": text}) for name, kind, text in columns]
    return pa.schema(fields, metadata={"table": table, "schema_version": "1"})


_F, _I, _S = pa.float64(), pa.int64(), pa.string()
_TRIAL = ("trial", _S, "id of the trial: a hash of everything that can change its result")

TRIALS = _schema(
    "trials",
    _TRIAL,
    ("study", _S, "name of the study that ran the trial"),
    ("status", _S, "'ok', or 'failed' (then `reason` says why and the measures are null)"),
    ("reason", _S, "why a failed trial failed; null for 'ok'"),
    ("student", _S, "name of the student in the study's zoo"),
    ("student_timm", _S, "the student's timm architecture"),
    ("student_family", _S, "'cnn', 'transformer' or 'mlp'"),
    ("student_parameters", _I, "parameters of the student"),
    ("student_weights", _S, "SHA-256 of the student's weights before transfer (all tensors, in order)"),
    ("teacher", _S, "name of the teacher in the study's zoo; null for methods without one"),
    ("teacher_timm", _S, "the teacher's timm architecture"),
    ("teacher_family", _S, "'cnn', 'transformer' or 'mlp'"),
    ("teacher_parameters", _I, "parameters of the teacher"),
    ("teacher_weights", _S, "SHA-256 of the teacher's weights (all tensors, in order)"),
    ("method", _S, "name of the method in the study"),
    ("lr", _F, "peak learning rate"),
    ("temperature", _F, "distillation temperature T; null where nothing is distilled"),
    ("weight", _F, "lambda, the weight of KL against cross-entropy in XE-KL; null elsewhere"),
    ("slow_decay", _F, "tau of the slow weights actually used; null without slow weights"),
    ("slow_every", _I, "steps between two updates of the slow weights; null without"),
    ("epochs", _I, "epochs over the transfer set"),
    ("batch_size", _I, "samples a step"),
    ("momentum", _F, "SGD momentum"),
    ("weight_decay", _F, "SGD weight decay"),
    ("schedule", _S, "learning-rate schedule: 'constant' or 'cosine' (to 0)"),
    ("flip", pa.bool_(), "whether the transfer view mirrors samples at random"),
    ("seed", _I, "seed of the trial: sample order, view, dropout"),
    ("data", _S, "source of the images"),
    ("data_sha256", _S, "SHA-256 of the .beton file the trial read"),
    ("classes", _I, "number of classes"),
    ("transfer_samples", _I, "samples in the transfer set"),
    ("evaluation_samples", _I, "samples evaluated; times any share below: a whole number"),
    ("student_accuracy_before", _F, "top-1 accuracy of the student before transfer"),
    ("teacher_accuracy", _F, "top-1 accuracy of the teacher"),
    ("student_accuracy_after", _F, "top-1 accuracy of the student after transfer"),
    ("accuracy_difference", _F, "Delta_acc: teacher's minus student's accuracy before transfer"),
    ("transfer_delta", _F, "Delta_transf: student's accuracy after minus before"),
    ("rho_pos_before", _F, "positive flips before: teacher right, student wrong (complementary knowledge)"),
    ("rho_neg_before", _F, "negative flips before: teacher wrong, student right"),
    ("rho_pos_after", _F, "positive flips of the same teacher that remain after transfer"),
    ("rho_neg_after", _F, "negative flips after transfer"),
    ("knowledge_gain", _F, "share of samples the student got wrong before and right after"),
    ("knowledge_loss", _F, "share of samples the student got right before and wrong after"),
    (
        "transfer_rate",
        _F,
        "share of the positive flips that the student got right afterwards; null if there were none",
    ),
    (
        "teacher_share",
        _F,
        "share of training samples taught by the teacher, over all epochs; null where nothing is partitioned",
    ),
    ("seconds_load", _F, "seconds to load models and frozen outputs"),
    ("seconds_train", _F, "seconds of the transfer itself"),
    ("seconds_evaluate", _F, "seconds of evaluation"),
    ("seconds", _F, "seconds of the whole trial"),
    ("device", _S, "device the trial ran on"),
    ("host", _S, "host the trial ran on"),
    ("finished", pa.timestamp("us", tz="UTC"), "when the trial finished"),
    ("python_version", _S, "version of Python"),
    ("torch_version", _S, "version of torch"),
    ("timm_version", _S, "version of timm"),
    ("study_version", _S, "version of this project"),
    ("spec", _S, "the whole trial as JSON: `study.spec.Trial.model_validate_json` gives it back"),
)

PREDICTIONS = _schema(
    "predictions",
    _TRIAL,
    ("index", _I, "index of the sample in the .beton file"),
    ("label", pa.int32(), "true class"),
    ("student_before", pa.int32(), "class the student predicted before transfer"),
    ("student_before_confidence", pa.float32(), "its softmax probability"),
    ("teacher", pa.int32(), "class the teacher predicted; null for methods without a teacher"),
    ("teacher_confidence", pa.float32(), "its softmax probability"),
    ("student_after", pa.int32(), "class the student predicted after transfer"),
    ("student_after_confidence", pa.float32(), "its softmax probability"),
)

HISTORY = _schema(
    "history",
    _TRIAL,
    ("epoch", _I, "epoch, from 0"),
    ("loss", _F, "mean training loss of the epoch"),
    ("lr", _F, "learning rate at the epoch's last step"),
    (
        "teacher_share",
        _F,
        "share of the epoch's samples taught by the teacher; null where nothing is partitioned",
    ),
    ("seconds", _F, "seconds the epoch took"),
)

PLANS = _schema(
    "plans",
    _TRIAL,
    ("study", _S, "name of the study that consists of these trials"),
)

TABLES: dict[str, pa.Schema] = {
    "trials": TRIALS,
    "predictions": PREDICTIONS,
    "history": HISTORY,
    "plans": PLANS,
}


@contextlib.contextmanager
def replacing(path: Path):
    """Yield a temporary path beside `path`; on success rename it to `path`, on failure remove it.

    The temporary name starts with a dot, which Parquet readers of a folder pass over.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def prepare(results: Path) -> None:
    """Make the results folder, and refuse one that cannot be written.

    Raises:
        StudyError: the folder cannot be created or written.
    """
    try:
        for table in TABLES:
            (results / table).mkdir(parents=True, exist_ok=True)
            probe = results / table / f".probe.{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
    except OSError as error:
        raise StudyError(
            f"{results}: the results folder cannot be written ({error.strerror}); "
            "choose another one with --results"
        ) from error


def write(results: Path, table: str, name: str, columns: Mapping[str, Sequence]) -> Path:
    """Write one file of one table, whole or not at all.

    Args:
        results: the results folder (see `prepare`).
        table: a key of `TABLES`.
        name: the file's name without its ending: the trial's id, or in `plans` the study's name.
        columns: a value list (or array) a column, all of one length; a column of the schema left
            out is null, except that `trial` is filled with `name`.

    Raises:
        ValueError: a column the schema does not know, or columns of different lengths.
    """
    schema = TABLES[table]
    unknown = set(columns) - set(schema.names)
    lengths = {len(values) for values in columns.values()}
    if unknown or len(lengths) != 1:
        raise ValueError(f"{table}: unknown columns {sorted(unknown)} or lengths {lengths}")
    (length,) = lengths
    default = {"trial": [name] * length}
    arrays = [
        pa.array(columns.get(field.name, default.get(field.name, [None] * length)), type=field.type)
        for field in schema
    ]
    path = results / table / f"{name}.parquet"
    with replacing(path) as temporary:
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=schema),
            temporary,
            compression="zstd",
            write_page_checksum=True,
        )
    return path


def write_trial(results: Path, trial: str, row: Mapping, predictions: Mapping, history: Mapping) -> None:
    """Record a finished trial: predictions and history first, the row that says so last."""
    write(results, "predictions", trial, predictions)
    write(results, "history", trial, history)
    write(results, "trials", trial, {name: [value] for name, value in row.items()})


def write_plan(results: Path, study: str, trials: Sequence[str]) -> None:
    """Say which trials a study now consists of."""
    write(results, "plans", study, {"trial": trials, "study": [study] * len(trials)})


def write_failure(results: Path, trial: str, row: Mapping) -> None:
    """Record that a trial failed, unless a finished record of it exists already."""
    if status_of(results, trial) != "ok":
        write(results, "trials", trial, {name: [value] for name, value in row.items()})


def status(results: Path) -> dict[str, str]:
    """The status of every recorded trial, by id; empty where there are no results yet.

    Raises:
        StudyError: a file under `trials/` is not a readable record.
    """
    return {path.stem: _status(path) for path in sorted((results / "trials").glob("[!.]*.parquet"))}


def status_of(results: Path, trial: str) -> str | None:
    """The status of one trial; None if it is not recorded."""
    path = results / "trials" / f"{trial}.parquet"
    return _status(path) if path.exists() else None


def _status(path: Path) -> str:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            (status,) = file.read(columns=["status"])["status"].to_pylist()
        if status not in ("ok", "failed"):
            raise ValueError(f"its status is {status!r}")
        return status
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise StudyError(
            f"{path}: not a readable record ({str(error).splitlines()[0]}); remove the file and its trial "
            "will be run again"
        ) from error


def describe(schema: pa.Schema) -> list[tuple[str, str, str]]:
    """(name, type, description) of every column."""
    return [(f.name, str(f.type), f.metadata[b"description"].decode()) for f in schema]


def documentation() -> str:
    """The text of `docs/records.md`."""
    lines = [
        "# The records",
        "",
        "<!-- Made by `python -m study.records > docs/records.md`; edit the schemas there. -->",
        "",
        "One Parquet file a trial and table, under the results folder. `pandas.read_parquet(results /",
        '"trials")` reads a whole table. Accuracies, shares and rates are fractions in [0, 1].',
        "A trial is recorded when its file under `trials/` exists: that file is written last, and every",
        "file is written under a temporary name and renamed.",
    ]
    for table, schema in TABLES.items():
        lines += ["", f"## `{table}`", "", "| column | type | what it holds |", "|---|---|---|"]
        lines += [f"| `{name}` | {kind} | {text} |" for name, kind, text in describe(schema)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(documentation(), end="")
