"""A results folder as a data set for others: few Parquet files a table, and a card that says what they are.

`gather` copies what the studies of a results folder consist of, each trial and model once, into files as
`study.store.compaction` makes them, so that the copy is a results folder itself: `analysis/report.py`
reads it, and `pandas.read_parquet` each of its tables. `card` describes it as the Hugging Face Hub wants
it, one configuration a table.

Left out on purpose: records of former trials of an edited study; names of machines and folders, and what a
URL is reached with (`private`); effects, which would need their control and interval (`analysis/`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from study.errors import StudyError
from study.store import compaction, digest, records, storage
from study.store.schemas import GEOMETRY_TABLES, TABLES
from study.store.storage import Location

# A table with a row a trial or model: which table says which ones count, and which have rows of each.
ROWS = {
    "trials": ("plans", ("predictions", "history", "evaluations", *GEOMETRY_TABLES)),
    "models": ("atlas", ("model_predictions", "model_classes", "soft_labels", *GEOMETRY_TABLES)),
}
OF_STUDIES = ("plans", "atlas", "pairs", "pair_classes", "classes")
MADE_HERE = "made here"  # from random weights: nobody else has a say in it
OPEN = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", MADE_HERE}
NONCOMMERCIAL = re.compile(r"\bnc\b|non-?commercial", re.IGNORECASE)


@dataclass
class DataSet:
    """What `gather` has copied.

    Attributes:
        files: by their names in the data set.
        rows: number of them, by table.
        trials, models: rows of these tables.
        former: trials and models left out, since no study consists of them any more.
        lacking: finished trials and models without predictions.
        dropped: columns left out, which another version recorded.
    """

    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    trials: list[dict] = field(default_factory=list)
    models: list[dict] = field(default_factory=list)
    former: int = 0
    lacking: int = 0
    dropped: set[str] = field(default_factory=set)


def gather(results: Location, folder: Path, progress: Callable[[str], None] = lambda table: None) -> DataSet:
    """Copy the tables of a results folder into `folder`; no row stands there twice.

    Args:
        results: the results folder.
        folder: an empty folder of this machine.
        progress: called with each table before it is copied.

    Raises:
        StudyError: there is no such folder, nothing finished in it, a file is no readable record, or it was
            compacted meanwhile.
        StorageError: `folder` cannot be written.
    """
    made = DataSet()
    for table, (plan, others) in ROWS.items():
        progress(table)
        rows = _counted(results, table, plan, made)
        if not rows:
            continue
        setattr(made, table, rows.to_pylist())
        _write(rows, table, folder, made)
        done = set(rows.filter(pc.equal(rows["status"], "ok")).column(0).to_pylist())
        for other in others:
            progress(other)
            found = _copy(results, other, done, folder, made)
            if other.endswith("predictions"):  # a soup has no history, and few studies other evaluation sets
                made.lacking += len(done - found)
    if not any(row["status"] == "ok" for row in made.trials + made.models):
        raise StudyError(
            f"{results}: no finished trial or model is recorded there; give the results folder of a study "
            "that has run"
        )
    for table in OF_STUDIES:
        progress(table)
        for path in storage.files(results / table, ".parquet"):
            _write(_read(path), table, folder, made, path.stem)
    return made


def _read(path: Location) -> pa.Table:
    try:
        return records.read(path.parent.parent, path.parent.name, path.stem)
    except records.MissingError as error:
        raise _gone(path) from error


def _gone(path: Location | str) -> StudyError:
    return StudyError(f"{path}: was merged into another file meanwhile; run this again")


def _counted(results: Location, table: str, plan: str, made: DataSet) -> pa.Table | None:
    """The rows of `trials` or `models` that studies consist of, each id once, 'ok' before 'failed'."""
    read = storage.at_once(_read, storage.files(results / table, ".parquet"))
    if not read:
        return None
    rows = pa.concat_tables([_fitted(part, table, made) for part in read])
    name = rows.column_names[0]
    rows = rows.sort_by([("status", "descending"), (name, "ascending")])
    first = {key: place for place, key in reversed([*enumerate(rows[name].to_pylist())])}
    rows = rows.take(sorted(first.values()))
    plans = storage.at_once(_read, storage.files(results / plan, ".parquet"))
    if plans:
        planned = pa.concat_arrays([part[name].combine_chunks() for part in plans])
        kept = rows.filter(pc.is_in(rows[name], planned))
        made.former += len(rows) - len(kept)
        rows = kept
    return _private(rows)


def _copy(results: Location, table: str, wanted: set[str], folder: Path, made: DataSet) -> set[str]:
    """Copy the rows of some trials or models; gives those that were found."""
    found: set[str] = set()
    paths = storage.files(results / table, ".parquet")
    paths = [path for path in paths if path.name.startswith(records.MERGED) or path.stem in wanted]
    try:
        batches = list(compaction.batches(paths))
    except FileNotFoundError as error:
        raise _gone(error.filename) from error
    for batch in batches:
        parts = []
        for part in storage.at_once(_read, batch):
            ids = part.column(0)
            new = (wanted - found).intersection(ids.unique().to_pylist())
            found |= new
            parts.append(_fitted(part.filter(pc.is_in(ids, pa.array(sorted(new), ids.type))), table, made))
        rows = pa.concat_tables(parts)
        if len(rows):
            _write(rows, table, folder, made)
    return found


def _fitted(rows: pa.Table, table: str, made: DataSet) -> pa.Table:
    """Rows with the columns that the table has today, null where another version recorded none."""
    schema = TABLES[table]
    made.dropped |= {f"{table}.{name}" for name in set(rows.column_names) - set(schema.names)}
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _write(rows: pa.Table, table: str, folder: Path, made: DataSet, name: str | None = None) -> None:
    """Write a file, named after its content where it has no name."""
    rows = _fitted(rows, table, made)
    schema = pa.schema([_loadable(field) for field in rows.schema], metadata=rows.schema.metadata)
    content = pa.BufferOutputStream()
    pq.write_table(rows.cast(schema), content, compression="zstd", row_group_size=compaction.ROW_GROUP)
    content = content.getvalue()
    name = f"{table}/{name or records.MERGED + digest.of_bytes(content)[:16]}.parquet"
    storage.make((folder / name).parent)
    storage.write(folder / name, content)
    made.files[name] = folder / name
    made.rows[table] = made.rows.get(table, 0) + len(rows)


def _loadable(field: pa.Field) -> pa.Field:
    """The `datasets` library knows no maps: a list of names and values has the same bytes."""
    if not pa.types.is_map(field.type):
        return field
    pair = pa.struct([("key", field.type.key_type), ("value", field.type.item_type)])
    return field.with_type(pa.list_(pair))


# --- what is nobody else's business ---------------------------------------------------------------


def _private(rows: pa.Table) -> pa.Table:
    """Rows without names of machines, and with files and folders by their last name alone."""
    for name, change in (("host", lambda text: None), ("spec", _spec), ("reason", short)):
        values = [text and change(text) for text in rows[name].to_pylist()]
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values, pa.string()))
    return rows


def short(text: str) -> str:
    """A text whose paths and URLs are their last names: 'a.pt' of '/home/me/a.pt' and of 's3://key:secret@b/a.pt'."""
    return re.sub(
        r"(?<![\w.~])(?:\w+://|~?/)[^\s'\",;)]*[^\s'\",;:.)]",
        lambda found: PurePosixPath(found[0].partition("?")[0]).name,
        text,
    )


def _spec(text: str) -> str:
    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: of(part) for name, part in value.items()}
        if isinstance(value, list):
            return [of(part) for part in value]
        return short(value) if isinstance(value, str) else value

    return json.dumps(of(json.loads(text)))


# --- the card -------------------------------------------------------------------------------------


def licenses(made: DataSet) -> dict[str, str | None]:
    """The licence of each model whose outputs are there, by name; `MADE_HERE`, or None if not known."""
    found: dict[str, str | None] = {}
    for row in made.models:
        if row["source"] != "seed":
            found[row["name"]] = row["license"] or _license_of(json.loads(row["spec"] or "{}"))
    for row in made.trials:
        recorded = {row["student"]: row["student_license"]}
        if len(row["teachers"] or ()) == 1:
            recorded[row["teacher"]] = row["teacher_license"]
        described = _models(row)
        for name in (row["student"], *(row["teachers"] or ())):
            if name and name not in found:
                found[name] = recorded.get(name) or _license_of(described.get(name, {}))
    return dict(sorted(found.items()))


def _models(row: dict) -> dict[str, dict]:
    """The models of a trial as its record describes them, by name."""
    about = json.loads(row["spec"] or "{}")
    return {model["name"]: model for model in (about.get("student"), *about.get("teachers", ())) if model}


def _license_of(model: dict) -> str | None:
    """The licence of a model as a record describes it; None where it, or the description, is not known."""
    from study import spec
    from study.models import zoo

    if _made_here(model):
        return MADE_HERE
    try:
        return ", ".join(sorted(zoo.licenses_of(spec.Model.model_validate(model)))) or None
    except ValueError:  # of another version
        return None


def _made_here(model: dict) -> bool:
    """Whether a model's weights are made from random ones alone."""
    weights = model.get("weights") or {}
    match weights.get("source"):
        case "seed":
            return True
        case "trained":
            return (weights.get("start") or {"source": "seed"})["source"] == "seed"
        case "transferred":
            return all(map(_made_here, (weights["student"], *weights["teachers"])))
        case "averaged":
            return all(map(_made_here, weights["models"]))
        case "grafted":
            return _made_here(weights["backbone"]) and _made_here(weights["head"])
        case _:
            return False


