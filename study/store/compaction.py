"""Many small files of records merged into few large ones: same tables, same columns, same rows.

A sweep leaves three files a trial, and reading a hundred thousand of them takes minutes, or hours from
an object store. `compact` may run at any time, also beside a sweep, and may be stopped at any moment:
a merged file is written whole, read back and compared before the files it replaces are removed, so
that a record is always in at least one of them; readers that see it in both keep one (`records.status`,
`analysis.results.load`). What was left over by a compaction that was stopped, the next one removes.

Only finished trials are merged. What failed, or has no row in `trials` yet, stays in files of its own,
which a sweep replaces when it tries again. Left out on purpose: the atlas's tables, a file a model, of
which there are as many as timm has models.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from study.errors import StudyError
from study.store import digest, records, storage
from study.store.storage import Location

TABLES = ("trials", "history", "evaluations", "predictions")
BYTES = 64 << 20  # of small files that go into a merged one
ROW_GROUP = 1 << 17  # rows: sorted by trial, so that a reader of some trials can pass over the others


@dataclass(frozen=True)
class Merged:
    """What became of a table: small files merged, and files there are now."""

    table: str
    files: int
    left: int


def compact(
    results: Location, progress: Callable[[str, float], None] = lambda table, share: None
) -> list[Merged]:
    """Merge the finished trials' files of a results folder.

    Args:
        results: the results folder.
        progress: called with a table and the share of it that is done.

    Returns:
        A line a table.

    Raises:
        StudyError: there is no such folder, a file is no readable record, or another compaction is at work.
    """
    if not (results / "trials").exists():
        raise StudyError(
            f"{results}: no trial is recorded there; run the study first, or choose another folder with "
            "--results"
        )
    # One at a time; at a URL, where nothing can be locked, the user sees to that.
    local = isinstance(results, Path)
    try:
        with FileLock(results / ".compacting", timeout=0) if local else contextlib.nullcontext():
            status = records.status(results, "trials")
            finished = {trial for trial, state in status.items() if state == "ok"}
            tables = [table for table in TABLES if storage.files(results / table, ".parquet")]
            return [_compact(results, table, finished, progress) for table in tables]
    except Timeout as error:
        raise StudyError(f"{results}: is being compacted already; wait until that has ended") from error


def _compact(results: Location, table: str, finished: set[str], progress: Callable) -> Merged:
    merged_before: set[str] = set()
    small = []
    for path in storage.files(results / table, ".parquet"):
        if path.name.startswith(records.MERGED):
            trials = records.read(results, table, path.stem, ["trial"])["trial"]
            merged_before |= set(trials.unique().to_pylist())
        elif path.stem in finished:
            small.append(path)
    # Merged before, and not removed then, or recorded once more by another sweep since.
    storage.at_once(storage.remove, [path for path in small if path.stem in merged_before])
    small = [path for path in small if path.stem not in merged_before]
    done = merged = 0
    for batch in batches(small):
        if len(batch) > 1:
            _merge(results, table, batch)
            merged += len(batch)
        done += len(batch)
        progress(table, done / len(small))
    return Merged(table, merged, len(storage.files(results / table, ".parquet")))


def batches(paths: list[Location]) -> Iterator[list[Location]]:
    """Files in their order, as many together as take `BYTES`."""
    batch, size = [], 0
    for path, (bytes_, _) in zip(paths, storage.at_once(storage.stamp, paths), strict=True):
        batch.append(path)
        size += bytes_
        if size >= BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _merge(results: Location, table: str, paths: list[Location]) -> None:
    parts = storage.at_once(lambda path: records.read(results, table, path.stem), paths)
    rows = pa.concat_tables(parts, promote_options="default")  # those of before a column was have null
    name = records.MERGED + digest.of_json([path.stem for path in paths])
    content = pa.BufferOutputStream()
    pq.write_table(rows, content, compression="zstd", write_page_checksum=True, row_group_size=ROW_GROUP)
    merged = results / table / f"{name}.parquet"
    storage.write(merged, content.getvalue())
    if not records.read(results, table, name).equals(rows):
        storage.remove(merged)
        raise StudyError(
            f"{merged}: was not read back as it was written; nothing was removed; check the disk"
        )
    storage.at_once(storage.remove, paths)
