"""Rank each student's teachers before any training, by what is said of images kept aside; predict the gain.

    python jobs/recommend.py [STUDY] [--rule RULE] [--method METHOD]

Every model of the study's pairs is run once over `tune`. What is recorded of other students, if there is
anything, says what a teacher is expected to give; else what is known of this laboratory's own models does.
All rules are recorded, and one is printed. Once the study has run, analysis/report.py says what each of them
would have cost; run this again first, so that other students' results are known.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
from rich.table import Table

from jobs import _console, _engine, _run, zoo
from study import recommend, spec, workspace
from study.errors import StudyError
from study.store import records, schemas


def run_model(model: spec.Model, study: spec.Study) -> dict[str, Any]:
    """One model in a Ray worker: what it says of `tune` is then kept."""
    recommend.ask(workspace.of(study), model)
    return {"status": "ok"}


def ask(study: spec.Study, models: list[spec.Model]) -> None:
    """Run models over `tune`. Needs Ray to be started, the data and the zoo to be there."""
    with _console.Progress("recommend", len(models)) as progress:
        _engine.run(
            partial(run_model, study=study),
            {model.name: model for model in models},
            resources=study.resources.model_copy(update={"workers": 1}),
            progress=progress,
            fatal="zoo.{name}: it could not be asked about 'tune' ({reason})",
        )


def show(ranked: pd.DataFrame, method: str, rule: str) -> None:
    """Each student's teachers, the best first, with what they are expected to give."""
    table = Table("student", "teacher", "score", "expected points", "95 % interval", box=None)
    for student, own in ranked.groupby("student", sort=False):
        for number, row in enumerate(own.sort_values("score", ascending=False, kind="stable").itertuples()):
            known = "" if pd.isna(row.predicted) else f"{100 * row.predicted:+.2f}"
            interval = "" if pd.isna(row.low) else f"{100 * row.low:+.2f} to {100 * row.high:+.2f}"
            table.add_row("" if number else student, row.teacher, f"{row.score:.4g}", known, interval)
    _console.console.print(f"recommend: teachers by '{rule}', what is expected of {method}")
    _console.console.print(table)


def job() -> None:
    parser = _console.parser(__doc__.splitlines()[0], "data", "zoo", "outputs", "results")
    parser.add_argument(
        "--rule",
        choices=recommend.RULES,
        default=recommend.AUTO,
        help="that is printed (default: %(default)s)",
    )
    parser.add_argument(
        "--method", metavar="NAME", help="that is printed (default: the first with a teacher)"
    )
    arguments = parser.parse_args()
    study = _run.load(arguments)
    recommend.check(study)
    methods = [name for name, method in study.methods.items() if method.teachers != 0]
    if not methods:
        raise StudyError("methods: none learns from a teacher, so there is none to recommend; name one")
    if arguments.method and arguments.method not in methods:
        raise StudyError(f"--method {arguments.method}: choose one with a teacher: {', '.join(methods)}")
    _run.check(study)
    _run.check_labelled(study, _run.prepare(study, schemas.RECOMMENDER_TABLES), "tune")
    pairs = [tuple(study.zoo[name] for name in pair) for pair in study.ordered_pairs()]
    models = list({model.name: model for pair in pairs for model in pair}.values())
    zoo.build(study, models, "results", "outputs", "zoo", more=True)
    ask(study, models)

    place = workspace.of(study)
    found = recommend.table(place, pairs)
    samples = len(place.splits["tune"])
    records.write(
        study.results,
        "features",
        study.name,
        {"study": [study.name] * len(found), "samples": [samples] * len(found), **found.to_dict("list")},
    )
    ranked = recommend.by_every_rule(found, recommend.taught(study), methods)
    records.write(
        study.results,
        "recommendations",
        study.name,
        {"study": [study.name] * len(ranked), **ranked.to_dict("list")},
    )
    method = arguments.method or methods[0]
    show(ranked.query("method == @method and rule == @arguments.rule"), method, arguments.rule)
    for table in schemas.RECOMMENDER_TABLES:
        _console.console.print(f"{table}: {study.results / table}")


if __name__ == "__main__":
    _console.main(job)
