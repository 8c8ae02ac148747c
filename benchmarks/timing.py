"""What the benchmarks share: candidates timed in turns, and one JSON line a figure.

Figures are ratios of times taken in one run, round by round in turns, so that a busy machine slows
both sides; what stands in a line is the median of the rounds' ratios and how far they spread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def in_turns(rounds: int, **candidates: Callable[[], object]) -> dict[str, NDArray[np.float64]]:
    """Seconds of each candidate, float64 [rounds]; all of them once a round, in their order."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return {name: np.array(values) for name, values in seconds.items()}


def figure(
    name: str,
    values: Sequence[float] | NDArray[np.float64],
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> None:
    """Prints a figure as one JSON line: the median of its values, their spread, and its goal.

    Args:
        name: what was measured.
        values: one a round.
        unit: of the values; 'ratio' where they have none.
        at_most, at_least: the goal, one of them; `goal` and `holds` are null without.
    """
    value = float(np.median(values))
    bound, goal, holds = at_most, "at most", None
    if at_least is not None:
        bound, goal = at_least, "at least"
    if bound is not None:
        holds = value <= bound if goal == "at most" else value >= bound
    line = {
        "name": name,
        "value": _rounded(value),
        "unit": unit,
        "goal": None if bound is None else f"{goal} {bound:g}",
        "holds": holds,
        "spread": [_rounded(min(values)), _rounded(max(values))],
    }
    print(json.dumps(line), flush=True)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
