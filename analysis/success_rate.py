"""Success rate and size of transfer, by method: the table and figure after Fig. 4a of the paper.

    python analysis/success_rate.py RESULTS [--equal POINTS] [--out DIR]

"Fantastic Gains and Where to Find Them" (arXiv 2310.17653), Fig. 4a, shows for each method how many
of a student's teachers improve it. A success may be a single sample won, so here the size of the
change stands beside the rate, split by how good the teacher is, with intervals, with an exact test of
every trial, with each method paired with plain KL, and with a control that trains without a teacher.

Reads nothing but the Parquet files in RESULTS/trials. Left out on purpose: any choice of the best
setting (every trial counts), and models of the data (intervals resample students and teachers instead).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # not this folder, whose statistics.py would stand for Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.fetch import fetched
from analysis.measures import by_method
from analysis.results import ResultsError, load, points, told
from analysis.success_report import console, report


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for bad input, told in one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    help_results = "results folder, which holds trials/, or a data set of the hub: hf://datasets/USER/NAME"
    parser.add_argument("results", metavar="RESULTS", help=help_results)
    help_equal = "teachers within POINTS percentage points of the student's accuracy are equal (default 1.0)"
    parser.add_argument("--equal", type=points, default=1.0, metavar="POINTS", help=help_equal)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default RESULTS/analysis)")
    options = parser.parse_args(arguments)
    try:
        results, out = fetched(options.results)
        trials = load(results)
        summary = by_method(trials, options.equal)
        paths = report(trials, summary, options.out or out, options.equal)
    except (ResultsError, PermissionError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 2
    print(console(trials, summary, options.equal), "", *paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
