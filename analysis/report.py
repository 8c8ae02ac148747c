"""The report of a study: every figure and table, from its Parquet files, in one page and as files.

    python analysis/report.py RESULTS [--out DIR] [--equal POINTS] [--gap POINTS] [--atlas STUDY]
    python analysis/report.py RESULTS OTHERS    # two studies side by side, on the pairs both have

After "Fantastic Gains and Where to Find Them" (arXiv 2310.17653): its figures and tables for whatever models
the results hold, with intervals and tests that the paper does not have. Writes `report.html`, which needs no
network, the same as `report.md`, each figure as SVG and PNG with its numbers, each table as CSV and Markdown,
and every number of the tables as a row of `statements.parquet`.

Reads nothing but the Parquet files under RESULTS, a folder or a URL. A sweep that is not finished, or has
failed trials, gives a report that says so; an atlas without trials one of the atlas.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":  # the project's folder, not this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from analysis import exhibits, page, statements, style, text, timm_results
from analysis.atlas_results import AGAIN
from analysis.both import Both
from analysis.coverage import coverage, unfinished
from analysis.exhibit import Made, Section, section
from analysis.fetch import fetched
from analysis.findings import Finding, findings
from analysis.material import Material
from analysis.methods import ABOUT, in_order, label
from analysis.results import ResultsError, points, read, require_columns, told, write

LIST = "files.txt"  # of the files of a report
WIDTH = 120  # of the console
PRINTED = ("size_of_the_transfer", "both_by_method")  # tables that the console shows


def report(material: Material, out: Path) -> tuple[str, list[Path]]:
    """Write the report into `out`; returns what to print, and the files written.

    Raises:
        ResultsError: the results cannot be read, or the folder cannot be written.
    """
    sections, single = exhibits.SECTIONS, material.all_tested
    if len(material.of_searches):  # its control is shown beside it
        single = single.dropna(subset="teacher")
    if single.empty:  # an atlas, trials of several teachers or from scratch, or a search alone
        sections = [exhibits.augmentation, exhibits.smoothing, exhibits.weak_to_strong, exhibits.search]
        sections += [exhibits.atlas, exhibits.atlas_paper]
        sections += [exhibits.several] * (len(material.recorded) > len(material.trials))
    made = []
    for module in sections:
        material.progress(f"drawing: {module.TITLE}")
        if one := section(module, material):
            made.append(one)
    found = (findings(material) if len(single) else []) or _of_searches(material)
    found = found or _of_students_from_scratch(made) or _of_atlas(material)
    shown = [each for one in made for each in one.exhibits]
    contents = _older(out) | _files(shown)
    left = None if material.every.empty else unfinished(material.plan, material.every)
    report = page.Report(
        subtitle=_subtitle(material),
        findings=found,
        coverage=[] if material.every.empty else coverage(material),
        unfinished=left,
        sections=made,
        trials=material.finished,
        methods={label(name): ABOUT[name] for name in in_order(material.finished["method"]) if name in ABOUT},
    )
    numbers = statements.together(one.statements for one in shown)
    svgs = {one.name: contents[f"figures/{one.name}.svg"] for one in shown}
    contents |= {
        "statements.parquet": numbers.to_parquet,
        "tables/timm_results.csv": _timm(material),
        "tables/all_trials.csv": report.trials[list(page.COLUMNS)].to_csv(index=False),
        "tables/unfinished.csv": None if left is None else left.to_csv(index=False),
        "report.md": page.markdown(report),
        "report.html": page.html(report, svgs),
    }
    material.progress(f"writing to {out}")
    written = write(out, contents | _listed(contents))
    return _printed(report, shown), written


def _printed(report: page.Report, shown: list[Made]) -> str:
    """What the console shows: the findings, and the main table."""
    lines = [report.subtitle, *report.coverage, "", *(one.text for one in report.findings), ""]
    lines = [textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
    tables = [text.aligned(one.cells) for one in shown if one.name in PRINTED and one.cells is not None]
    return "\n".join([*lines, *(line for table in tables for line in table)])


def compare(results: tuple[Path, Path], out: Path) -> tuple[str, list[Path]]:
    """Write what differs between two studies into `out`; returns what to print, and the files written.

    Raises:
        ResultsError: the results cannot be read, have nothing in common, or the folder cannot be written.
    """
    both = Both(*results, progress)
    (made,) = [section(exhibits.both, both)]
    trials = both.trials["method"].size
    return of_section(
        made,
        out,
        title="Two transfer studies side by side",
        subtitle=f"{both.names[1]} against {both.names[0]}: {trials:,} trials that both have",
        found=[Finding(line, "both_by_method") for line in both.findings()],
    )


def of_section(
    made: Section, out: Path, *, title: str, subtitle: str, found: list[Finding]
) -> tuple[str, list[Path]]:
    """Write a report of one section into `out`; returns what to print, and the files written.

    Raises:
        ResultsError: the folder cannot be written.
    """
    contents = _older(out) | _files(made.exhibits)
    report = page.Report(
        subtitle=subtitle,
        findings=found,
        coverage=[],
        unfinished=None,
        sections=[made],
        trials=pd.DataFrame(),
        title=title,
    )
    drawn = {one.name: contents[f"figures/{one.name}.svg"] for one in made.exhibits}
    numbers = statements.together(one.statements for one in made.exhibits)
    contents |= {"statements.parquet": numbers.to_parquet, "report.md": page.markdown(report)}
    contents["report.html"] = page.html(report, drawn)
    written = write(out, contents | _listed(contents))
    return _printed(report, made.exhibits), written


def _subtitle(material: Material) -> str:
    """What was studied."""
    done = material.done
    if material.every.empty:
        atlas = material.atlas
        return (
            f"Atlas of {atlas.study}: {len(atlas.models):,} models, {atlas.samples:,} samples and "
            f"{atlas.classes:,} classes of the {atlas.split} split"
        )
    return (
        f"{', '.join(sorted(done['study'].unique()))}: {len(done):,} trials of {done['student'].nunique()} "
        f"students, {done['teachers'].explode().nunique()} teachers and {done['method'].nunique()} methods"
    )


def _of_searches(material: Material) -> list[Finding]:
    """What searches without other trials found."""
    return [Finding(line, "search_combinations") for line in exhibits.search.lines(material) or ()]


def _of_students_from_scratch(made: list[Section]) -> list[Finding]:
    """What students from scratch found, without other trials."""
    shown = {"augmentation": "augmentation_schemes", "smoothing": "smoothing_claims"}
    return [Finding(line, shown[one.name]) for one in made if one.name in shown for line in one.lines]


def _of_atlas(material: Material) -> list[Finding]:
    """What an atlas without trials found."""
    if not material.every.empty:
        return []
    return [Finding(line, "fig_1a") for line in exhibits.atlas.lines(material)[:3]]


def _timm(material: Material) -> str | None:
    """Models of the atlas on the same images, and students, in the columns of timm's results."""
    folder, on = material.folder / "models", {"samples": "evaluation_samples", "data_sha256": "data_sha256"}
    needed = ["status", "source", "name", "accuracy", "parameters", *on]
    models = pd.DataFrame(columns=needed)
    if any(folder.glob("[!.]*.parquet")):
        models = read(folder, AGAIN)
        require_columns(models, needed, folder, AGAIN)
    done = material.finished
    for column, of_trials in on.items() if len(done) else ():
        models = models[models[column].isin(done[of_trials])]
    rows = timm_results.of_models(models)
    students = [timm_results.of_students(done, rows)] if len(done) else []
    return timm_results.csv(pd.concat([rows, *students]))