def terms(license: str | None) -> str:
    """What the names of licences say of them: 'open', 'non-commercial' or 'see its terms'."""
    if license and NONCOMMERCIAL.search(license):
        return "non-commercial"
    return "open" if license and set(license.split(", ")) <= OPEN else "see its terms"


def card(made: DataSet, repository: str, license: str | None = None) -> str:
    """The card, Markdown with the metadata that the hub reads.

    Args:
        made: as `gather` gives it.
        repository: USER/NAME.
        license: of the data set, by the hub's name of it; None to name none.
    """
    tables = [table for table in TABLES if table in made.rows]
    metadata = DatasetCardData(
        license=license,
        pretty_name=repository.partition("/")[2],
        tags=[
            "knowledge-transfer",
            "knowledge-distillation",
            "image-classification",
            "timm",
            "arxiv:2310.17653",
        ],
        configs=[
            {"config_name": table, "data_files": f"{table}/*.parquet"} | ({"default": True} if first else {})
            for table, first in ((table, table == tables[0]) for table in tables)
        ],
    )
    every = made.trials + made.models
    done = [row for row in every if row["status"] == "ok"]
    models = [
        {"name": name, "license": license, "terms": terms(license), **_described(name, made)}
        for name, license in licenses(made).items()
    ]
    template = resources.files("study.store").joinpath("card.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(
        metadata=metadata.to_yaml(),
        repository=repository,
        tables=[(table, made.rows[table]) for table in tables],
        studies=_values(every, "study"),
        data=sorted(
            {
                f"{row['data']} ({row['classes']} classes, SHA-256 {row['data_sha256'][:12]})"
                for row in done
                if row["data_sha256"]
            }
        ),
        trials={status: sum(row["status"] == status for row in made.trials) for status in ("ok", "failed")},
        students=_values(made.trials, "student"),
        methods=_values(made.trials, "method"),
        seeds=_values(made.trials, "seed"),
        budgets=sorted(
            {(row["epochs"], row["transfer_samples"]) for row in made.trials if row["status"] == "ok"}
        ),
        evaluated=_values([row for row in made.trials if row["status"] == "ok"], "evaluation_samples"),
        models=models,
        restricted={
            kind: [model["name"] for model in models if model["terms"] == kind]
            for kind in ("non-commercial", "see its terms")
        },
        versions={name: _values(done, f"{name}_version") for name in ("study", "torch", "timm", "python")},
    )


def _values(rows: Iterable[dict], column: str) -> list:
    return sorted({row[column] for row in rows if row[column] is not None})


def _described(name: str, made: DataSet) -> dict[str, str]:
    """What a model is: its timm architecture and family, and the beginning of its weights' SHA-256."""
    for row in made.models:
        if row["name"] == name:
            return {"timm": row["timm"], "weights": (row["weights"] or "")[:12], "source": row["source"]}
    for row in made.trials:
        for role in ("student", "teacher"):
            if row[role] == name and row[f"{role}_timm"]:
                weights = row[f"{role}_weights"] or ""
                source = (_models(row).get(name, {}).get("weights") or {}).get("source", "")
                return {"timm": row[f"{role}_timm"], "weights": weights[:12], "source": source}
    return {"timm": "", "weights": "", "source": ""}
