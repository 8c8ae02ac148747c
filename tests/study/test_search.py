"""Searches: which combinations there are, what they are called, and what is refused."""

import copy
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from study import mistakes, search, spec

GRID = {
    "method": "xe_kl",
    "lr": [0.01, 0.001],
    "weight": [0.5, 0.7],
    "temperature": 2,
    "slow": {"tau": [0.9, 0.99, 0.999], "every": 2},
}


def test_a_grid_is_every_combination_of_its_lists():
    found = search.combinations(GRID)
    expected = itertools.product(GRID["lr"], GRID["weight"], GRID["slow"]["tau"])
    assert [(one["lr"], one["weight"], one["slow"]["tau"]) for one in found] == list(expected)
    assert all(one["temperature"] == 2 and one["slow"]["every"] == 2 for one in found)
    names = [search.name("mcl", GRID, one) for one in found]
    assert names[0] == "mcl-lr0.01-weight0.5-tau0.9"
    assert len(set(names)) == 12


@given(st.integers(1, 20), st.integers(0, 5))
def test_what_is_drawn_is_part_of_the_grid_and_the_same_again(sample, seed):
    whole, drawn = search.combinations(GRID), search.combinations(GRID, sample, seed)
    assert len(drawn) == min(sample, 12)
    places = [whole.index(one) for one in drawn]
    assert places == sorted(set(places))
    assert drawn == search.combinations(GRID, sample, seed)


def test_other_seeds_draw_others():
    assert len({str(search.combinations(GRID, 3, seed)) for seed in range(9)}) > 1


@pytest.fixture
def searching(base):
    content = copy.deepcopy(base)
    content["data"]["splits"]["tune"] = 20
    content["methods"] = {"kl": {"lr": [0.1, 0.01]}, "xe": {"lr": 0.1}}
    content["search"] = {"pairs": 1}
    return content


def told(content) -> str:
    with pytest.raises(ValidationError) as error:
        spec.Study.model_validate(content)
    return mistakes.first(error.value, spec.Study)


def test_a_study_has_a_method_for_each_combination_scored_on_tune(searching):
    study = spec.Study.model_validate(searching)
    assert list(study.methods) == ["kl-lr0.1", "kl-lr0.01", "xe"]
    assert study.data.evaluate == "tune"
    assert [method.search for method in study.methods.values()] == ["kl", "kl", None]
    assert len(study.ordered_pairs()) == 1
    whole = copy.deepcopy(searching)
    whole["search"] = {}
    every = spec.Study.model_validate(whole).ordered_pairs()
    assert study.ordered_pairs()[0] in every
    assert len(every) > 1


def test_ids_know_on_what_a_trial_is_scored(searching):
    """A trial of the same settings, scored on evaluation images, is another one, on the same zoo."""
    plain = copy.deepcopy(searching)
    del plain["search"]
    plain["methods"] = {"kl-lr0.1": {"method": "kl", "lr": 0.1}}
    one, other = (spec.Study.model_validate(content) for content in (searching, plain))
    ids = {trial.id for trial in one.trials()}
    assert not ids & {trial.id for trial in other.trials()}
    assert one.data.made_on(fitted=True) == other.data.made_on(fitted=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": {"kl": {"lr": 0.1, "weigth": [1, 2]}}}, "methods.kl.weigth: unknown key"),
        ({"methods": {"kl": {"lr": [0.1, -1]}}}, "methods.kl.lr: input should be greater than 0"),
        ({"methods": {"kll": {"lr": [0.1]}}}, "methods.kll.method: 'kll' is unknown"),
        ({"search": {"sampel": 3}}, "search.sampel: unknown key; did you mean 'sample'?"),
        ({"search": {"pairs": 1000}}, "search.pairs: there are"),
        ({"search": None, "methods": {"kl": {"lr": [0.1, 0.2]}}}, "methods.kl.lr: "),
    ],
    ids=[
        "no such setting",
        "a value that does not fit",
        "no such method",
        "of the search",
        "pairs",
        "no search",
    ],
)
def test_what_is_wrong_with_a_search_is_told_of_its_entry(searching, change, said):
    assert told(searching | change).startswith(said)


def test_a_search_needs_images_kept_aside(searching):
    searching["data"]["splits"]["tune"] = 0
    assert told(searching) == (
        "data: evaluate: no images are kept aside to choose on; say how many in splits.tune"
    )


def test_a_search_is_never_scored_on_evaluation_images(searching):
    searching["data"]["evaluate"] = "evaluation"
    assert told(searching) == "data.evaluate: a search is scored on 'tune'; leave it out"


def test_a_search_is_over_pairs_and_several_teachers_are_refused(searching):
    names = list(searching["zoo"])
    searching["several"] = [{"teachers": names, "combine": ["soup"], "methods": ["xe"]}]
    searching["methods"]["xe"] = {"method": "kl", "lr": 0.1}
    assert told(searching) == "several: a search is over pairs; leave out several teachers"


def test_a_model_is_paired_with_itself_where_a_grid_says_so(base):
    content = copy.deepcopy(base)
    name = next(iter(content["zoo"]))
    content["pairs"] = {"students": [name], "teachers": list(content["zoo"]), "itself": True}
    study = spec.Study.model_validate(content)
    assert (name, name) in study.ordered_pairs()
    content["pairs"]["itself"] = False
    assert (name, name) not in spec.Study.model_validate(content).ordered_pairs()
