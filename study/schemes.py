"""Ranking augmentations for a teacher before any student is trained, by how its mean probabilities vary.

The less they vary over windows of originals and copies (T. stddev, `study.diversity`), the lower the loss
of students is to be expected (arXiv 2012.02909, section 3.2). Measured on the batches that a trial of the
study's first seed has, in ten epochs as in the authors' runs, as a student sees them; of students with the
same crop once.

Left out on purpose: what is picked by a student, which is not known before it is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from study import distributed, diversity, spec, workspace
from study.augmentation import SecondInput
from study.errors import StudyError
from study.frozen import Frozen
from study.models import zoo
from study.models.zoo import Classifier
from study.store import digest, records
from study.views import View
from study.workspace import Workspace

BY_STUDENTS = ("student_entropy", "kl")


class Scheme(NamedTuple):
    """A method's second input, for a teacher, as a student sees it; names of the study."""

    student: str
    teacher: str
    method: str


def schemes(study: spec.Study) -> list[Scheme]:
    """All that can be ranked: of each teacher every second input, none twice.

    Raises:
        StudyError: no method has one that is not picked by students.
    """
    found: dict[tuple, Scheme] = {}
    for name, method in study.methods.items():
        if method.augmentation and method.augmentation.pick not in BY_STUDENTS:
            for student, teacher in study.ordered_pairs():
                what = (teacher, method.augmentation, zoo.crop_of(study.zoo[student]))
                found.setdefault(what, Scheme(student, teacher, name))
    if not found:
        raise StudyError(
            "methods: none has a second input that is known before students are; give one an 'augmentation'"
        )
    return list(found.values())


def id_of(study: spec.Study, scheme: Scheme) -> str:
    """Hash of all that a measurement depends on, the names of a study aside."""
    of_views = {"batch_size", "transforms", "view_seed", "precision"}
    content = {
        "results_version": spec.RESULTS_VERSION,
        "data": study.data.made_on(fitted=False),
        "crop": list(zoo.crop_of(study.zoo[scheme.student])),
        "teacher": study.zoo[scheme.teacher].model_dump(mode="json"),
        "augmentation": study.methods[scheme.method].augmentation.model_dump(mode="json"),
        "budget": study.budget.model_dump(mode="json", include=of_views),
        "seed": study.seeds[0],
    }
    return digest.of_json(spec.without(content, "name"))


def run(study: spec.Study, scheme: Scheme) -> None:
    """Measure one, and record it in `augmentations`."""
    place, budget = workspace.of(study), study.budget
    augmentation, teacher = study.methods[scheme.method].augmentation, place.frozen(study.zoo[scheme.teacher])
    view = View(place.frozen(study.zoo[scheme.student]).crop, budget.transforms, budget.view_seed)
    found = measured(place, augmentation, view, teacher, batch_size=budget.batch_size, seed=study.seeds[0])
    row = {
        "measurement": id_of(study, scheme),
        "study": study.name,
        **scheme._asdict(),
        "augmentation": augmentation.name,
        "augmentation_pick": augmentation.pick,
        "augmentation_draw": augmentation.draw,
        **found,
    }
    columns = {name: [value] for name, value in row.items()}
    records.write(study.results, "augmentations", row["measurement"], columns)


def ranked(study: spec.Study, every: Iterable[Scheme]) -> list[tuple[Scheme, dict[str, Any]]]:
    """What is recorded of some, each teacher's together, those that vary least first."""
    rows = []
    for scheme in every:
        table: pa.Table = records.read(study.results, "augmentations", id_of(study, scheme))
        rows.append((scheme, table.to_pylist()[0]))
    return sorted(rows, key=lambda one: (one[0].teacher, one[0].student, one[1]["teacher_stddev"] or np.inf))


def measured(
    workspace: Workspace,
    augmentation: spec.Augmentation,
    view: View,
    teacher: Classifier,
    *,
    batch_size: int,
    epochs: int = diversity.EPOCHS,
    seed: int = 0,
) -> dict[str, float | int | None]:
    """How a teacher's probabilities vary under an augmentation (`diversity.Windows.measures`), before any
    student is trained: on the batches that a trial of this seed and of so many epochs has.
    """
    second = SecondInput(workspace, augmentation, view, epochs, teacher)
    first, samples = Frozen(workspace, teacher, view, epochs), workspace.splits["transfer"]
    loader = second.loader(workspace.shown(view, "transfer"))
    for epoch in range(epochs):
        ask, ask_again = first.epoch(epoch), second.epoch(epoch)
        order = np.random.default_rng((seed, epoch)).permutation(samples)
        for batch in distributed.parts(loader, order, batch_size, workspace.device, epoch):
            ask_again(batch, ask(batch.pixels, batch.indices)[0])
        second.end_epoch()
    return second.windows.measures()
