"""A mistake in a study, told in one sentence: field, what is wrong with it, what to do.

pydantic finds mistakes and says where; this module says it as the file's author sees the file: keys
by their path, the nearest known key for a misspelt one, and nothing of unions, tags and types.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError

TEXTS = {
    "missing": "is missing; add it",
    "too_short": "must not be empty",
    "too_long": "has too many entries",
    "dict_type": "should be a mapping, 'key: value' lines",
    "model_type": "should be a mapping, 'key: value' lines",
    "model_attributes_type": "should be a mapping, 'key: value' lines",
    "path_type": "should be a path",
    "string_pattern_mismatch": "may hold letters, digits, '_', '.' and '-', the first a letter or digit",
}


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for the nearest known word, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def first(error: ValidationError, model: type[BaseModel]) -> str:
    """The mistake to mend first, in one sentence, and how many more there are.

    Args:
        error: what pydantic found.
        model: the model it validated against.
    """
    path, text = path_and_text(error, model)
    return (f"{path}: " if path else "") + text


def path_and_text(
    error: ValidationError, model: type[BaseModel], also: Iterable[str] = ()
) -> tuple[str, str]:
    """Where the mistake to mend first lies, and what is wrong there; `also` are keys known beside the
    model's.
    """
    # An unknown key explains the missing one it was meant to be, so it is told first, and what is missing
    # last; then what lies where it was written, and not in a model that is made from that one.
    ranks = {"extra_forbidden": 0, "setting": 0, "missing": 2}
    ordered = sorted(_own(error.errors()), key=lambda e: (ranks.get(e["type"], 1), len(e["loc"])))
    # One mistake in a union is reported for each of its members: told and counted once.
    by_path = {_walk(model, mistake["loc"])[0]: mistake for mistake in reversed(ordered)}
    path, enclosing = _walk(model, ordered[0]["loc"])
    mistake = by_path[path]
    text = " ".join(_text(mistake, path, enclosing, also).split())
    if mistake["type"] == "setting":
        path = ".".join(part for part in (path, mistake["ctx"]["path"]) if part)
    return path, text + (f" (and {len(by_path) - 1} more)" if len(by_path) > 1 else "")


def _own(found: list) -> list:
    """Mistakes without what follows from others: entries that are wrong do not count, so too few are left."""
    within = [mistake["loc"] for mistake in found]
    return [
        mistake
        for mistake in found
        if mistake["type"] != "too_short"
        or not any(loc[: len(mistake["loc"])] == mistake["loc"] != loc for loc in within)
    ]


def _walk(kind: Any, location: tuple) -> tuple[str, type[BaseModel] | None]:
    """The path of a location as the file has it, and the model whose field it ends in."""
    path, model = [], None
    for part in location:
        if part == "[key]":  # what is wrong is the entry's name, which the path ends in
            break
        kind = _bare(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            path.append(str(part))
            model, field = kind, kind.model_fields.get(part)
            kind = field.annotation if field else None
        elif get_origin(kind) in (dict, list, tuple):
            path.append(str(part))
            kind = get_args(kind)[-1 if get_origin(kind) is dict else 0]
        elif get_origin(kind) in (Union, types.UnionType):
            kind = next((member for member in get_args(kind) if part in _tags(member)), None)
    return ".".join(path), model


def written(model: type[BaseModel]) -> list[str]:
    """The fields that a user writes; those without a place in its repr are filled in."""
    return [name for name, field in model.model_fields.items() if field.repr]


def _bare(kind: Any) -> Any:
    """A type without what is annotated to it, and without 'or None', which locations do not show."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not types.NoneType]
        return _bare(members[0]) if len(members) == 1 else kind
    return kind


def _tags(member: Any) -> set:
    """What pydantic may call a member of a union in a location."""
    tags = {extra.tag for extra in get_args(member)[1:] if isinstance(extra, Tag)}
    bare = _bare(member)
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        tags |= {f.default for f in bare.model_fields.values() if isinstance(f.default, str)}
    return tags


def _text(mistake: dict, path: str, enclosing: type[BaseModel] | None, also: Iterable[str]) -> str:
    context = mistake.get("ctx", {})
    match mistake["type"]:
        case "extra_forbidden":
            known = [*(written(enclosing) if enclosing else ()), *also]
            near = nearest(path.rpartition(".")[2], known)
            return "unknown key" + (near or f"; known are {', '.join(known)}")
        case "union_tag_invalid":
            known = [word.strip(" '") for word in context["expected_tags"].split(",")]
            return f"'{context['tag']}' is unknown; known are {', '.join(known)}" + nearest(
                context["tag"], known
            )
        case "union_tag_not_found":
            return f"says not which; give {context['discriminator']}"
        case "value_error":
            return str(context["error"])
        case "setting":
            return context["text"]
        case kind:
            said = repr(mistake["input"])
            said = said if len(said) <= 60 else said[:57] + "..."
            default = f"{mistake['msg'][0].lower()}{mistake['msg'][1:]} (it says {said})"
            return default if context.get("min_length", 1) > 1 else TEXTS.get(kind, default)


class StrictLoader(yaml.SafeLoader):
    """YAML that refuses what would pass unnoticed: a key given twice, and a key that is not text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is not text; put it in quotes", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key}' is given twice; remove one", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
