"""Compaction: the same rows in fewer files, whenever it is stopped and whoever works beside it."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis import results as analysis_results
from jobs import _console
from jobs import compact as compact_job
from study.errors import StudyError
from study.store import compaction, records, schemas, storage
from tests.conftest import PATIENCE
from tests.study.store.test_records import FAILED, HISTORY, PREDICTIONS, ROW

FORK = multiprocessing.get_context("fork")
FINISHED = [f"{number:04x}" for number in range(5)]
FAILING, HALF = "00fa", "00ff"
EVALUATIONS = {"set": ["v2", "sketch"], "evaluation_samples": [10, 20], "transfer_delta": [0.1, -0.05]}


def record(results, trial: str, **row) -> None:
    """A finished trial; its number is its seed, so that no two are of one setting."""
    row = ROW | {"seed": int(trial, 16)} | row
    records.write_trial(results, trial, row, PREDICTIONS, HISTORY, EVALUATIONS)


def fill(results) -> None:
    """Finished trials, a failed one, and one that is half recorded: its row is to come."""
    records.prepare(results, schemas.TRANSFER_TABLES)
    for trial in FINISHED:
        record(results, trial)
    records.write_failure(results, "trials", FAILING, FAILED | {"student": "s", "method": "m"})
    records.write(results, "predictions", HALF, PREDICTIONS)
    records.write(results, "history", HALF, HISTORY)
    records.write(results, "evaluations", HALF, EVALUATIONS)


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A results folder to copy from."""
    results = tmp_path_factory.mktemp("filled") / "results"
    fill(results)
    return results


@pytest.fixture
def local(filled, tmp_path) -> Path:
    return shutil.copytree(filled, tmp_path / "results")


def uploaded(filled: Path, s3) -> storage.Remote:
    """A copy of the results folder at the store."""
    results = storage.at(s3.url(uuid.uuid4().hex))
    for path in filled.rglob("*.parquet"):
        storage.upload(path, results / path.parent.name / path.name)
    return results


@pytest.fixture(params=["path", "s3"])
def results(request, filled):
    if request.param == "path":
        return request.getfixturevalue("local")
    return uploaded(filled, request.getfixturevalue("s3"))


def rows(results, table: str) -> pd.DataFrame:
    """A whole table, in an order of its own."""
    place = results / table
    if isinstance(place, Path):
        read = pd.read_parquet(place)
    else:
        read = pq.read_table(place.key, filesystem=place.system).to_pandas()
    read = comparable(read)
    return read.sort_values(list(read.columns), ignore_index=True)


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """Lists and mappings as text: what can be sorted."""
    nested = [name for name in ("teachers", "classes_taught", "measures") if name in frame]
    return frame.assign(**{name: frame[name].map(str) for name in nested})


def contents(results) -> dict[str, pd.DataFrame]:
    return {table: rows(results, table) for table in compaction.TABLES}


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for table, frame in expected.items():
        pd.testing.assert_frame_equal(found[table], frame)


def names(results, table: str) -> list[str]:
    return [path.stem for path in storage.files(results / table, ".parquet")]


def assert_nothing_lost_or_doubled(results, expected: dict[str, pd.DataFrame]) -> None:
    """As those see it who read while files are being merged."""
    states = dict.fromkeys(FINISHED, "ok") | {FAILING: "failed"}
    assert records.status(results, "trials") == states
    if isinstance(results, Path):
        trials = comparable(analysis_results.load(results)).sort_values("trial", ignore_index=True)
        pd.testing.assert_frame_equal(
            trials, expected["trials"].sort_values("trial", ignore_index=True), check_like=True
        )
    for table in compaction.TABLES:
        found = rows(results, table)
        pd.testing.assert_frame_equal(found.drop_duplicates(ignore_index=True), expected[table])


# --- the same rows ----------------------------------------------------------------------------------


def test_the_rows_stay_and_the_files_become_few(results):
    before, status = contents(results), records.status(results, "trials")
    told = []
    tables = compaction.compact(results, lambda table, share: told.append((table, share)))
    assert_same(contents(results), before)
    assert records.status(results, "trials") == status == dict.fromkeys(FINISHED, "ok") | {FAILING: "failed"}
    own = {"trials": [FAILING], "history": [HALF], "predictions": [HALF]}
    for table, alone in own.items():
        merged, *others = names(results, table)[::-1]
        assert merged.startswith(records.MERGED)
        assert others == alone
    assert tables == [compaction.Merged(table, len(FINISHED), 2) for table in compaction.TABLES]
    assert told == [(table, 1.0) for table in compaction.TABLES]


