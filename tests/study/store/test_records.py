"""The records: schemas, atomic files, and what readers see of damaged and half-written ones."""

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.errors import StudyError
from study.store import records, schemas

ROOT = Path(__file__).resolve().parents[3]
FINISHED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
VALUES = {
    pa.string(): "text",
    pa.int64(): 2**40,
    pa.float64(): 0.1,
    pa.bool_(): True,
    pa.list_(pa.string()): ["one", "other"],
    pa.list_(pa.int64()): [0, 2],
    pa.timestamp("us", tz="UTC"): FINISHED,
}
ROW = {field.name: VALUES[field.type] for field in schemas.TRIALS if field.name != "trial"}
ROW |= {"status": "ok", "combine": None, "order": None}
FAILED = {"study": "demo", "status": "failed", "reason": "diverged", "epochs": 5}
PREDICTIONS = {
    "index": np.arange(3),
    "label": np.array([0, 1, 2]),
    "student_before": np.array([0, 0, 2]),
    "student_before_confidence": np.array([0.5, 0.25, 1.0], np.float32),
    "student_after": np.array([0, 1, 1]),
    "student_after_confidence": np.array([0.5, 0.75, 1.0], np.float32),
}
HISTORY = {
    "epoch": [0, 1],
    "stage": [0, 0],
    "loss": [1.5, 0.5],
    "lr": [0.1, 0.0],
    "teacher_share": [None, None],
    "seconds": [1, 2],
    "student_accuracy": [None, 0.5],
    "measures": [{"kl": 0.5, "xe": 1.5}, {}],
}
DTYPES = {
    "string": "str",
    "int64": "int64",
    "int32": "int32",
    "double": "float64",
    "float": "float32",
    "bool": "bool",
    "list<item: string>": "object",
    "list<item: int64>": "object",
    "timestamp[us, tz=UTC]": "datetime64[us, UTC]",
}


@pytest.fixture
def results(tmp_path):
    """An empty results folder."""
    records.prepare(tmp_path / "results", schemas.TRANSFER_TABLES)
    return tmp_path / "results"


def files(results):
    """Every file below a folder, hidden ones too, with its bytes."""
    return {path.relative_to(results): path.read_bytes() for path in results.rglob("*") if path.is_file()}


def write_trial(results, trial, row=ROW, predictions=PREDICTIONS, history=HISTORY):
    records.write_trial(results, trial, row, predictions, history)


# --- schemas ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", schemas.TABLES)
def test_every_column_is_described(table):
    described = schemas.describe(schemas.TABLES[table])
    assert [name for name, _, _ in described] == schemas.TABLES[table].names
    assert len({name for name, _, _ in described}) == len(described)
    for name, _, text in described:
        assert len(text) > 5, name
        assert "|" not in text, name  # would break the table in docs/records.md
        assert "\n" not in text, name


def test_documentation_is_up_to_date():
    """After a change of a schema: `make docs`."""
    assert (ROOT / "docs" / "records.md").read_text() == schemas.documentation()


# --- writing and reading ----------------------------------------------------------------------------


def test_finished_trial_round_trips_through_pandas(results):
    write_trial(results, "t1")
    trials = pd.read_parquet(results / "trials")
    row = trials.iloc[0].to_dict()
    lists = {name: row.pop(name).tolist() for name in ("teachers", "classes_taught")}
    assert lists == {name: ROW[name] for name in lists}
    nothing = {name for name, value in row.items() if pd.isna(value)}
    expected = ROW | {"trial": "t1", "finished": pd.Timestamp(FINISHED)} | dict.fromkeys(nothing)
    assert dict.fromkeys(nothing) == {"combine": None, "order": None}
    assert row | dict.fromkeys(nothing) | lists == expected
    for field in schemas.TRIALS:
        assert str(trials[field.name].dtype) == DTYPES[str(field.type)], field.name
    predictions = pd.read_parquet(results / "predictions")
    assert predictions["trial"].tolist() == ["t1"] * 3
    for name, values in PREDICTIONS.items():
        assert predictions[name].tolist() == values.tolist()
        assert str(predictions[name].dtype) == DTYPES[str(schemas.PREDICTIONS.field(name).type)]
    assert predictions["teacher"].isna().all()
    history = pd.read_parquet(results / "history")
    assert history["loss"].tolist() == HISTORY["loss"]
    assert history["seconds"].tolist() == [1.0, 2.0]
    assert history["student_accuracy"].isna().tolist() == [True, False]
    assert [dict(measures) for measures in history["measures"]] == HISTORY["measures"]


