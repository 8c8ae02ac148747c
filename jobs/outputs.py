"""What the outputs folder holds, checked file by file; with --clear, make room.

    python jobs/outputs.py [STUDY] [--models PATTERN ...] [--damaged] [--clear]

Nothing is lost by clearing: outputs are computed again where they are needed.
"""

from __future__ import annotations

import fnmatch

from rich.filesize import decimal
from rich.table import Table

from jobs import _console, _run
from study.store import outputs


def job() -> None:
    parser = _console.parser(__doc__.splitlines()[0], "outputs")
    parser.add_argument("--models", nargs="+", metavar="PATTERN", help="only outputs of these models")
    parser.add_argument("--damaged", action="store_true", help="only files that are damaged")
    parser.add_argument("--clear", action="store_true", help="remove them")
    arguments = parser.parse_args()

    study = _run.load(arguments)
    store = outputs.Store(study.folders.outputs)
    entries = [
        entry
        for entry in store.entries()
        if (not arguments.damaged or entry.problem)
        and any(fnmatch.fnmatch(entry.model, pattern) for pattern in arguments.models or ["*"])
    ]
    table = Table("model", "split", "samples", "size", "file", "problem", box=None)
    for entry in entries:
        table.add_row(
            entry.model,
            entry.split,
            f"{entry.samples:,}" if entry.samples else "",
            decimal(entry.size),
            entry.path.name,
            entry.problem,
        )
    if entries:
        _console.console.print(table)
    total = decimal(sum(entry.size for entry in entries))
    _console.console.print(f"outputs: {len(entries)} files, {total}, in {store.folder}")
    if arguments.clear:
        _console.console.print(f"outputs: {decimal(store.clear(entries))} freed")


if __name__ == "__main__":
    _console.main(job)
