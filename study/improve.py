"""Make a model better: what to spend on which teachers, and whether what came of it is better.

A student learns from one teacher after another (arXiv 2310.17653, section 4.3, "sequential"), the student so
far being the frozen student, but goes on from a result only where it is better. All is decided on images that
no student learns from: which teachers come first on `fit`, where a pool's weights are fitted, too, and which
learning rate and which results on the rest of `tune`. What came of it is measured once, at the end, on
evaluation images.

A result is better by an exact one-sided McNemar test against the student before it. Each round of looks
spends half of the level that is left, shared by its looks; a round that finds a better student gives its
part back. Where no teacher can help, all rounds together spend less than `LEVEL`, so that a better student
is claimed wrongly in at most 5 % of cases (Bonferroni's inequality, for any number of rounds; what is given
back is spent only after a claim, as in the fallback procedure of Wiens, 2003).

Left out on purpose: running it, which `jobs/improve.py` does by trials, so that all is recorded and can be
gone on with. Where no image has a class nothing is tested or proven, and `Compared` says only how much
changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from study import knowledge, scores, spec, training
from study.errors import StudyError
from study.evaluate import Predictions
from study.learner import Learner
from study.models import weights, zoo
from study.models.timm_import import timm
from study.models.zoo import Classifier
from study.objectives.pool import gains
from study.store import storage
from study.views import View
from study.workspace import Workspace

LEVEL = 0.05
RATES = (1e-2, 1e-3, 1e-4)  # tried for an epoch each
ROUNDS = 3  # that are hoped for
FEW_EPOCHS, MANY_EPOCHS = 20, 30  # of each look, where there is time for more than one round
STEPS = 20  # that are timed


# --- better or not ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A result before its judge: which images of `tune` it gained and lost against the student before it."""

    trial: str
    gained: int
    lost: int

    @property
    def p(self) -> float:
        """Of the exact one-sided McNemar test that it is right more often."""
        flipped = self.gained + self.lost
        return binomtest(self.gained, flipped, alternative="greater").pvalue if flipped else 1.0


def level_of(rounds: Sequence[bool], level: float = LEVEL) -> float:
    """The level of the next round, after rounds that found a better student, or did not."""
    for found in rounds:
        if not found:
            level /= 2
    return level / 2


def best(looks: Sequence[Look], level: float) -> Look | None:
    """Of a round's looks the one that gained most, among those that are better at their part of the level."""
    better = [look for look in looks if look.p <= level / len(looks)]
    return max(better, key=lambda look: look.gained - look.lost, default=None)


# --- what fits into the time --------------------------------------------------------------------


@dataclass(frozen=True)
class Timings:
    """Seconds that the student takes: to train for an epoch, to look at `tune`, at the evaluation images."""

    epoch: float
    look: float
    evaluation: float


@dataclass(frozen=True)
class Plan:
    """Rounds that are hoped for, looks of each, epochs of each look, seconds that a round should take."""

    rounds: int
    looks: int
    epochs: int
    seconds: float


