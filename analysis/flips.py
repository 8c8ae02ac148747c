"""What became of each sample, counted class by class from the stored predictions of every trial.

Behind Fig. 5a of arXiv 2310.17653 (how much is transferred in the classes that hold most of what the
teacher knows), and the proof that the measures in `trials`, McNemar's counts among them, are those of the
predictions. The table is read a file at a time on all cores and in batches, so that a hundred million rows
take seconds and little memory. `right` gives single samples, of some trials. Left out on purpose:
confidences.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from analysis.atlas_measures import top_classes
from analysis.results import READ_ERRORS, ResultsError, cores

COLUMNS = ["trial", "label", "student_before", "teacher", "student_after"]
COUNTS = ["samples", "flips", "flips_gained", "gained", "lost"]
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MERGED = "merged-"  # how names of files of many trials begin (docs/records.md)
ROWS = 1 << 17  # at once
TRIALS = 256  # at once, where all their classes are sorted

Counts = NDArray[np.int32]


def class_flips(results: Path | str, trials: pd.DataFrame) -> pd.DataFrame:
    """What each finished trial did to the samples of each class.

    Files may be merged meanwhile (jobs/compact.py); a trial that stands in two files is counted once.

    Args:
        results: the results folder.
        trials: as `results.load` gives them; predictions of other trials are passed over.

    Returns:
        One row a (trial, class that it has samples of), sorted so: `trial` (categorical), `class`, `samples`,
        `flips` (positive flips before: teacher right, student wrong), `flips_gained` (those of them that the
        student got right afterwards), `gained` (all that it got wrong before and right after) and `lost`
        (the reverse). Without a teacher there are no flips. A trial whose predictions are not there has no
        row (`without_predictions`).

    Raises:
        ResultsError: a file is damaged or lacks a column.
    """
    ids = sorted(set(trials.loc[trials["status"] == "ok", "trial"]))
    folder = Path(results) / "predictions"
    # A row a trial; rows and pages of it that nothing is written to take no memory.
    counts = [np.zeros((len(ids), 0), np.int32) for _ in COUNTS]
    left = {trial: row for row, trial in enumerate(ids)}
    with ThreadPoolExecutor(cores()) as pool:
        seen: set[Path] = set()
        # What vanishes while it is read has been merged into a file that the next look finds.
        while files := [path for path in _files(folder, set(ids)) if path not in seen]:
            seen.update(files)
            for found in pool.map(partial(_count_file, ids=ids), files):
                _put(counts, {left.pop(trial): found[trial] for trial in found.keys() & left.keys()})
    return _table(ids, counts)


def right(results: Path | str, trials: Collection[str]) -> dict[str, pd.DataFrame]:
    """Who was right about each sample, of some trials.

    Returns:
        By trial a table by the samples' indices: bool `student`, afterwards, and `teacher` (never without
        one). A trial whose predictions are not there is not in it.

    Raises:
        ResultsError: a file is damaged or lacks a column.
    """
    folder, found, seen = Path(results) / "predictions", {}, set()
    with ThreadPoolExecutor(cores()) as pool:
        while files := [path for path in _files(folder, set(trials)) if path not in seen]:
            seen.update(files)
            for of_file in pool.map(partial(_right_of_file, trials=sorted(trials)), files):
                found = of_file | found
    return found


def without_predictions(flips: pd.DataFrame, trials: pd.DataFrame) -> list[str]:
    """Finished trials that `class_flips` found no predictions of, in the order of `trials`."""
    done = trials.loc[trials["status"] == "ok", "trial"]
    return done[~done.isin(flips["trial"].unique())].tolist()


def disagreements(flips: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Where the predictions and the row in `trials` say different things of a trial.

    Args:
        flips: as `class_flips` gives them.
        trials: as `results.load` gives them; a measure that is null, or no column, is not compared.

    Returns:
        One row a (trial, measure) that differs: `trial`, `measure` (column of `trials`), and as numbers of
        samples what it comes to (`recorded`) and what the predictions say (`counted`). Empty if all agree.
    """
    sums = flips.groupby("trial", observed=True)[COUNTS].sum().reset_index().astype({"trial": object})
    rows = trials[trials["status"] == "ok"].merge(sums, on="trial", suffixes=("", "_counted"))
    samples = rows["evaluation_samples"]
    compared = {  # measure: of how many samples it is a share, and how many there are
        "evaluation_samples": (1, rows["samples"]),
        "transfer_delta": (samples, rows["gained"] - rows["lost"]),
        "knowledge_gain": (samples, rows["gained"]),
        "knowledge_loss": (samples, rows["lost"]),
        "rho_pos_before": (samples, rows["flips"]),
        "transfer_rate": (rows["flips"], rows["flips_gained"]),
    }
    found = [
        pd.DataFrame(
            {"trial": rows["trial"], "measure": measure, "recorded": whole * rows[measure], "counted": n}
        )
        for measure, (whole, n) in compared.items()
        if measure in rows
    ]
    table = pd.concat(found, ignore_index=True)
    differ = (table["recorded"] - table["counted"]).abs() > 0.001  # of whole numbers, but for rounding
    return table[differ].sort_values(["trial", "measure"], ignore_index=True)