def planned(*trials: str) -> dict[str, list]:
    count = len(trials)
    columns = {"student": ["s"], "teacher": [None], "method": ["xe"], "seed": [3]}
    return {"trial": list(trials), **{name: count * value for name, value in columns.items()}}


def test_files_carry_the_schema_and_its_descriptions(results):
    write_trial(results, "t1")
    records.write_plan(results, "plans", "demo", planned("t1"))
    for table, name in (("trials", "t1"), ("predictions", "t1"), ("history", "t1"), ("plans", "demo")):
        read = pq.read_schema(results / table / f"{name}.parquet")
        assert read.equals(schemas.TABLES[table])
        assert read.metadata == schemas.TABLES[table].metadata
        assert [field.metadata for field in read] == [field.metadata for field in schemas.TABLES[table]]


def test_trials_make_one_table(results):
    """Nulls of the control, of a failed trial, or of all trials keep the columns' types."""
    write_trial(results, "a")
    control = {name: None for name in ROW if name.startswith("teacher")} | {"transfer_rate": None}
    write_trial(results, "b", ROW | control)
    records.write_failure(results, "trials", "c", FAILED)
    trials = pd.read_parquet(results / "trials").set_index("trial")
    assert trials["status"].to_dict() == {"a": "ok", "b": "ok", "c": "failed"}
    assert trials["teacher"].isna().tolist() == [False, True, True]
    assert trials["rho_pos_before"].isna().tolist() == [False, False, True]
    assert trials["reason"]["c"] == "diverged"
    expected = {"str": "str", "int64": "float64", "float64": "float64", "bool": "object"}
    for field in schemas.TRIALS:
        if field.name not in ("trial", "epochs"):
            dtype = DTYPES[str(field.type)]
            assert str(trials[field.name].dtype) == expected.get(dtype, dtype), field.name
    assert trials["epochs"].dtype == "int64"
    for name in ("a", "b", "c"):
        assert pq.read_schema(results / "trials" / f"{name}.parquet").equals(schemas.TRIALS)
    assert len(pd.read_parquet(results / "predictions")) == 6


def test_plan_names_the_trials_of_a_study(results):
    records.write_plan(results, "plans", "demo", planned("a", "b"))
    records.write_plan(results, "plans", "other", planned())
    records.write_plan(results, "plans", "demo", planned("b", "c"))
    plans = pd.read_parquet(results / "plans")
    assert plans[["trial", "study"]].to_dict("list") == {"trial": ["b", "c"], "study": ["demo", "demo"]}
    assert plans["seed"].tolist() == [3, 3] and plans["teacher"].isna().all()
    records.prepare(results, ("atlas",))
    records.write_plan(results, "atlas", "demo", {"model": ["m"]})
    assert pd.read_parquet(results / "atlas").to_dict("list") == {"model": ["m"], "study": ["demo"]}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"epoch": [0], "accuracy": [0.5]}, "accuracy"),
        ({"epoch": [0, 1], "loss": [0.5]}, "history"),
        ({}, "history"),
        ({"epoch": ["first"]}, None),
        ({"epoch": [2**70]}, None),
    ],
    ids=["unknown column", "ragged", "no column", "wrong type", "too large"],
)
def test_bad_columns_are_refused(results, columns, said):
    with pytest.raises((ValueError, OverflowError), match=said):
        records.write(results, "history", "t1", columns)
    assert not files(results)