def test_merged_files_carry_the_schema_and_its_descriptions(local):
    compaction.compact(local)
    for table in compaction.TABLES:
        (path,) = (local / table).glob(f"{records.MERGED}*")
        found, schema = pq.read_schema(path), schemas.TABLES[table]
        assert found.equals(schema)
        assert found.metadata == schema.metadata
        # Not the types' own names of what is in a list or a map, which Parquet gives.
        assert [field.metadata for field in found] == [field.metadata for field in schema]


def test_a_second_compaction_has_nothing_to_do_and_a_third_merges_what_is_new(results):
    compaction.compact(results)
    before = {table: names(results, table) for table in compaction.TABLES}
    assert [table.files for table in compaction.compact(results)] == [0, 0, 0, 0]
    assert {table: names(results, table) for table in compaction.TABLES} == before
    record(results, "0100")
    assert [table.files for table in compaction.compact(results)] == [0, 0, 0, 0]  # one file is none too many
    record(results, "0101")
    expected = contents(results)
    assert [table.files for table in compaction.compact(results)] == [2, 2, 2, 2]
    assert_same(contents(results), expected)


def test_a_soup_has_no_history_and_that_of_others_stays(results):
    """Its file of no rows goes as those of others do, alone or among them."""
    expected = contents(results)["history"]
    for trial in ("0100", "0101"):
        nothing = {name: [] for name in HISTORY}
        records.write_trial(results, trial, ROW | {"seed": int(trial, 16)}, PREDICTIONS, nothing, EVALUATIONS)
    compaction.compact(results)
    pd.testing.assert_frame_equal(contents(results)["history"], expected)
    assert [table.files for table in compaction.compact(results)] == [0, 0, 0, 0]
    for trial in ("0102", "0103"):  # nothing but soups
        records.write_trial(results, trial, ROW | {"seed": int(trial, 16)}, PREDICTIONS, nothing, EVALUATIONS)
    assert [table.files for table in compaction.compact(results)] == [2, 2, 2, 2]
    pd.testing.assert_frame_equal(contents(results)["history"], expected)
    assert records.status(results, "trials")["0103"] == "ok"


def test_many_small_files_become_several_large_ones(local, monkeypatch):
    before = contents(local)
    monkeypatch.setattr(compaction, "BYTES", 2 * (local / "trials" / f"{FINISHED[0]}.parquet").stat().st_size)
    compaction.compact(local)
    assert len([name for name in names(local, "trials") if name.startswith(records.MERGED)]) == 2
    assert_same(contents(local), before)


def test_a_trial_that_failed_and_is_run_again_is_merged_then(results):
    compaction.compact(results)
    record(results, FAILING)
    record(results, HALF)
    assert [table.files for table in compaction.compact(results)] == [2, 2, 2, 2]
    assert set(records.status(results, "trials").values()) == {"ok"}
    assert len(rows(results, "predictions")) == 3 * (len(FINISHED) + 2)


def test_one_trial_is_found_without_reading_the_others(local, monkeypatch):
    monkeypatch.setattr(compaction, "ROW_GROUP", 3)
    wanted = [("trial", "==", FINISHED[2])]
    before = pd.read_parquet(local / "predictions", filters=wanted)
    compaction.compact(local)
    after = pd.read_parquet(local / "predictions", filters=wanted)
    pd.testing.assert_frame_equal(after, before)
    (path,) = (local / "predictions").glob(f"{records.MERGED}*")
    file = pq.ParquetFile(path)
    spans = [file.metadata.row_group(group).column(0).statistics for group in range(file.num_row_groups)]
    assert sum(span.min <= FINISHED[2] <= span.max for span in spans) == 1
    assert file.num_row_groups == len(FINISHED)


# --- stopped at any moment --------------------------------------------------------------------------


class Stopped(Exception):
    """The compaction ends here."""


class Stopping:
    """Lets so many writes and removals through, and ends before the next one or once the last is done."""

    def __init__(self, monkeypatch, calls: int, last_one_done: bool) -> None:
        self.left, self.last_one_done, self.lock, self.used = calls, last_one_done, threading.Lock(), 0
        for name in ("write", "remove"):
            monkeypatch.setattr(storage, name, self._counted(getattr(storage, name)))

    def _counted(self, action):
        def call(*arguments):
            with self.lock:  # nothing more happens in any thread
                if self.used >= self.left:
                    raise Stopped
                self.used += 1
                action(*arguments)
                if self.used == self.left and self.last_one_done:
                    raise Stopped

        return call


CALLS = len(compaction.TABLES) * (1 + len(FINISHED))


