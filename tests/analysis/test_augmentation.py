"""Correlations of T. stddev with the student's test loss: published ones from published points, and made-up
sweeps by hand."""

import pytest

from analysis import reference
from analysis.inference import correlation

PAIR = ["dataset", "teacher", "student"]
PRINTED = reference.table("good_da_correlations").to_dict("records")


@pytest.mark.parametrize("printed", PRINTED, ids=lambda row: f"{row['dataset']} {row['student']}")
def test_published_correlations_follow_from_published_points(printed):
    """To four decimals, and their p-values to two in percent: of all ten pairs."""
    points = reference.table("good_da_points")
    mine = points[(points[PAIR] == [printed[name] for name in PAIR]).all(axis=1)]
    assert len(mine) == 9
    for kind in ("pearson", "spearman", "kendall"):
        found = correlation(mine["t_stddev"], mine["s_test_loss"], kind)
        assert round(found.value, 4) == printed[kind]
        assert round(100 * found.p, 2) == printed[f"{kind}_p_percent"]


def test_there_are_ten_published_pairs():
    assert len(PRINTED) == 10 and len(reference.table("good_da_points")) == 90
