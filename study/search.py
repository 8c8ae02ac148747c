"""Searches over the settings of methods: lists in a study's methods become one method a combination.

    methods: kl_dp: {lr: [1.0e-3, 1.0e-4], weight: [0.5, 0.75, 0.9, 1], temperature: [0.1, 1, 10]} search:
      {sample: 20, pairs: 33, seed: 0}

After arXiv 2310.17653, appendix A.1 to A.3: grids, or combinations drawn at random from them, on pairs drawn
at random, scored on images kept aside (`spec.Data.evaluate`). Each combination is a method like any other,
so its trials have ids and records, run on Ray Tune with all others, and are run once. Left out on purpose:
searches that look at results to choose what to try next.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

WHOLE = ("augmentation.transforms",)  # a list that is one setting, not what to try


def combinations(content: dict[str, Any], sample: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """The settings of a method with one value each, of every combination of its lists, or of some.

    Args:
        content: settings of a method, mappings within them too, some of them lists of what to try.
        sample: how many to draw; None, or more than there are: all.
        seed: of the draw.

    Returns:
        As `content`, a combination each, in the order of the lists.
    """
    lists = dict(_lists(content))
    found = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    if sample is not None and sample < len(found):
        kept = sorted(random.Random(seed).sample(range(len(found)), sample))
        found = [found[number] for number in kept]
    return [_filled(content, chosen) for chosen in found]


def name(method: str, content: dict[str, Any], chosen: dict[str, Any]) -> str:
    """What a combination is called: 'kl_dp-lr0.001-weight0.5', of the settings that are searched alone."""
    values = dict(flat(chosen))
    parts = [path.rpartition(".")[2] + _text(values[path]) for path, _ in _lists(content)]
    return "-".join([method, *parts])


def flat(settings: dict[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their paths: {'slow': {'tau': 0.9}} has ('slow.tau', 0.9)."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{within}{key}.")
        else:
            yield within + key, value


def is_searched(content: dict[str, Any]) -> bool:
    """Whether settings have a list of what to try."""
    return bool(dict(_lists(content)))


def _lists(content: dict[str, Any]) -> Iterator[tuple[str, list]]:
    return ((path, value) for path, value in flat(content) if isinstance(value, list) and path not in WHOLE)


def _filled(content: dict[str, Any], chosen: dict[str, Any], within: str = "") -> dict[str, Any]:
    return {
        key: _filled(value, chosen, f"{within}{key}.")
        if isinstance(value, dict)
        else chosen.get(within + key, value)
        for key, value in content.items()
    }


def _text(value: Any) -> str:
    """A value in a name: letters, digits, '.', '-' and '_' alone."""
    text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text)