def top_class_rates(flips: pd.DataFrame, shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """How much of the teacher's knowledge is transferred in the classes that hold most of it.

    The classes of a share are the fewest that together hold at least that share of the trial's positive
    flips, largest first, ties by the number of the class.

    Args:
        flips: as `class_flips` gives them.
        shares: of a trial's flips, in (0, 1].

    Returns:
        One row a (trial with flips, share), sorted so: `trial`, `share`, `classes` (how many they are),
        `flips`, `flips_gained` and `gained` in them, `transfer_rate` (the second over the first) and
        `gain_rate` (the third over the first; `measures.gain_rate`).
    """
    percents = [round(100 * share, 10) for share in shares]
    parts = [_rates(ids, dense, shares, percents) for ids, dense in _matrices(flips)]
    columns = ["trial", "share", "classes", "flips", "flips_gained", "gained", "transfer_rate", "gain_rate"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


# --- reading ------------------------------------------------------------------------------------


def _files(folder: Path, wanted: set[str]) -> list[Path]:
    """Files that may hold wanted trials: those of one trial first, since they count where both are there."""
    files = sorted(folder.glob("[!.]*.parquet"))
    return [path for path in files if path.stem in wanted] + [
        path for path in files if path.name.startswith(MERGED)
    ]


def _count_file(path: Path, ids: Sequence[str]) -> dict[str, Counts]:
    """`COUNTS` by class, [5, classes], of trials in a file, `ids` (sorted) and some others between them.

    Nothing if the file has vanished.
    """
    counted: dict[str, Counts] = {}
    with _readable(path):
        for batch in _batches(path, ids, COLUMNS):
            for trial, counts in _count(batch):
                counted[trial] = _sum(counted[trial], counts) if trial in counted else counts
    return counted


def _right_of_file(path: Path, trials: Sequence[str]) -> dict[str, pd.DataFrame]:
    """`right` of a file, nothing if it has vanished; `trials` are sorted."""
    columns = ["trial", "index", "label", "teacher", "student_after"]
    batches: list[pa.RecordBatch] = []
    with _readable(path):
        batches += _batches(path, trials, columns)
    table = pa.Table.from_batches(batches).to_pandas() if batches else pd.DataFrame(columns=columns)
    table = table[table["trial"].isin(trials)]
    table = table.assign(
        student=table["student_after"] == table["label"], teacher=table["teacher"] == table["label"]
    )
    groups = table.groupby("trial", observed=True)
    return {trial: mine.set_index("index")[["student", "teacher"]] for trial, mine in groups}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Passes over a file that has vanished, and says in one sentence which one is damaged."""
    try:
        yield
    except FileNotFoundError:
        return
    except READ_ERRORS as error:
        reason = str(error).splitlines()[0].rstrip(".")
        remedy = f"remove it and {path.parents[1] / 'trials' / path.name}, and run the study again"
        if path.name.startswith(MERGED):
            remedy = "fetch it again from a copy, or run the study again in a new folder"
        raise ResultsError(f"{path}: not a readable record ({reason}); {remedy}") from error


def _batches(path: Path, ids: Sequence[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Parts of a file that may hold trials of `ids` (sorted), and some others between them."""
    with pq.ParquetFile(path, read_dictionary=["trial"], page_checksum_verification=True) as file:
        lacking = [name for name in columns if name not in file.schema_arrow.names]
        if lacking:
            raise ValueError(f"the column {lacking[0]} is missing")
        groups = _groups(file.metadata, ids)
        yield from file.iter_batches(ROWS, row_groups=groups, columns=columns, use_threads=False)


def _groups(metadata: pq.FileMetaData, ids: Sequence[str]) -> list[int]:
    """Row groups that may hold a trial of `ids` (sorted), by the first and last that they say they hold."""
    (column,) = (n for n in range(metadata.num_columns) if metadata.schema.column(n).path == "trial")
    chosen = []
    for group in range(metadata.num_row_groups):
        known = metadata.row_group(group).column(column).statistics
        unknown = known is None or not known.has_min_max
        if unknown or bisect_left(ids, known.min) < bisect_right(ids, known.max):
            chosen.append(group)
    return chosen


def _count(batch: pa.RecordBatch) -> Iterator[tuple[str, Counts]]:
    """The trials of a batch, and their counts by class."""
    if not batch.num_rows:
        return
    trial = batch["trial"]
    label = batch["label"].fill_null(-1).to_numpy()
    if label.min() < 0:
        raise ValueError("a label is null or negative")
    classes = int(label.max()) + 1
    # Which of the three are right makes a number of three bits; all that is asked for are counts of these.
    key = trial.indices.to_numpy().astype(np.int64)
    key *= classes
    key += label
    for name in ("student_after", "teacher", "student_before"):
        key *= 2
        key += batch[name].fill_null(-1).to_numpy() == label
    size = 8 * classes * len(trial.dictionary)
    right = np.bincount(key, minlength=size).reshape(-1, classes, 2, 2, 2)
    counts = np.stack(
        [
            right.sum(axis=(2, 3, 4)),
            right[:, :, :, 1, 0].sum(axis=2),
            right[:, :, 1, 1, 0],
            right[:, :, 1, :, 0].sum(axis=2),
            right[:, :, 0, :, 1].sum(axis=2),
        ],
        axis=1,
    ).astype(np.int32)
    yield from zip(trial.dictionary.to_pylist(), counts, strict=True)


def _sum(one: Counts, other: Counts) -> Counts:
    """Of two parts of a trial, of which one may not reach the last classes."""
    small, large = sorted((one, other), key=lambda counts: counts.shape[1])
    total = large.copy()
    total[:, : small.shape[1]] += small
    return total


def _put(counts: list[Counts], found: dict[int, Counts]) -> None:
    """Write what was counted, by row, into `counts`, five of [trials, classes], made wider if need be."""
    trials, known = counts[0].shape
    classes = max((new.shape[1] for new in found.values()), default=0)
    if classes > known:
        wide = [np.zeros((trials, classes), old.dtype) for old in counts]
        for old, new in zip(counts, wide, strict=True):
            new[:, :known] = old
        counts[:] = wide
    for row, new in found.items():
        for whole, values in zip(counts, new, strict=True):
            whole[row, : len(values)] = values


def _table(ids: list[str], counts: list[Counts]) -> pd.DataFrame:
    """Counts as one table; they are taken out of `counts` one by one, so as not to be held twice."""
    present = counts[0] > 0
    trial = np.repeat(np.arange(len(ids), dtype=np.int32), np.count_nonzero(present, axis=1))
    of_rows = np.broadcast_to(np.arange(present.shape[1], dtype=np.int32), present.shape)
    columns = {
        "trial": pd.Categorical.from_codes(trial, categories=pd.Index(ids, dtype=object)),
        "class": of_rows[present],
    }
    for name in COUNTS:
        columns[name] = counts.pop(0)[present]
    return pd.DataFrame(columns, copy=False)


# --- classes ------------------------------------------------------------------------------------


def _matrices(flips: pd.DataFrame) -> Iterator[tuple[list[str], NDArray]]:
    """Ids of some trials at a time, and their `flips`, `flips_gained` and `gained` [3, trials, classes]."""
    trial = flips["trial"].cat.codes.to_numpy()
    values = [flips[name].to_numpy() for name in ("class", "flips", "flips_gained", "gained")]
    categories = flips["trial"].cat.categories
    classes = int(values[0].max(initial=0)) + 1
    firsts = range(0, len(categories), TRIALS)
    ends = np.searchsorted(trial, [*firsts, len(categories)])
    for first, rows in zip(firsts, map(slice, ends[:-1], ends[1:]), strict=True):
        ids = categories[first : first + TRIALS]
        place = (trial[rows] - first, values[0][rows])
        dense = np.zeros((3, len(ids), classes), np.int64)
        for matrix, counts in zip(dense, values[1:], strict=True):
            matrix[place] = counts[rows]
        yield ids.tolist(), dense


def _rates(
    ids: Sequence[str], dense: NDArray, shares: Sequence[float], percents: Sequence[float]
) -> pd.DataFrame:
    flips = dense[0]
    sizes = top_classes(flips, percents)
    some = flips.any(axis=1)
    order = np.argsort(-flips, axis=1, kind="stable")
    held, moved, gained = (
        np.take_along_axis(np.cumsum(np.take_along_axis(counts, order, axis=1), axis=1), sizes - 1, axis=1)[
            some
        ]
        for counts in dense
    )
    trials = np.array(ids, object)[some]
    return pd.DataFrame(
        {
            "trial": np.repeat(trials, len(shares)),
            "share": np.tile(np.asarray(shares, float), len(trials)),
            "classes": sizes[some].ravel(),
            "flips": held.ravel(),
            "flips_gained": moved.ravel(),
            "gained": gained.ravel(),
            "transfer_rate": (moved / held).ravel(),
            "gain_rate": (gained / held).ravel(),
        }
    )
