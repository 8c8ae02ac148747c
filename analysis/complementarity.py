"""The atlas of complementary knowledge: what each model of a zoo knows that each other one does not.

    python analysis/complementarity.py RESULTS [--study NAME] [--out DIR] [--gap POINTS]

After section 3 of "Fantastic Gains and Where to Find Them" (arXiv 2310.17653), Figs. 1 and 2: between
any two models, be the teacher weaker or stronger, there are samples that only the teacher gets right.
How many, over which classes, and how much of that must be so by arithmetic or chance?

Reads nothing but the Parquet files that jobs/atlas.py left in RESULTS. Left out on purpose:
what a transfer makes of that knowledge (success_rate.py), and any choice of pairs: all of them count.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # not this folder, whose statistics.py would stand for Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.atlas_report import console, report
from analysis.atlas_results import load_atlas
from analysis.atlas_statements import statements
from analysis.fetch import fetched
from analysis.results import ResultsError, points, told


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 for bad input, told in one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    help_results = "results folder, which holds atlas/, or a data set of the hub: hf://datasets/USER/NAME"
    parser.add_argument("results", metavar="RESULTS", help=help_results)
    parser.add_argument("--study", metavar="NAME", help="whose atlas, where the folder holds several")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default RESULTS/analysis)")
    help_gap = "look at teachers weaker by POINTS percentage points or more by themselves (default 5)"
    parser.add_argument("--gap", type=points, default=5.0, metavar="POINTS", help=help_gap)
    options = parser.parse_args(arguments)
    try:
        results, out = fetched(options.results)
        atlas = load_atlas(results, options.study)
        table = statements(atlas, options.gap)
        paths = report(atlas, table, options.out or out, options.gap)
    except (ResultsError, PermissionError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 2
    print(console(atlas, table, options.gap), "", *paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
