"""What an objective may ask for, and how it is made: its signature is read, nothing else.

`INPUTS` may stand before the star of a function, or in a module's `forward`; `MADE_WITH` before the star of a
module's `__init__`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from study.contract import given

INPUTS = (
    *("student", "teacher", "teachers", "frozen", "labels", "indices"),
    *("student_features", "teacher_features", "teachers_features", "frozen_features"),
    *("student_maps", "teacher_maps"),
    "learning_teacher",
    *("student_augmented", "teacher_augmented"),
)
SECOND = INPUTS[-2:]  # with a default of None, what is read where a method has a second input
# Numbers of features, and of channels of each stage's maps (a tuple); of classes, and the classes' names (a
# tuple); of samples of the transfer set, and their labels, int64 [samples]. Of the images kept aside, seen as
# in the transfer: logits [samples, classes] of the frozen student and (a list) of each teacher, and labels,
# int64 [samples].
MADE_WITH = (
    *("student_dim", "teacher_dim", "student_channels", "teacher_channels"),
    *("classes", "class_names", "samples", "sample_labels"),
    *("tune_frozen", "tune_teachers", "tune_labels"),
)


@functools.cache
def needs(objective: Callable) -> tuple[str, ...]:
    """The names of what an objective reads, in its order."""
    return given(objective.forward)[1:] if inspect.isclass(objective) else given(objective)


@functools.cache
def needs_of_one_input(objective: Callable) -> tuple[str, ...]:
    """The same where there is no second input: without what it then takes the default for."""
    function = objective.forward if inspect.isclass(objective) else objective
    parameters = inspect.signature(function).parameters
    optional = {name for name in SECOND if name in parameters and parameters[name].default is None}
    return tuple(name for name in needs(objective) if name not in optional)


@functools.cache
def check(objective: Callable, name: str) -> None:
    """Refuse an objective that asks for what none is given.

    Raises:
        ValueError: names what it asks for, and what there is.
    """
    if inspect.isclass(objective) and not hasattr(objective, "forward"):
        raise ValueError(f"'{name}' is a class without 'forward'; make it a torch.nn.Module")
    for asked, known in ((needs(objective), INPUTS), (made_with(objective), MADE_WITH)):
        for word in asked:
            if word not in known:
                raise ValueError(f"'{name}' asks for '{word}', but is given {', '.join(known)} alone")
    if ("student_augmented" in needs(objective)) != ("teacher_augmented" in needs(objective)):
        raise ValueError(
            f"'{name}' reads of the second input what one says alone; name 'student_augmented' and "
            "'teacher_augmented'"
        )
    if not {"student", "student_features", "student_maps"} & set(needs(objective)):
        raise ValueError(f"'{name}' does not read the student; name 'student' or 'student_features'")


def made_with(objective: Callable) -> tuple[str, ...]:
    """What a module is made with."""
    return given(objective) if inspect.isclass(objective) else ()


def fitted_on_tune(objective: Callable) -> bool:
    """Whether a module is made with what models say of the images kept aside."""
    return any(name.startswith("tune_") for name in made_with(objective))


def classes_taught(objective: Callable) -> list[int] | None:
    """The classes whose samples a teacher teaches, by number; None of an objective that chooses none.

    One that does says so by an attribute `whom`, int64 [classes]: 0 for the frozen student, k for the k-th
    teacher.
    """
    whom = getattr(objective, "whom", None)
    return None if whom is None else whom.nonzero().flatten().tolist()


def make(objective: Callable, settings: dict, **known: Any) -> Callable:
    """An objective with its settings, to be called with what it needs, in its order.

    Args:
        objective: the function or class.
        settings: what stands behind its star.
        known: what it may be made with (`MADE_WITH`).
    """
    if inspect.isclass(objective):
        return objective(*(known[name] for name in made_with(objective)), **settings)
    return functools.partial(objective, **settings)
