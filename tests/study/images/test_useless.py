"""Images for useless teachers: of the demo's zoo half alone, and changed as they say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import useless

from study import spec
from study.images import sources, splits

DEMO = Path(__file__).parents[3] / "studies" / "demo.yaml"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("downloads")


def test_the_half_is_the_demos_zoo_split(downloads):
    train, test = useless.garments(downloads)
    every = np.asarray(sources.fashion_mnist(downloads)[0].targets)
    subsets = {"train": (0, len(every)), "test": (len(every), len(every))}
    demo = splits.split(SimpleNamespace(labels=every, subsets=subsets), spec.load(DEMO).data.splits)
    assert np.array_equal(train.which, demo["zoo"])
    assert np.array_equal(train.labels, every[demo["zoo"]])
    assert (len(train), len(test)) == (30_000, 10_000)


@pytest.mark.parametrize("wrong", [0.0, 0.6, 1.0])
def test_so_many_labels_are_wrong(downloads, wrong):
    (train, _), (plain, _) = useless.garments(downloads, wrong=wrong), useless.garments(downloads)
    assert (train.labels == plain.labels).mean() == pytest.approx(1 - 0.9 * wrong, abs=0.01)
    again, _ = useless.garments(downloads, wrong=wrong)
    assert np.array_equal(train.labels, again.labels)
    assert train[5][1] == train.labels[5]


def test_a_negative_is_upside_down(downloads):
    (plain, _), (negative, _) = useless.garments(downloads), useless.garments(downloads, negative=True)
    assert np.array_equal(np.asarray(negative[7][0]), 255 - np.asarray(plain[7][0])[::-1])
    assert negative[7][1] == plain[7][1]
