"""Reading tables of many files: one as ten thousand, of several versions, damaged, and merged meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import atlas_results, report, results
from analysis.results import ResultsError, load, read
from analysis.training_measures import load_history
from study.store import compaction, records, schemas
from tests.analysis import atlases, sweeps

AGAIN = "make it again"


@pytest.fixture(autouse=True)
def few_together(monkeypatch):
    """Several parts even of a dozen files."""
    monkeypatch.setattr(results, "TOGETHER", 3)


@pytest.fixture(scope="module")
def sweep():
    return sweeps.simulate(3, 3, samples=200, failed=2)


@pytest.fixture
def folder(tmp_path, sweep) -> Path:
    """A file a trial."""
    return sweeps.write(tmp_path / "results", sweep, predictions=False)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values("trial", ignore_index=True)


def some_files(place: Path, *tables: pa.Table | pd.DataFrame) -> Path:
    """Files a, b, c and so on."""
    place.mkdir()
    for name, table in zip("abcdefgh", tables, strict=False):
        content = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(content, place / f"{name}.parquet", write_page_checksum=True)
    return place


def test_many_files_are_as_one(folder, tmp_path, sweep):
    trials = read(folder / "trials", AGAIN)
    pd.testing.assert_frame_equal(trials, in_order(sweep.trials))
    merged = sweeps.write(tmp_path / "merged", sweep, merged=1, predictions=False)
    for table in ("history", "plans"):
        together = pd.read_parquet(merged / table)
        pd.testing.assert_frame_equal(read(folder / table, AGAIN), together)
        pd.testing.assert_frame_equal(read(merged / table, AGAIN), together)


def test_columns_that_are_asked_for(folder, sweep):
    columns = ["trial", "transfer_delta", "unheard_of"]
    trials = read(folder / "trials", AGAIN, columns)
    pd.testing.assert_frame_equal(trials, in_order(sweep.trials)[columns[:2]])
    loaded = load(folder, ["seconds"])
    assert "seconds" in loaded and "spec" not in loaded and {*results.KEYS, *results.MEASURES} <= set(loaded)
    pd.testing.assert_frame_equal(loaded, load(folder)[loaded.columns])


@pytest.mark.parametrize("older", [0, 5, -1])
def test_columns_that_older_records_lack_are_null_for_them(folder, older, sweep):
    path = sorted((folder / "trials").glob("*.parquet"))[older]
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["host", "schedule"]), path)
    trials = load(folder)
    lacking = trials["trial"] == path.stem
    assert lacking.sum() == 1 and trials["host"].isna().tolist() == lacking.tolist()
    others = ["host", "schedule"]
    expected = in_order(sweep.trials).drop(columns=others)
    pd.testing.assert_frame_equal(trials.drop(columns=others), expected)
    assert trials.loc[~lacking, "schedule"].eq("cosine").all()


@pytest.mark.parametrize("older", [0, 5, -1])
def test_a_needed_column_that_one_file_lacks_is_refused(folder, older):
    path = sorted((folder / "trials").glob("*.parquet"))[older]
    pq.write_table(pq.read_table(path).drop_columns(["teacher"]), path)
    told = f"{path}: the column teacher is missing, so another version made this record; "
    told += "remove it and run its trial again"
    with pytest.raises(ResultsError) as refused:
        load(folder)
    assert str(refused.value) == told


def test_trials_on_images_without_classes_are_told(folder):
    for path in (folder / "trials").glob("*.parquet"):
        table = pq.read_table(path)
        for name in ("transfer_delta", "knowledge_gain", "knowledge_loss"):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), pa.nulls(len(table), pa.float64()))
        pq.write_table(table, path)
    with pytest.raises(ResultsError, match=r"nobody has said the classes .*; what the models answered is in"):
        load(folder)


def test_a_needed_column_that_all_files_lack_is_refused(folder, sweep):
    for path in (folder / "history").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["loss"]), path)
    with pytest.raises(
        ResultsError, match=r"history: the column loss is missing, .*; run the study again in a new"
    ):
        load_history(folder, sweep.trials)


def test_history_that_lacks_a_column_in_one_file_is_refused(folder, sweep):
    path = sorted((folder / "history").glob("*.parquet"))[4]
    pq.write_table(pq.read_table(path).drop_columns(["loss"]), path)
    with pytest.raises(
        ResultsError, match=f"^{path}: the column loss is missing, .*; remove it and run its trial"
    ):
        load_history(folder, sweep.trials)


def test_damaged_files_are_named(folder):
    path = sorted((folder / "trials").glob("*.parquet"))[7]
    whole = path.read_bytes()
    number = schemas.TRIALS.get_field_index("student_parameters")
    flipped = bytearray(whole)
    # In the page that holds the value: another number, which only the checksum tells.
    flipped[pq.read_metadata(path).row_group(0).column(number).data_page_offset - 1] ^= 1
    for damaged in (flipped, whole[:-9], whole[:4], b""):
        path.write_bytes(damaged)
        with pytest.raises(ResultsError) as told:
            load(folder)
        assert str(told.value).startswith(f"{path}: not a readable record (")
        assert str(told.value).endswith("; remove it and run its trial again")
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("foreign", [1, 4])
def test_a_file_whose_columns_do_not_fit_is_named(tmp_path, foreign):
    tables = [pd.DataFrame({"trial": [str(n)], "seed": [n]}) for n in range(6)]
    tables[foreign]["seed"] = "seven"
    place = some_files(tmp_path / "t", *tables)
    with pytest.raises(ResultsError) as told:
        read(place, AGAIN)
    assert str(told.value).startswith(f"{place / 'abcdef'[foreign]}.parquet: not a readable record (")
    assert "seed" in str(told.value) and str(told.value).endswith(f"; remove it and {AGAIN}")


def test_types_that_fit_are_brought_together(tmp_path):
    first = pa.table({"trial": ["x"], "seed": pa.array([1], pa.int32()), "share": pa.nulls(1)})
    second = pa.table({"seed": [2], "trial": pa.array(["y"], pa.large_string()), "share": [0.5]})
    table = read(some_files(tmp_path / "t", first, second), AGAIN)
    expected = pd.DataFrame({"trial": ["x", "y"], "seed": [1, 2], "share": [np.nan, 0.5]})
    pd.testing.assert_frame_equal(table, expected)


def test_files_that_are_being_written_and_other_files_are_passed_over(folder, sweep):
    trials = folder / "trials"
    whole = next(trials.glob("*.parquet")).read_bytes()
    (trials / ".a.parquet").write_bytes(whole[:100])
    (trials / ".b.parquet.123.tmp").write_bytes(whole[:100])
    (trials / "notes.txt").write_text("mine")
    assert len(load(folder)) == len(sweep.trials)


def test_categories_stay_categories(tmp_path):
    one, two = (
        pa.table({"student": pa.array(names, pa.dictionary(pa.int32(), pa.string())), "rho": [0.1, 0.2]})
        for names in (["a", "b"], ["c", "b"])
    )
    place = some_files(tmp_path / "pairs", one, two)
    single = read(place / "a.parquet", AGAIN)
    pd.testing.assert_frame_equal(single, pd.read_parquet(place / "a.parquet"))
    both = read(place, AGAIN)["student"]
    assert both.dtype == "category" and both.tolist() == ["a", "b", "c", "b"]


def test_a_table_without_rows_keeps_its_columns(tmp_path):
    empty = (
        schemas.PAIRS.empty_table() if hasattr(records, "PAIRS") else pa.table({"a": pa.array([], "int64")})
    )
    place = some_files(tmp_path / "pairs", empty)
    assert list(read(place / "a.parquet", AGAIN)) == list(read(place, AGAIN)) == empty.column_names


def test_what_is_not_there(tmp_path):
    with pytest.raises(ResultsError, match=rf"^{tmp_path / 'a.parquet'}: not a readable record"):
        read(tmp_path / "a.parquet", AGAIN)
    assert read(tmp_path, AGAIN).empty


def test_a_planned_study_without_trials_is_told(folder):
    for path in (folder / "trials").iterdir():
        path.unlink()
    with pytest.raises(ResultsError, match="no trial is recorded there; run the study first"):
        load(folder)


class Meanwhile:
    """Opens Parquet files, and does something before the `number`-th, or after it."""

    def __init__(self, monkeypatch, action, number: int) -> None:
        self.action, self.left, self.opened = action, number, pq.ParquetFile
        monkeypatch.setattr(results, "cores", lambda: 1)
        monkeypatch.setattr(results.pq, "ParquetFile", self)

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            results.pq.ParquetFile = self.opened
            try:
                self.action()
            finally:
                results.pq.ParquetFile = self
        return self.opened(*arguments, **options)


@pytest.mark.parametrize("number", [1, 5, 12])
def test_files_merged_while_they_are_read_are_found(folder, sweep, monkeypatch, number):
    expected = in_order(sweep.trials)
    Meanwhile(monkeypatch, lambda: compaction.compact(folder), number)
    pd.testing.assert_frame_equal(in_order(load(folder)), expected)
    assert len(list((folder / "trials").glob("merged-*"))) == 1


def test_history_merged_while_it_is_read_is_there_once(folder, sweep, monkeypatch):
    Meanwhile(monkeypatch, lambda: compaction.compact(folder), 4)
    history = load_history(folder, sweep.trials)
    assert len(history) == len(sweep.history)
    assert sorted(history["loss"]) == sorted(sweep.history["loss"])


def test_what_was_merged_while_files_were_listed_is_found(folder, sweep, monkeypatch):
    """A list that was made across a compaction can hold neither the small files nor the merged one."""
    compaction.compact(folder)
    (merged,) = (folder / "trials").glob("merged-*")
    listed, calls = results._files, []

    def torn(place):
        calls.append(place)
        return [path for path in listed(place) if len(calls) > 1 or path != merged]

    monkeypatch.setattr(results, "_files", torn)
    assert len(read(folder / "trials", AGAIN)) == len(sweep.trials)


def test_a_file_that_is_removed_while_it_is_read_is_passed_over(folder, sweep, monkeypatch):
    path = sorted((folder / "trials").glob("*.parquet"))[6]
    Meanwhile(monkeypatch, path.unlink, 2)
    assert sorted(load(folder)["trial"]) == sorted(set(sweep.trials["trial"]) - {path.stem})


def test_other_peoples_files_are_told_in_a_sentence(tmp_path, monkeypatch, capsys):
    def theirs(*arguments, **options):
        raise PermissionError(13, "Permission denied", "/theirs/trials")

    atlas = atlases.write(tmp_path / "atlas", atlases.tables(atlases.simulate(3, 100, 5), pairs=2))
    for module, reader, place in ((results, "load", tmp_path), (atlas_results, "load_atlas", atlas)):
        monkeypatch.setattr(module, reader, theirs)
        assert report.main([str(place)]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: /theirs/trials: you may not read, or write, here")