@pytest.mark.parametrize("last_one_done", [False, True], ids=["before", "after"])
def test_stopped_before_or_after_any_write_or_removal_nothing_is_lost(
    filled, tmp_path, monkeypatch, last_one_done
):
    expected = contents(filled)
    for calls in range(1 if last_one_done else 0, CALLS + last_one_done):
        results = shutil.copytree(filled, tmp_path / str(calls))
        with monkeypatch.context() as patch:
            stopping = Stopping(patch, calls, last_one_done)
            with pytest.raises(Stopped):
                compaction.compact(results)
            assert stopping.used == calls
        assert_nothing_lost_or_doubled(results, expected)
        compaction.compact(results)
        assert_same(contents(results), expected)
        assert sum(len(names(results, table)) for table in compaction.TABLES) <= 3 * 2 + 2


def test_no_more_is_written_and_removed_than_that(local, monkeypatch):
    stopping = Stopping(monkeypatch, 10**9, False)
    compaction.compact(local)
    assert stopping.used == CALLS


@pytest.mark.parametrize("calls", [0, 1, 3, 7, CALLS - 1])
def test_stopped_at_a_store_nothing_is_lost(filled, s3, monkeypatch, calls):
    results, expected = uploaded(filled, s3), contents(filled)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        Stopping(patch, calls, False)
        compaction.compact(results)
    assert_nothing_lost_or_doubled(results, expected)
    compaction.compact(results)
    assert_same(contents(results), expected)


def test_killed_at_random_moments_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "BYTES", 200_000)  # several merged files
    results = tmp_path / "results"
    records.prepare(results, schemas.TRANSFER_TABLES)
    trials = [f"{number:04x}" for number in range(120)]
    for trial in trials:
        record(results, trial)
    expected, generator, killed = contents(results), random.Random(0), 0
    for _ in range(40):
        process = FORK.Process(target=compaction.compact, args=(results,))
        process.start()
        process.join(generator.uniform(0.02, 0.25))
        process.kill()
        process.join()
        killed += process.exitcode != 0
        assert records.status(results, "trials") == dict.fromkeys(trials, "ok")
        assert len(analysis_results.load(results)) == len(trials)
        if process.exitcode == 0:
            break
    assert killed
    compaction.compact(results)
    assert_same(contents(results), expected)


# --- beside others ----------------------------------------------------------------------------------


def _write(results: Path, trials: list[str]) -> None:
    for trial in trials:
        record(results, trial)


def _watch(results: Path, pipe) -> None:
    """Say what once was there and is not any more, or stands there twice."""
    seen, looked = set(), 0
    while looked < 2 or not pipe.poll():
        status = records.status(results, "trials")
        loaded = analysis_results.load(results)["trial"]
        found = {trial for trial, state in status.items() if state == "ok"}
        if seen - found or not found <= set(loaded) or loaded.duplicated().any():
            pipe.send(f"lost {sorted(seen - found)[:3]}, or not loaded {sorted(found - set(loaded))[:3]}")
            return
        seen, looked = found, looked + 1
    pipe.send(looked)


def test_beside_a_sweep_and_a_reader_nothing_ever_goes_missing(tmp_path):
    results = tmp_path / "results"
    records.prepare(results, schemas.TRANSFER_TABLES)
    trials = [f"{number:04x}" for number in range(250)]
    _write(results, trials[:50])
    pipe, other = FORK.Pipe()
    writer = FORK.Process(target=_write, args=(results, trials[50:]), daemon=True)
    reader = FORK.Process(target=_watch, args=(results, other), daemon=True)
    writer.start()
    reader.start()
    rounds = 0
    while writer.is_alive():
        compaction.compact(results)
        rounds += 1
    pipe.send("enough")
    assert pipe.poll(PATIENCE)
    looked = pipe.recv()
    assert isinstance(looked, int), looked
    assert looked > 1
    assert rounds > 1
    compaction.compact(results)
    assert records.status(results, "trials") == dict.fromkeys(trials, "ok")
    assert len(rows(results, "predictions")) == 3 * len(trials)


def test_a_list_of_files_torn_by_a_compaction_is_read_again(local, monkeypatch):
    """A folder's list is no snapshot: it may lack the new file, and what was removed before it came there."""
    status, files = records.status(local, "trials"), storage.files

    def torn(folder, suffix):
        monkeypatch.setattr(storage, "files", files)
        before = files(folder, suffix)
        compaction.compact(local)
        return [path for path in before if path.exists()]

    monkeypatch.setattr(storage, "files", torn)
    assert records.status(local, "trials") == status


