"""Contracts by signature: functions and classes that a study names, their settings, and what they are given.

What stands before the star of a signature is given by the laboratory (tensors of an objective, the random
numbers of a transform); what stands behind it is what YAML may set, checked by the parameter's annotation:

    def kl(student, teacher, *, temperature: Positive = 1.0): ...

A study names what is here by its short name, and one's own by a dotted one (`my_module.my_loss`), whose
file's SHA-256 then belongs to it: results do not outlive the code that made them. Left out on purpose: a
registry. What exists is what stands in a module.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from study import mistakes
from study.store import digest

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
# Of labels: 1 would leave nothing of them. Left out where it is 0, so that what has none keeps its id.
Smoothing = Annotated[float, Field(ge=0, lt=1, exclude_if=lambda share: share == 0)]
Count = Annotated[int, Field(ge=1)]


class Checked(BaseModel):
    """Immutable, and no yes or no where a number is meant."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, content: Any) -> Any:
        """Python counts True as 1: `epochs: true` would be an epoch."""
        for name, value in content.items() if isinstance(content, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and _is_number(field.annotation):
                text = f"should be a number (it says {str(value).lower()})"
                raise PydanticCustomError("setting", "{text}", {"path": name, "text": text})
        return content


class Strict(Checked):
    """And no key it does not know."""

    model_config = ConfigDict(extra="forbid")


def _is_number(kind: Any) -> bool:
    members = (kind, *typing.get_args(kind))
    return bool({int, float} & {*members}) and bool not in members


def given(function: Callable) -> tuple[str, ...]:
    """The names of what stands before the star: what a function or class is given."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


@functools.cache
def settings_of(function: Callable) -> type[Strict]:
    """A model of what stands behind the star: what YAML may set.

    Raises:
        ValueError: it has none that can be read, or its annotations name what is not there.
    """
    target = function.__init__ if inspect.isclass(function) else function
    try:
        kinds = typing.get_type_hints(target, include_extras=True)
        parameters, name = inspect.signature(function).parameters.values(), function.__name__
    except Exception as error:  # whatever reading what someone wrote raises
        raise ValueError(
            f"the signature of {function} cannot be read ({error}); name a function or a class, and import "
            "what its annotations name"
        ) from None
    fields = {
        parameter.name: (
            kinds.get(parameter.name, Any),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return create_model(name, __base__=Strict, **fields)


def find(name: str, known: Mapping[str, Any]) -> Any:
    """What a study names: one of those known, or, by a dotted name, one's own.

    Raises:
        ValueError: nothing is called so, or its module cannot be imported; told in a sentence.
    """
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        near = mistakes.nearest(name, known)
        raise ValueError(
            f"'{name}' is unknown; known are {', '.join(known)}, and your own by 'module.name'{near}"
        )
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # whatever importing someone's module raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"'{name}' cannot be imported ({reason}); put its module where Python finds it"
        ) from None
    found = getattr(imported, attribute, None)
    if not callable(found):
        raise ValueError(f"'{name}': the module {module} has no '{attribute}' to call; correct the name")
    return found


def code_of(name: str, known: Mapping[str, Any]) -> str | None:
    """16 digits of the SHA-256 of the file of one's own; None of what is here."""
    if name in known:
        return None
    file = importlib.import_module(name.rpartition(".")[0]).__file__
    return digest.of_file(Path(file))[:16]


class Named(Checked):
    """A function or class by its name, with its settings beside it.

    Subclasses say which of their fields holds the name, and what is known.
    """

    model_config = ConfigDict(extra="allow")

    NAME: ClassVar[str]
    KNOWN: ClassVar[Mapping[str, Any]]

    # Of one's own file, which is part of what a result depends on.
    code: str | None = Field(default=None, exclude_if=lambda code: code is None, repr=False)

    @property
    def function(self) -> Any:
        """What is named."""
        return find(getattr(self, self.NAME), self.KNOWN)

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings, with defaults, but for those that are left out at theirs (`exclude_if`)."""
        return dict(self.model_extra)

    @model_validator(mode="before")
    @classmethod
    def _settings_fit(cls, content: Any) -> Any:
        """What is no field of ours is a setting of what is named: checked, and its defaults filled in."""
        name = content.get(cls.NAME) if isinstance(content, dict) else None
        if not isinstance(name, str):
            return content  # pydantic says what is wrong with it
        fields = cls.model_fields if name not in cls.KNOWN else cls.model_fields.keys() - {"code"}
        own = {key: value for key, value in content.items() if key in fields}
        try:
            known = settings_of(find(name, cls.KNOWN))
        except ValueError as error:
            raise PydanticCustomError("setting", "{text}", {"path": cls.NAME, "text": str(error)}) from None
        try:
            settings = known.model_validate({key: content[key] for key in content.keys() - own.keys()})
        except ValidationError as error:
            path, text = mistakes.path_and_text(error, known, also=mistakes.written(cls))
            raise PydanticCustomError("setting", "{text}", {"path": path, "text": text}) from None
        told = settings.model_dump().keys()  # a setting added later is none of those that ids are made of
        given = {key: value for key, value in settings if key in told}
        return {"code": code_of(name, cls.KNOWN), **given, **own}
