"""The figures and tables of the report: a module a section, and in it a function an exhibit.

See `analysis/exhibit.py` for what such a function is. A new module is listed here.
"""

from analysis.exhibits import (
    atlas,
    atlas_paper,
    augmentation,
    beyond,
    both,
    choosing,
    gallery,
    knowledge,
    methods,
    paper,
    paper_figures,
    recommender,
    search,
    several,
    smoothing,
    success,
    training,
    weak_to_strong,
)

__all__ = ["SECTIONS", "both"]  # both: of two studies, a report of its own

SECTIONS = (
    success,
    methods,
    knowledge,
    paper_figures,
    gallery,
    beyond,
    augmentation,
    smoothing,
    choosing,
    weak_to_strong,
    atlas,
    atlas_paper,
    several,
    recommender,
    search,
    training,
    paper,
)