def _older(out: Path) -> dict[str, None]:
    """Files of an earlier report, which this one may not have; files of anybody else stay."""
    listed = (out / LIST).read_text(encoding="utf-8").splitlines() if (out / LIST).exists() else []
    return {name: None for name in listed if re.fullmatch(r"(figures|tables)/[\w.-]+", name)}


def _listed(contents: Mapping[str, object]) -> dict[str, str]:
    """The list of the files, for the next report."""
    return {LIST: "".join(f"{name}\n" for name, content in contents.items() if content is not None)}


def _files(shown: list[Made]) -> dict[str, str | bytes | None]:
    """The contents of the exhibits' files, by name; None for those that these results do not have."""
    contents: dict[str, str | bytes | None] = {}
    for one in shown:
        drawing = one.shown.drawing
        svg, png = (None, None) if drawing is None else style.drawn(one.name, drawing)
        made = {f"figures/{one.name}.svg": svg, f"figures/{one.name}.png": png}
        csv = None if one.shown.numbers is None else one.shown.numbers.to_csv(index=False)
        made |= dict.fromkeys((f"figures/{one.name}.csv", f"tables/{one.name}.csv"), csv)
        if one.cells is not None:
            made[f"tables/{one.name}.md"] = page.table_markdown(one)
        contents |= {name: content if name in one.files else None for name, content in made.items()}
    notes = [f"- **{one.name}** ({one.title}): {one.note}" for one in shown if one.note]
    return contents | {"figures/README.md": "\n".join(["# How to read the figures", "", *notes, ""])}


def progress(line: str) -> None:
    """What is going on, for one who waits."""
    print(f"report: {line}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for bad input, told in one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    help_results = (
        "results folder, or its URL (s3://, gs://, hdfs://, hf://datasets/USER/NAME); of two, what differs"
    )
    parser.add_argument("results", nargs="+", metavar="RESULTS", help=help_results)
    help_out = "where to write (default RESULTS/analysis, of two RESULTS/analysis/against_OTHERS)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=help_out)
    help_equal = "teachers within POINTS percentage points of the student's accuracy are equal (default 1.0)"
    parser.add_argument("--equal", type=points, default=1.0, metavar="POINTS", help=help_equal)
    help_gap = "atlas: look at teachers weaker by POINTS or more by themselves (default 5)"
    parser.add_argument("--gap", type=points, default=5.0, metavar="POINTS", help=help_gap)
    parser.add_argument("--atlas", metavar="STUDY", help="whose atlas, where the folder holds several")
    options = parser.parse_args(arguments)
    if len(options.results) > 2:
        parser.error(f"of {len(options.results)} results two at most can be compared")
    try:
        places = [fetched(results) for results in options.results]
        (results, out), others = places[0], [folder for folder, _ in places[1:]]
        if others:
            out = options.out or out / f"against_{others[0].name}"
            printed, written = compare((results, others[0]), out)
        else:
            out = options.out or out
            material = Material(results, options.equal, options.gap, options.atlas, progress)
            printed, written = report(material, out)
    except (ResultsError, PermissionError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 2
    say(printed, written, out)
    return 0


def say(printed: str, written: list[Path], out: Path) -> None:
    """Print what a report says, and where its files are."""
    counts = {kind: sum(path.parent.name == kind for path in written) for kind in ("figures", "tables")}
    print(
        printed, "", *(f"{kind}: {count} files in {out / kind}" for kind, count in counts.items()), sep="\n"
    )
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
