"""Claims on label smoothing and distillation, each with its verdict, from one or several studies.

    python analysis/smoothing.py RESULTS [RESULTS ...] [--out DIR]

After Shen et al. (arXiv 2104.00676), beside Müller et al. (arXiv 1906.02629) and Chandrasegaran et al. (arXiv
2206.14532): the section "Label smoothing" of a report, made of all these results at once, since a long tail,
other numbers of classes and trained students are studies of their own. Prints a line a claim, and writes the
page, each figure as SVG and PNG with its numbers, and each table as CSV and Markdown. Reads nothing but the
Parquet files under RESULTS, folders or URLs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":  # the project's folder, not this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from analysis import exhibits, report
from analysis.exhibit import LeftOut, section
from analysis.fetch import fetched
from analysis.findings import Finding
from analysis.results import ResultsError, told
from analysis.smoothing_claims import NOT_MEASURED
from analysis.smoothing_results import Smoothing
from analysis.text import filled, is_none

LINE = (
    "{{ claim }}, {{ verdict }}: {{ says }}. Measured: {{ measured|join('; ') }}; over {{ n }}"
    "{% if p_value is not none %}, p {{ p_value|p }}, corrected for all claims {{ p_holm|p }}{% endif %}."
    "{% if remark %} {{ remark[0]|upper }}{{ remark[1:] }}.{% endif %}"
    "{% if published %} Published: {{ published }} ({{ source }}).{% endif %}"
)
PART = (
    "{{ measured }} {% if n == 0 %}(not measured: {{ remark }}){% elif unit == 'fraction' %}"
    "{{ bounded(value, low, high)|points }} points{% else %}{{ bounded(value, low, high)|number('+.3f') }}"
    "{{ ' nats' if unit == 'nats' }}{% endif %}"
)


def lines(table: pd.DataFrame, parts: pd.DataFrame) -> list[str]:
    """A sentence a claim, with all measurements that its verdict rests on.

    Args:
        table, parts: as `smoothing_claims.verdicts` makes them.
    """
    said = []
    for row in table.to_dict("records"):
        if row["verdict"] == NOT_MEASURED:
            said.append(f"{row['claim']}, {row['says']}: {row['measured']}.")
            continue
        known = {name: None if is_none(value) else value for name, value in row.items()}
        mine = parts[(parts["claim"] == row["claim"]) & parts["counts"]]
        known["measured"] = [filled(PART, one) for one in mine.to_dict("records")]
        said.append(filled(LINE, known))
    return said


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for bad input, told in one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    help_results = "results folders, or their URLs, of studies that belong together"
    parser.add_argument("results", nargs="+", metavar="RESULTS", help=help_results)
    help_out = "where to write (default smoothing beside the analysis of the first RESULTS)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=help_out)
    options = parser.parse_args(arguments)
    try:
        places = [fetched(one) for one in options.results]
        out = options.out or places[0][1] / "smoothing"
        smoothing = Smoothing([folder for folder, _ in places], report.progress)
        try:
            alpha = smoothing.alpha
        except LeftOut as why:
            raise ResultsError(f"{places[0][0]}: {why}; name the results of a study that has some") from None
        said = lines(*smoothing.verdicts)
        studies = sorted({*smoothing.tables.trials["study"], *smoothing.tables.models["study"]})
        printed, written = report.of_section(
            section(exhibits.smoothing, SimpleNamespace(smoothing=smoothing)),
            out,
            title="Label smoothing and distillation",
            subtitle=f"{', '.join(studies)}: teachers with α {alpha:g} beside their unsmoothed twins",
            found=[Finding(line, "smoothing_claims") for line in said],
        )
    except (ResultsError, PermissionError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 2
    report.say(printed, written, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
