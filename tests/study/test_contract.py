"""Contracts by signature: what stands before the star, what behind it, and whom a name means."""

import hashlib
import importlib
import itertools
import textwrap

import pytest
from pydantic import BaseModel, ValidationError
from torch import nn

from study import contract, mistakes
from study.contract import Positive, Share

_numbers = itertools.count()


def plain(first, /, second, *, third: Positive = 1.0, fourth: Share, fifth: tuple[int, ...] = (1, 2)):
    """What a study might name."""


class Module(nn.Module):
    """A class that is made of sizes and settings."""

    def __init__(self, dim: int, *, layers: int = 2):
        super().__init__()


KNOWN = {"plain": plain, "module": Module}


class Part(contract.Named):
    """Something named, with one field of its own."""

    NAME = "kind"
    KNOWN = KNOWN

    kind: str
    lr: float = 0.1


class Whole(BaseModel):
    part: Part


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes a module of one's own and gives its name, which no other test uses."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str, name: str | None = None) -> str:
        name = name or f"own_contract_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return name

    return write


def complaint(content):
    """Where a mistake is found, and what is said of it."""
    with pytest.raises(ValidationError) as told:
        Whole.model_validate({"part": content})
    return mistakes.path_and_text(told.value, Whole)


# --- signatures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (plain, ("first", "second")),
        (Module, ("dim",)),
        (lambda *many, only=1, **rest: None, ()),
        (lambda a, b=2: None, ("a", "b")),
        (nn.ReLU().forward, ("input",)),
    ],
    ids=["function", "class", "stars", "default", "method"],
)
def test_what_stands_before_the_star_is_given(function, names):
    assert contract.given(function) == names


def test_what_stands_behind_the_star_is_set():
    settings = contract.settings_of(plain)
    assert list(settings.model_fields) == ["third", "fourth", "fifth"]
    assert dict(settings(fourth=1)) == {"third": 1.0, "fourth": 1.0, "fifth": (1, 2)}
    assert dict(contract.settings_of(Module)(layers="3")) == {"layers": 3}
    assert contract.settings_of(plain) is settings


@pytest.mark.parametrize(
    "wrong",
    [{}, {"fourth": 1.1}, {"fourth": 1, "third": 0}, {"fourth": 1, "sixth": 1}, {"fourth": float("nan")}],
    ids=str,
)
def test_settings_are_checked_by_their_annotations(wrong):
    with pytest.raises(ValidationError):
        contract.settings_of(plain)(**wrong)


def test_settings_without_annotations_may_be_anything():
    settings = contract.settings_of(lambda *, anything=None: None)
    assert settings(anything={"a": [1]}).anything == {"a": [1]}


# --- names ----------------------------------------------------------------------------------------


def test_a_name_means_what_is_known_or_ones_own(module):
    name = module("def mine(student): ...")
    assert contract.find("plain", KNOWN) is plain
    found = contract.find(f"{name}.mine", KNOWN)
    assert found is importlib.import_module(name).mine


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "plan",
            "'plan' is unknown; known are plain, module, and your own by 'module.name'; did you mean 'plain'",
        ),
        (".plain", "'.plain' is unknown"),
        (
            "no_such_module_here.f",
            "cannot be imported (No module named 'no_such_module_here'); put its module",
        ),
        ("math.nothing", "the module math has no 'nothing' to call; correct the name"),
        ("math.pi", "the module math has no 'pi' to call; correct the name"),
    ],
)
def test_a_name_that_means_nothing_is_told(name, said):
    with pytest.raises(ValueError, match=name) as told:
        contract.find(name, KNOWN)
    assert said in str(told.value)


@pytest.mark.parametrize("broken", ["import math; math.nothing", "1 / 0", "raise ValueError('a\\nb')", "def"])
def test_a_module_that_cannot_be_imported_is_told_with_its_reason(module, broken):
    name = module(broken)
    with pytest.raises(ValueError, match=r"cannot be imported \(.+\); put its module") as told:
        contract.find(f"{name}.f", KNOWN)
    assert "\n" not in str(told.value)


def test_the_code_of_ones_own_is_the_hash_of_its_file(module, tmp_path):
    name = module("def mine(student): ...")
    expected = hashlib.sha256((tmp_path / f"{name}.py").read_bytes()).hexdigest()[:16]
    assert contract.code_of(f"{name}.mine", KNOWN) == expected
    assert contract.code_of("plain", KNOWN) is None


# --- what is named, with its settings ---------------------------------------------------------------


def test_settings_lie_beside_the_name_with_defaults_filled_in():
    part = Part(kind="plain", fourth=0.5, lr=0.2)
    assert (part.function, part.lr, part.code) == (plain, 0.2, None)
    assert part.settings == {"third": 1.0, "fourth": 0.5, "fifth": (1, 2)}
    assert part == Part(kind="plain", fourth=0.5, third=1, lr=0.2, fifth=[1, 2])
    assert part.model_dump() == {"kind": "plain", "lr": 0.2, **part.settings}


def test_it_is_immutable():
    part = Part(kind="plain", fourth=0.5)
    for field in ("lr", "fourth"):
        with pytest.raises(ValidationError):
            setattr(part, field, 0.3)


def test_it_survives_json(module):
    name = module("def mine(student, *, width: int = 3): ...")
    for part in (Part(kind="plain", fourth=0.5), Part(kind=f"{name}.mine", width=4)):
        assert Part.model_validate_json(part.model_dump_json()) == part


def test_what_was_run_by_other_code_is_not_the_same(module):
    """A dumped code is kept when it is read; what a study says anew has that of the file as it is."""
    name = module("def mine(student): ...")
    before = Part(kind=f"{name}.mine")
    module("def mine(student): return 0", name)
    after = Part(kind=f"{name}.mine")
    assert before.code != after.code
    assert Part.model_validate_json(before.model_dump_json()).code == before.code


@pytest.mark.parametrize(
    ("content", "path", "said"),
    [
        ({"kind": "plan"}, "part.kind", "did you mean 'plain'?"),
        ({"kind": "no_such_module_here.f"}, "part.kind", "cannot be imported"),
        ({"kind": "plain", "fourth": 2}, "part.fourth", "less than or equal to 1 (it says 2)"),
        ({"kind": "plain"}, "part.fourth", "is missing; add it"),
        ({"kind": "plain", "forth": 0.5}, "part.forth", "did you mean 'fourth'?"),
        ({"kind": "plain", "fourth": 1, "l": 1}, "part.l", "did you mean 'lr'?"),
        (
            {"kind": "plain", "fourth": 1, "zzz": 1},
            "part.zzz",
            "known are third, fourth, fifth, kind, lr",
        ),
        ({"kind": "plain", "fourth": 1, "fifth": [1, "a"]}, "part.fifth.1", "valid integer"),
        ({"kind": "plain", "fourth": 1, "lr": "fast"}, "part.lr", "valid number"),
        ({"kind": 3}, "part.kind", "valid string"),
        ({}, "part.kind", "is missing"),
        (3, "part", "should be a mapping"),
    ],
    ids=str,
)
def test_a_mistake_is_told_where_it_lies(content, path, said):
    where, text = complaint(content)
    assert where == path
    assert said in text


@pytest.mark.parametrize(
    "text",
    [
        "from __future__ import annotations\ndef mine(student: Nowhere): ...",
        "import functools\nmine = functools.partial(print)",
        "mine = dict",
    ],
    ids=["annotation", "partial", "builtin"],
)
def test_a_signature_that_cannot_be_read_is_told(module, text):
    where, said = complaint({"kind": f"{module(text)}.mine"})
    assert where == "part.kind"
    assert "cannot be read" in said
