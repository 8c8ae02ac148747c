"""Merge the many small files of a study's records into few large ones; also while a sweep runs.

python jobs/compact.py [STUDY] [--results FOLDER]
"""

from __future__ import annotations

from jobs import _console, _run
from study.store import compaction


def job() -> None:
    arguments = _console.parser(__doc__.splitlines()[0], "results").parse_args()
    study = _run.load(arguments)
    with _console.Progress("compact", 1) as progress:
        tables = compaction.compact(study.results, lambda table, share: progress.update(share, table))
    for table in tables:
        _console.console.print(f"{table.table}: {table.files} files merged, {table.left} files now")
    _console.console.print(f"results: {study.results}")


if __name__ == "__main__":
    _console.main(job)