def plan(seconds: float, timings: Timings, teachers: int, slots: int) -> Plan:
    """What to spend some seconds on: rounds of several epochs, or else one.

    What a look gains grows with its epochs (docs/improve.md), and more than `MANY_EPOCHS` were not tried. So
    there are as many rounds as leave `FEW_EPOCHS` to each, up to `ROUNDS`.

    Args:
        seconds: what there is, all told.
        timings: of the student.
        teachers: how many there are.
        slots: how many students train at once.

    Raises:
        StudyError: no epoch fits.
    """
    probes = -(-len(RATES) // slots) * (timings.epoch + timings.look)
    left = seconds - probes - 2 * timings.evaluation
    for rounds in range(ROUNDS, 0, -1):
        epochs = int((left / rounds - timings.look) / timings.epoch)
        if epochs >= (FEW_EPOCHS if rounds > 1 else 1):
            epochs = min(epochs, MANY_EPOCHS)
            return Plan(rounds, min(slots, teachers + 1), epochs, epochs * timings.epoch + timings.look)
    needed = probes + 2 * timings.evaluation + timings.epoch + timings.look
    raise StudyError(
        f"--budget: {max(0, seconds):.0f} s are left, too few for one epoch (which takes "
        f"{timings.epoch:.1f} s here, and {needed:.0f} s with what is tried and evaluated beside it); give "
        "more"
    )


def timings(student: spec.Model, budget: spec.Budget, workspace: Workspace) -> Timings:
    """What a student takes, measured by a few steps and forward passes."""
    samples = workspace.splits["transfer"]
    batch = min(budget.batch_size, len(samples))
    few = samples[: STEPS * batch]
    classifier = workspace.student(student)

    def loss(student: torch.Tensor) -> torch.Tensor:  # of no labels: there may be none
        return student.float().logsumexp(1).mean()

    learner = Learner(classifier, loss, ("student",), budget, min(RATES), 2 * STEPS, workspace.precision)
    loader = workspace.shown(View(classifier.crop, budget.transforms), "transfer")
    rows = training.fit(learner, loader, few, epochs=2, batch_size=batch, seed=0)
    epoch = rows[-1]["seconds"] * len(samples) / len(few)
    # A third of a step is its forward pass, about.
    image = epoch / 3 / len(samples)
    return Timings(epoch, image * len(workspace.splits["tune"]), image * len(workspace.splits["evaluation"]))


# --- proof --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    """What the evaluation images say of a student, against the original one.

    `low` and `high` are an exact 95 % interval of the difference in accuracy, given how many images the two
    differ on (Clopper and Pearson's of the gained ones' share); `p` is the exact two-sided McNemar test's.
    The measures are those of `study.scores`, before and after. All are fractions.
    """

    samples: int
    before: float
    after: float
    delta: float
    low: float
    high: float
    gained: int
    lost: int
    p: float
    measures_before: Mapping[str, float | None]
    measures_after: Mapping[str, float | None]

    def as_row(self) -> dict:
        """One flat row."""
        row = asdict(self)
        for when in ("before", "after"):
            row |= {f"{name}_{when}": value for name, value in row.pop(f"measures_{when}").items()}
        return row


def prove(labels: NDArray[np.integer], before: Predictions, after: Predictions) -> Proof:
    """The proof from what both say of images that nothing was decided on.

    Args:
        labels: int64 [samples], the true classes.
        before, after: what the original student and the new one say, with `true`.
    """
    own, now = (knowledge.correct(said.label, labels) for said in (before, after))
    gained, lost = int((now & ~own).sum()), int((own & ~now).sum())
    flipped, count = gained + lost, len(labels)
    low = high = 0.0
    p = 1.0
    if flipped:
        test = binomtest(gained, flipped)
        interval = test.proportion_ci(0.95, "exact")
        low, high = ((2 * share - 1) * flipped / count for share in interval)
        p = float(test.pvalue)
    return Proof(
        samples=count,
        before=float(own.mean()),
        after=float(now.mean()),
        delta=(gained - lost) / count,
        low=low,
        high=high,
        gained=gained,
        lost=lost,
        p=p,
        measures_before=scores.measures(before, labels),
        measures_after=scores.measures(after, labels),
    )


# --- on images ----------------------------------------------------------------------------------


def promise(student: spec.Model, teacher: spec.Model, workspace: Workspace) -> tuple[float, float]:
    """How much more of `fit` the opinion pool of student and teacher gets right than the student alone, and
    how much of it the teacher does: fractions.

    The teacher sees what it will see in a transfer, the student's crop. Where the pool gains nothing there is
    nothing to learn; who teaches best is best told by accuracy (docs/recommender.md).
    """
    labels = torch.from_numpy(workspace.labels(workspace.aside))
    view = View(workspace.frozen(student).crop)
    own, its = (
        workspace.outputs(workspace.frozen(model), workspace.aside, view).logits.float()
        for model in (student, teacher)
    )
    right = float((its.argmax(1) == labels).double().mean())
    return gains(own, its, labels)["pool_gain"], right


@dataclass(frozen=True)
class Compared:
    """Two students on images that neither learnt from.

    `changed` is the share of them that they answer differently; `predictions` are columns with what both said
    of each; `environment` is where and with what they ran. The `proof`, and images `gained`, `lost` and there
    (`of_class`) of each class, int64 [classes], are None where nobody has said the classes.
    """

    changed: float
    predictions: dict[str, Any]
    weights: str
    precision: str
    environment: dict[str, Any]
    proof: Proof | None = None
    gained: NDArray[np.int64] | None = None
    lost: NDArray[np.int64] | None = None
    of_class: NDArray[np.int64] | None = None


def compared(original: spec.Model, final: spec.Model, workspace: Workspace) -> Compared:
    """A student before and after; the workspace scores on evaluation images."""
    return _compared(original, workspace.load(final), workspace)


def delivered(original: spec.Model, final: spec.Model, folder: Path, workspace: Workspace) -> Compared:
    """Write a student as a folder that timm loads, and compare what timm loads from there.

    Args:
        original, final: the student before and after.
        folder: where `config.json` and `model.safetensors` go; each whole or not at all.
        workspace: that scores on evaluation images.
    """
    learnt = workspace.load(final)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "model"
        weights.save(learnt, {}, made)
        for name in ("config.json", weights.TENSORS):
            storage.write(folder / name, (made / name).read_bytes())
    network = timm.create_model(f"{weights.LOCAL}{folder}", pretrained=True)
    loaded = zoo.Classifier(network, timm.data.resolve_model_data_config(network)).eval()
    if (loaded.preprocessing, loaded.input) != (learnt.preprocessing, learnt.input):
        raise StudyError(
            f"{folder}: timm would show this model images otherwise than it learnt from them; leave out "
            "config.size: test"
        )
    loaded.model = final
    return _compared(original, loaded.choose(workspace.chosen).to(workspace.device), workspace)


def _compared(original: spec.Model, learnt: Classifier, workspace: Workspace) -> Compared:
    before, after = workspace.predict(workspace.frozen(original)), workspace.predict(learnt)
    columns = {"index": workspace.splits[workspace.evaluated]}
    for name, said in (("before", before), ("after", after)):
        columns |= {name: said.label, f"{name}_confidence": said.confidence}
    found = Compared(
        changed=float((before.label != after.label).mean()),
        predictions=columns,
        weights=weights.digest_of(learnt),
        precision=workspace.precision,
        environment=workspace.environment(),
    )
    if not workspace.is_labelled(workspace.evaluated):
        return found
    labels, classes = workspace.labels(), len(workspace.images.classes)
    own, now = (knowledge.correct(said.label, labels) for said in (before, after))
    parts = {"gained": now & ~own, "lost": own & ~now, "of_class": own | True}
    by_class = {name: np.bincount(labels[part], minlength=classes) for name, part in parts.items()}
    columns = {"index": columns["index"], "label": labels} | columns
    return replace(found, proof=prove(labels, before, after), predictions=columns, **by_class)