def test_two_at_once_are_refused(local):
    told = []

    def another(table, share):
        with pytest.raises(StudyError, match=rf"^{local}: is being compacted already"):
            compaction.compact(local)
        told.append(table)

    compaction.compact(local, another)
    assert told == list(compaction.TABLES)


def test_a_lock_of_one_that_was_killed_stops_nobody(local):
    process = FORK.Process(target=compaction.compact, args=(local, lambda table, share: time.sleep(60)))
    process.start()
    while len(names(local, "trials")) > 2:
        time.sleep(0.01)
    process.kill()
    process.join()
    compaction.compact(local)
    assert len(names(local, "predictions")) == 2


@pytest.mark.parametrize("state", ["ok", "failed"])
def test_a_trial_of_two_sweeps_counts_once_and_is_finished_if_one_finished_it(results, state):
    compaction.compact(results)
    expected = contents(results)
    if state == "ok":
        record(results, FINISHED[1])
    else:  # the other sweep does not look into merged files
        records.write_failure(results, "trials", FINISHED[1], FAILED)
    assert records.status(results, "trials")[FINISHED[1]] == "ok"
    if isinstance(results, Path):
        trials = analysis_results.load(results)
        assert trials["trial"].tolist().count(FINISHED[1]) == 1
        assert trials.set_index("trial").loc[FINISHED[1], "status"] == "ok"
    compaction.compact(results)
    assert_same(contents(results), expected)


# --- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", compaction.TABLES)
@pytest.mark.parametrize("merged", [False, True], ids=["small", "merged"])
def test_a_damaged_file_is_told_in_one_sentence_and_nothing_of_its_table_removed(local, table, merged):
    if merged:
        compaction.compact(local)
    stem = names(local, table)[-1] if merged else FINISHED[1]
    path = local / table / f"{stem}.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    before = names(local, table)
    with pytest.raises(StudyError) as told:
        compaction.compact(local)
    assert str(told.value).startswith(f"{path}: not a readable record")
    assert "\n" not in str(told.value)
    assert names(local, table) == before


def test_a_merged_file_that_is_not_as_it_was_written_replaces_nothing(local, monkeypatch):
    """A disk that changes bytes: what is read back decides."""
    before, write = contents(local), storage.write

    def badly(location, content):
        write(location, content.to_pybytes()[:-200] + bytes(200))

    with monkeypatch.context() as patch, pytest.raises(StudyError, match=records.MERGED):
        patch.setattr(storage, "write", badly)
        compaction.compact(local)
    for path in (local / "trials").glob(f"{records.MERGED}*"):
        path.unlink()  # what the sentence says
    assert_same(contents(local), before)


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def command(content, write_study, monkeypatch):
    """A function that runs jobs/compact.py and gives its exit status."""
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)  # these tests' process keeps its own

    def run(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", [compact_job.__file__, str(write_study(content)), *options])
        with pytest.raises(SystemExit) as ended:
            _console.main(compact_job.job)
        return ended.value.code

    return run


def test_the_command_says_what_it_did(command, results, s3, capsys):
    place = str(results) if isinstance(results, Path) else s3.url(results.name)
    assert command("--results", place) == 0
    said = capsys.readouterr().out
    for table in compaction.TABLES:
        assert f"{table}: 5 files merged, 2 files now" in said
    assert str(results) in said


@pytest.mark.parametrize("place", ["path", "s3"])
def test_results_that_are_not_there_are_refused_and_not_made(command, tmp_path, s3, capsys, place):
    nowhere = str(tmp_path / "nowhere") if place == "path" else s3.url("nowhere")
    assert command("--results", nowhere) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "nowhere: no trial is recorded there; run the study first" in said
    assert not (tmp_path / "nowhere").exists()


def test_trials_of_before_a_column_was_are_merged_with_later_ones(tmp_path):
    """Old records lack what was added since: null in the merged file, and nothing else is lost."""
    fill(tmp_path)
    old = tmp_path / "history" / f"{FINISHED[0]}.parquet"
    table = pq.read_table(old)
    new = ["teacher_entropy", "watched_accuracy", "watched_nll"]
    pq.write_table(table.drop_columns(new), old, write_page_checksum=True)
    compaction.compact(tmp_path, lambda table, share: None)
    assert not old.exists()
    merged = pd.concat(map(pd.read_parquet, (tmp_path / "history").glob("merged-*.parquet")))
    assert {*merged["trial"]} == {*FINISHED} and {*merged.columns} == {*schemas.HISTORY.names}
    assert merged.loc[merged["trial"] == FINISHED[0], new].isna().all(axis=None)
