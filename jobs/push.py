"""Upload a results folder to the Hugging Face Hub: one Parquet data set with a card, by one commit.

    python jobs/push.py RESULTS USER/NAME [--public] [--license ID] [--dry-run]

A repository that is made is private unless --public; one that is there keeps who may see it. Former files of
the tables are replaced. --dry-run lists what would be uploaded, and asks the hub nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from rich.filesize import decimal
from rich.table import Table

from jobs import _console
from study.errors import StudyError
from study.store import dataset, hub, schemas, storage
from study.store.storage import Location


def push(
    results: Location,
    repository: str,
    *,
    public: bool = False,
    license: str | None = None,
    dry_run: bool = False,
) -> None:
    """Upload results; what cannot be is a `StudyError`."""
    out = _console.console
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        with _console.Progress("push", len(schemas.TABLES)) as progress:
            made = dataset.gather(
                results,
                Path(folder),
                lambda table: progress.update(list(schemas.TABLES).index(table), f"gathering {table}"),
            )
        card = dataset.card(made, repository, license)
        tell(made)
        if dry_run:
            out.print(f"push: nothing is uploaded; the card would be:\n\n{card}", markup=False)
            return
        files = {**made.files, "README.md": card.encode()}
        count = f"{len(made.trials)} trials, {len(made.models)} models"
        with contextlib.nullcontext() if out.is_terminal else without_bars():
            url = hub.commit(repository, "dataset", files, f"Records: {count}", schemas.TABLES, public=public)
    out.print(f"push: {url}")
    out.print(f"read it with pandas: pd.read_parquet('hf://datasets/{repository}/{next(iter(made.rows))}')")


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Keep the hub's own bars out of a log."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def tell(made: dataset.DataSet) -> None:
    """What is to be uploaded, and what is not."""
    out = _console.console
    table = Table("table", "rows", "files", "size", box=None)
    for name, rows in made.rows.items():
        files = [path for file, path in made.files.items() if file.startswith(f"{name}/")]
        size = sum(path.stat().st_size for path in files)
        table.add_row(name, f"{rows:,}", str(len(files)), decimal(size))
    out.print(table)
    total = sum(path.stat().st_size for path in made.files.values())
    out.print(f"push: {len(made.files)} files and README.md, {decimal(total)}")
    if made.former:
        out.print(f"push: without {made.former} former trials or models, of before a study was edited")
    if made.lacking:
        out.print(f"push: {made.lacking} trials or models have no predictions in these results")
    if made.dropped:
        out.print(f"push: without columns of another version: {', '.join(sorted(made.dropped))}")
    restricted = [name for name, given in dataset.licenses(made).items() if dataset.terms(given) != "open"]
    if restricted:
        out.print(
            f"push: not under an open licence, or none is known (see the card): {', '.join(restricted)}"
        )


def job() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", metavar="RESULTS", help="results folder, or its URL")
    parser.add_argument("repository", metavar="USER/NAME", help="the data set's repository")
    parser.add_argument("--public", action="store_true", help="let everybody see it, where it is made")
    parser.add_argument("--license", metavar="ID", help="of the data set, by the hub's name: cc-by-4.0, ...")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded and stop")
    arguments = parser.parse_args()
    try:
        results = storage.at(arguments.results)
    except ValueError as error:
        raise StudyError(str(error)) from None
    hub.check(arguments.repository, ask=not arguments.dry_run)
    options = {name: getattr(arguments, name) for name in ("public", "license", "dry_run")}
    push(results, arguments.repository, **options)


if __name__ == "__main__":
    _console.main(job)
