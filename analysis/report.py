"""The report of a study: every figure and table, from its Parquet files, in one page and as files.

    python analysis/report.py RESULTS [--out DIR] [--equal POINTS] [--gap POINTS] [--atlas STUDY]

After "Fantastic Gains and Where to Find Them" (arXiv 2310.17653): its figures and tables for whatever models
the results hold, with intervals and tests that the paper does not have. Writes `report.html`, which needs no
network, each figure as SVG and PNG with its numbers, and each table as CSV and Markdown.

Reads nothing but the Parquet files under RESULTS. A sweep that is not finished, or has failed trials, gives a
report that says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # not this folder, whose statistics.py would stand for Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from analysis import beyond_accuracy, exhibits, flips, page, readable, style, timm_results
from analysis.atlas_results import AGAIN, load_atlas
from analysis.atlas_statements import statements
from analysis.coverage import coverage, unfinished
from analysis.fetch import fetched
from analysis.findings import findings
from analysis.results import ResultsError, load, planned, points, read, require_columns, told, write

NEEDED = [  # columns of `trials`, beside those that `results.load` checks
    *("student_timm", "student_family", "student_parameters", "student_accuracy_before"),
    *("student_accuracy_after", "teachers", "teacher_timm", "teacher_family", "teacher_parameters"),
    *("teacher_accuracy", "rho_pos_before", "rho_neg_before", "rho_pos_after", "rho_neg_after", "epochs"),
    *("transfer_samples", "data", "data_sha256", "classes", "device", "finished", "torch_version"),
    *("timm_version", "seconds", "seconds_load", "seconds_train", "seconds_evaluate", "study_version"),
]
ABOUT = [
    "A trial is one student, teacher, method and seed. Its transfer delta is the student's top-1 accuracy "
    "after minus before, on evaluation images that no model was trained on.",
    "Seeds of a pair are averaged before anything is counted or compared; trials are tested one by one.",
    "Tests of a trial are exact McNemar tests of the samples it gained against those it lost, corrected for "
    "all trials (Benjamini-Hochberg: q).",
    "Intervals of means and differences resample students and teachers, both of which are drawn: pairs that "
    "share one are not independent (pigeonhole bootstrap, widened for small numbers of them). They tell how "
    "other models like these might differ, not other data. analysis/statistics.py has each with its source.",
    "A clear success is a delta above 1.645 standard deviations of the evaluation's noise, which a method "
    "that changes nothing but by chance reaches one time in twenty.",
    "Files beside this page hold the numbers of every figure and table as fractions in [0, 1]; the page "
    "shows percent and percentage points.",
]


def _atlas(results: Path, study: str | None, gap: float) -> exhibits.Section:
    """The atlas, where there is one."""
    if study is None and not any((results / "atlas").glob("[!.]*.parquet")):
        why = "no atlas is recorded; jobs/atlas.py STUDY makes it"
        return exhibits.complementarity(None, None, gap, why)
    atlas = load_atlas(results, study)
    return exhibits.complementarity(atlas, statements(atlas, gap), gap, "")


def report(results: Path, out: Path, equal: float, gap: float, atlas: str | None) -> tuple[str, list[Path]]:
    """Write the report into `out`; returns what to print, and the files written.

    Raises:
        ResultsError: the results cannot be read, or the folder cannot be written.
    """
    _progress(f"reading {results}")
    columns = dict.fromkeys([*NEEDED, *beyond_accuracy.COLUMNS, *timm_results.OF_TRIALS])
    trials = load(results, list(columns), several=True)
    require_columns(trials, NEEDED, results / "trials", "run the study again in a new folder")
    _progress(f"counting the predictions of {len(trials):,} trials")
    counted = flips.class_flips(results, trials)
    sweep = exhibits.Sweep.of(trials, results, counted, equal)
    _progress("comparing methods, students and teachers")
    sections = [
        *(made(sweep) for made in exhibits.FIRST if len(sweep.tested)),
        _atlas(results, atlas, gap),
        *([exhibits.several(sweep)] if len(sweep.several) else []),
        *(made(sweep) for made in exhibits.LAST if len(sweep.tested)),
    ]
    found = findings(sweep.summary, sweep.tested) if len(sweep.tested) else []
    plan = planned(results)
    lines = coverage(plan, sweep)
    done = sweep.finished
    subtitle = (
        f"{', '.join(sorted(done['study'].unique()))}: {len(done):,} trials of {done['student'].nunique()} "
        f"students, {done['teachers'].explode().nunique()} teachers and {done['method'].nunique()} methods"
    )
    shown = [exhibit for section in sections for exhibit in section.exhibits]
    _progress(f"drawing {sum(exhibit.drawing is not None for exhibit in shown)} figures")
    left = unfinished(plan, trials)
    # A table a method: those of methods that are no longer there are found by their names.
    older = (path for folder in ("figures", "tables") for path in (out / folder).glob("several_teachers_*"))
    contents = {f"{path.parent.name}/{path.name}": None for path in older} | _files(shown)
    contents |= {
        "tables/timm_results.csv": _timm(results, done),
        "tables/all_trials.csv": done[list(page.COLUMNS)].to_csv(index=False),
        "tables/unfinished.csv": None if left is None else left.to_csv(index=False),
    }
    html = page.render(
        sweep,
        sections,
        {exhibit.name: contents[f"figures/{exhibit.name}.svg"] for exhibit in shown},
        subtitle=subtitle,
        findings=found,
        coverage=lines,
        unfinished=left,
        about=ABOUT,
    )
    _progress(f"writing to {out}")
    written = write(out, contents | {"report.html": html})
    return "\n".join([subtitle, *lines, "", *(one.text for one in found)]), written


def _timm(results: Path, done: pd.DataFrame) -> str | None:
    """Models of the atlas on the same images, and students, in the columns of timm's results."""
    folder, on = results / "models", {"samples": "evaluation_samples", "data_sha256": "data_sha256"}
    models = pd.DataFrame(columns=["status", "source", "name", "accuracy", "parameters", *on])
    if any(folder.glob("[!.]*.parquet")):
        models = read(folder, AGAIN)
        require_columns(models, ["status", "source", "name", "accuracy", "parameters", *on], folder, AGAIN)
    for column, of_trials in on.items():
        models = models[models[column].isin(done[of_trials])]
    rows = timm_results.of_models(models)
    return timm_results.csv(pd.concat([rows, timm_results.of_students(done, rows)]))