# --- files appear whole or not at all ---------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()], ids=repr)
@pytest.mark.parametrize("existing", [False, True])
def test_interrupted_write_leaves_everything_as_it_was(results, monkeypatch, error, existing):
    if existing:
        write_trial(results, "t1")
    before = files(results)

    def interrupted(path, content):
        with path.open("wb") as stream:
            stream.write(memoryview(content)[: len(content) // 2])
        raise error

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(type(error)):
        records.write(results, "trials", "t1", {"status": ["ok"]})
    assert files(results) == before


@pytest.mark.parametrize("broken", ["predictions", "history"])
def test_trial_whose_other_tables_fail_is_not_recorded(results, broken):
    with pytest.raises(ValueError, match="nonsense"):
        write_trial(results, "t1", **{broken: {"nonsense": [1]}})
    assert records.status_of(results, "trials", "t1") is None
    assert records.status(results, "trials") == {}


def test_readers_pass_over_temporary_files(results):
    write_trial(results, "t1")
    for table in schemas.TRANSFER_TABLES:
        (results / table / ".t2.parquet.0123abcd.tmp").write_bytes(b"PAR1 half of a file")
        (results / table / ".probe.0123abcd").write_bytes(b"")
        (results / table / ".t3.parquet").write_bytes(b"")
    assert records.status(results, "trials") == {"t1": "ok"}
    for table in ("trials", "predictions", "history"):
        assert set(pd.read_parquet(results / table)["trial"]) == {"t1"}


def test_two_writers_of_a_trial_leave_one_whole_file(results):
    start = threading.Barrier(2)
    failures = []

    def write(value):
        try:
            start.wait()
            for _ in range(20):
                records.write(results, "history", "t1", {"epoch": [value] * 2000})
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(value,)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    assert list(files(results)) == [Path("history/t1.parquet")]
    epochs = pd.read_parquet(results / "history")["epoch"]
    assert len(epochs) == 2000
    assert epochs.nunique() == 1


# --- status -----------------------------------------------------------------------------------------


def test_status_of_every_trial(results, tmp_path):
    assert records.status(tmp_path / "nowhere", "trials") == {}
    assert records.status_of(results, "trials", "a") is None
    write_trial(results, "a")
    records.write_failure(results, "trials", "b", FAILED)
    assert records.status(results, "trials") == {"a": "ok", "b": "failed"}
    assert records.status_of(results, "trials", "b") == "failed"


def test_failure_never_replaces_a_finished_record(results):
    write_trial(results, "t1")
    before = files(results)
    records.write_failure(results, "trials", "t1", FAILED)
    assert files(results) == before


def test_failure_replaces_a_failure_and_is_replaced_by_a_success(results):
    records.write_failure(results, "trials", "t1", FAILED)
    records.write_failure(results, "trials", "t1", FAILED | {"reason": "diverged again"})
    assert pd.read_parquet(results / "trials")["reason"].tolist() == ["diverged again"]
    write_trial(results, "t1")
    assert records.status(results, "trials") == {"t1": "ok"}


def empty_file(path):
    path.write_bytes(b"")


def text_file(path):
    path.write_text("not Parquet at all\nnor this\n")


def cut_file(path):
    path.write_bytes(path.read_bytes()[:-100])


def zeros_inside(path):
    path.write_bytes(path.read_bytes()[:4] + bytes(path.stat().st_size - 8) + b"PAR1")


def other_table(path):
    pq.write_table(pa.table({"trial": ["t1"]}), path)


def no_row(path):
    pq.write_table(schemas.TRIALS.empty_table(), path)


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [empty_file, text_file, cut_file, zeros_inside, other_table, no_row, folder],
    ids=lambda damage: damage.__name__,
)
def test_damaged_record_is_told_in_one_sentence(results, damage):
    write_trial(results, "t0")
    write_trial(results, "t1")
    path = results / "trials" / "t1.parquet"
    damage(path)
    for ask in (
        lambda: records.status(results, "trials"),
        lambda: records.status_of(results, "trials", "t1"),
    ):
        with pytest.raises(StudyError) as told:
            ask()
        assert str(told.value).startswith(f"{path}: not a readable record")
        assert "remove the file" in str(told.value)
        assert "\n" not in str(told.value)
    assert records.status_of(results, "trials", "t0") == "ok"


# --- the results folder -----------------------------------------------------------------------------


def test_prepare_makes_folders_and_leaves_records_alone(tmp_path):
    results = tmp_path / "deep" / "results"
    records.prepare(results, schemas.TRANSFER_TABLES)
    assert {path.name for path in results.iterdir()} == set(schemas.TRANSFER_TABLES)
    write_trial(results, "t1")
    before = files(results)
    records.prepare(results, schemas.TRANSFER_TABLES)
    assert files(results) == before


@pytest.mark.parametrize("below", ["file", "file/results", "file/deep/results"])
def test_results_below_a_file_are_refused(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudyError, match=rf"^{tmp_path / below}: .* --results$"):
        records.prepare(tmp_path / below, schemas.TRANSFER_TABLES)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_results_without_permission_are_refused(results):
    (results / "history").chmod(0o500)
    with pytest.raises(StudyError, match=r"cannot be written .* --results$"):
        records.prepare(results, schemas.TRANSFER_TABLES)
    (results / "history").chmod(0o700)