def _progress(text: str) -> None:
    """What is going on, for one who waits."""
    print(f"report: {text}", file=sys.stderr, flush=True)


def _files(shown: list[exhibits.Exhibit]) -> dict[str, Callable | str | None]:
    """The contents of the exhibits' files, by name; None for those that these results do not have."""
    contents: dict[str, Callable | str | None] = {}
    for exhibit in shown:
        made = {f"figures/{name}": save for name, save in style.files(exhibit.name, exhibit.drawing).items()}
        csv = None if exhibit.numbers is None else exhibit.numbers.to_csv(index=False)
        made |= dict.fromkeys((f"figures/{exhibit.name}.csv", f"tables/{exhibit.name}.csv"), csv)
        if exhibit.cells is not None:
            lines = [f"# {exhibit.title}", "", *readable.markdown(exhibit.cells), ""]
            lines += [f"- **{header}**: {meaning}." for header, meaning in exhibit.meanings.items()]
            made[f"tables/{exhibit.name}.md"] = "\n".join([*lines, ""])
        contents |= {name: content if name in exhibit.files else None for name, content in made.items()}
    notes = [f"- **{exhibit.name}** ({exhibit.title}): {exhibit.note}" for exhibit in shown if exhibit.note]
    return contents | {"figures/README.md": "\n".join(["# How to read the figures", "", *notes, ""])}


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for bad input, told in one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    help_results = "results folder, which holds trials/, or a data set of the hub: hf://datasets/USER/NAME"
    parser.add_argument("results", metavar="RESULTS", help=help_results)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default RESULTS/analysis)")
    help_equal = "teachers within POINTS percentage points of the student's accuracy are equal (default 1.0)"
    parser.add_argument("--equal", type=points, default=1.0, metavar="POINTS", help=help_equal)
    help_gap = "atlas: look at teachers weaker by POINTS or more by themselves (default 5)"
    parser.add_argument("--gap", type=points, default=5.0, metavar="POINTS", help=help_gap)
    parser.add_argument("--atlas", metavar="STUDY", help="whose atlas, where the folder holds several")
    options = parser.parse_args(arguments)
    try:
        results, out = fetched(options.results)
        out = options.out or out
        text, written = report(results, out, options.equal, options.gap, options.atlas)
    except (ResultsError, PermissionError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 2
    counts = {kind: sum(path.parent.name == kind for path in written) for kind in ("figures", "tables")}
    print(text, "", *(f"{kind}: {count} files in {out / kind}" for kind, count in counts.items()), sep="\n")
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
