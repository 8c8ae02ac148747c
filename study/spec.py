"""What a study is: the YAML file under `studies/`, validated, and the trials it expands to.

A `Study` names its data, its zoo of models with where their weights come from, which of them are paired by
which methods, and the budget of a trial. `load` reads and checks a file; every mistake in it is told in one
sentence that names the file and the field. `Study.trials()` expands it, without touching a file: a `Trial`
holds everything that can change its result, and its id is a hash of just that, so a study may be edited and
run again: trials that did not change keep their ids and their records.

Left out on purpose: where a study runs. Folders, resources and trackers are part of the file but not of
a trial's identity.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from study import mistakes, objectives, search
from study.contract import Named, Share, Smoothing, Strict
from study.errors import StudyError
from study.images.sources import SOURCES
from study.store import digest, storage
from study.transforms import AnyTransform, Mix, dump

if TYPE_CHECKING:
    from study.views import View

# Part of every trial's id, and of every made weight's: raise it when a change of the code changes what a
# result means.
RESULTS_VERSION = 4


def _unset(value: Any) -> bool:
    """Fields left out where they are not set: what has none keeps the id it had before they existed."""
    return value is None


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0, le=1)]
# Of models and methods: they stand in names of files.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


def _whole_above_one(amount: float) -> float:
    if amount > 1 and amount != int(amount):
        raise ValueError(f"{amount} is neither a share up to 1 nor a whole number of images")
    return amount


Shares = Annotated[
    tuple[Share, ...],
    Field(min_length=1),
    BeforeValidator(lambda given: given if isinstance(given, list | tuple) else (given,)),
]
Amount = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]


SPLITS = ("zoo", "tune", "fit", "transfer", "evaluation")


ClassMap = str | dict[str, Annotated[int, Field(ge=0)]]


class Splits(Strict):
    """Class-stratified parts of the data; up to 1 a share of what it is drawn from, above 1 a count.

    `zoo` (what models of the zoo may be trained on) and then `tune` (where hyper-parameters are
    chosen) are drawn from the training images; `transfer` from `zoo`, or, where the zoo is trained
    elsewhere (`zoo: 0`), from the training images outside `tune`. `fit` is taken out of `tune`: with it,
    what a method fits on images kept aside is fitted there, and choices are made on the rest of `tune`.
    `evaluation` is the test images, with `evaluate_rest` also the training images in no other split.
    With `tune_of: test` `tune` is drawn from the test images, where the classes of others are not known.

    With `imbalance` ρ the classes of `zoo`, and so of `transfer`, have a long tail, n · ρ^(−r / (K − 1))
    images of that of rank r, the ranks drawn by `seed`; what it loses by that is in no split.
    """

    zoo: Amount = 0
    transfer: Amount = Field(gt=0)
    tune: Amount = 0
    tune_of: Literal["train", "test"] = Field(default="train", exclude_if=lambda part: part == "train")
    fit: Amount = Field(default=0, exclude_if=lambda amount: amount == 0)
    evaluate_rest: bool = False
    imbalance: float | None = Field(default=None, ge=1, exclude_if=_unset)
    seed: Seed = 0

    @model_validator(mode="after")
    def _a_tail_is_of_something(self):
        if self.imbalance is not None and not self.zoo:
            raise ValueError("imbalance: thins the images of 'zoo', and there are none; say how many in zoo")
        return self


class Images(Named):
    """Where images come from: a function of `study.images.sources`, or one's own, by name, and its settings.

    Images are written with their shorter side shrunk to `short_side` (None: as they are; 'auto': to what lets
    no model of the zoo see them enlarged), raw below 64 x 64 pixels and as JPEG of `jpeg_quality` above.
    """

    NAME: ClassVar = "source"
    KNOWN: ClassVar = SOURCES

    source: str
    short_side: Annotated[int, Field(ge=8)] | Literal["auto"] | None = 384
    jpeg_quality: int = Field(default=95, ge=1, le=100)


class Expected(Strict):
    """What the images should be: refused if they are not, and known before they are written."""

    train: int = Field(ge=1)
    test: int = Field(ge=1)
    classes: int = Field(ge=2)


class OtherSet(Strict):
    """Other test images of the same classes, or of some of them: students are evaluated on them, too.

    Of the source only the test images are seen. `class_map` as in `Data`, where classes are not called alike.
    """

    images: Images
    class_map: ClassMap | None = Field(default=None, exclude_if=_unset)


def _count_or_names(classes: Any) -> Any:
    several = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    if (several and len({*classes}) == len(classes) >= 2) or (type(classes) is int and classes >= 2):
        return classes
    raise ValueError(f"should be how many, 2 or more, or a list of 2 names or more (it says {classes})")


class Data(Strict):
    """Images and how they are split.

    With `classes` they are of some classes alone, which are numbered anew in their order: of those named, or
    of so many, drawn by `splits.seed`, those of fewer among those of more.

    `class_map` says which of a model's classes are the data's, where it tells more apart, or orders them
    otherwise: a map that is here (`study.images.labels`), or {class: index, ...}. A study stops where a model
    of the hub is more than ten points under the accuracy that timm publishes for it on ImageNet, since labels
    or pixels are then not what they should be; with `as_published: false` it does not. `also` names other
    sets to evaluate on. With `evaluate: tune` trials are scored on the images kept aside for choices, and on
    no others. `name` is what records and figures call the data; without it they are called by their source.
    """

    images: Images
    splits: Splits
    classes: Annotated[int | tuple[str, ...] | None, BeforeValidator(_count_or_names)] = Field(
        default=None, exclude_if=_unset
    )
    class_map: ClassMap | None = Field(default=None, exclude_if=_unset)
    also: dict[str, OtherSet] = Field(default={}, exclude_if=lambda sets: not sets)
    evaluate: Literal["evaluation", "tune"] = Field(default="evaluation", exclude_if=lambda on: on != "tune")
    name: str | None = Field(default=None, exclude=True)  # changes no result
    as_published: bool = Field(default=True, exclude=True)  # changes no result
    expected: Expected | None = Field(default=None, exclude=True)  # changes no result

    @model_validator(mode="after")
    def _tune_is_there(self):
        if self.evaluate == "tune" and not self.splits.tune:
            raise ValueError("evaluate: no images are kept aside to choose on; say how many in splits.tune")
        if self.evaluate == "tune" and self.also:
            raise ValueError(
                "also: choices are made on 'tune' alone; leave out other sets, or evaluate: tune"
            )
        return self

    @property
    def called(self) -> str:
        """What records call the data."""
        return self.name or self.images.source

    def made_on(self, fitted: bool) -> dict[str, Any]:
        """As JSON, what weights that are made depend on; those `fitted` may be on images kept aside, too."""
        content = self.model_dump(mode="json", exclude={"also", "evaluate"})
        if not fitted:
            content["splits"].pop("fit", None)
        return content


# --- training -----------------------------------------------------------------------------------


def _one_of_each(transforms: tuple) -> tuple:
    kinds = [type(transform) for transform in transforms]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"{kind.__name__} is listed twice; the second would draw the same numbers")
    if any(isinstance(transform, Mix) for transform in transforms[:-1]):
        raise ValueError("what mixes images has to be the last of the transforms, and the only one")
    return transforms


def _known_optimizer(name: str) -> str:
    if name in ("sgd", "adamw"):
        return name
    from timm.optim import list_optimizers

    import study.models.timm_import  # noqa: F401 - before timm, and only where it is needed

    # Left out: those of other packages, and one that needs second derivatives.
    known = list_optimizers(exclude_filters=("fused*", "bnb*", "adahessian"))
    if name not in known:
        raise ValueError(f"timm has no optimizer '{name}'{mistakes.nearest(name, known)}")
    return name


Optimizer = Annotated[str, AfterValidator(_known_optimizer)]


class Drops(Strict):
    """A learning rate that is multiplied by `factor` at each of some shares of the run.

    It is so before the first epoch, counted from 0, that is no less than the share of all epochs.
    """

    drops: tuple[Above0, ...] = Field(min_length=1)
    factor: float = Field(default=0.1, gt=0, le=1)

    @model_validator(mode="after")
    def _in_order(self):
        if list(self.drops) != sorted(set(self.drops)):
            raise ValueError("drops: give shares of the run, each larger than the one before")
        return self

    def epochs(self, epochs: int) -> list[int]:
        """The first epochs, from 0, of a run of so many that have the lower rate."""
        return [math.ceil(round(share * epochs, 6)) for share in self.drops]


Schedule = Annotated[
    Annotated[Literal["constant", "cosine", "linear", "one_cycle"], Tag("name")]
    | Annotated[Drops, Tag("drops")],
    Discriminator(lambda given: "drops" if isinstance(given, dict | Drops) else "name"),
]


class Training(Strict):
    """What one phase of training spends, with which optimiser, on which views.

    `optimizer` is torch's SGD or AdamW, or any other of timm's by its name. The learning rate rises linearly
    over `warmup`, a share of all steps, to where the schedule begins, which is one by name, or `{drops: [0.5,
    0.75], factor: 0.1}` (`Drops`). `clip_grad` is the largest norm that
    all gradients together may have. With `transforms` every epoch has a view of its own (`study.views`).
    BatchNorm normalises by each batch, and its statistics follow; `batch_norm: fixed` keeps those that the
    model has, which a few images of another kind than it was trained on would spoil.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    optimizer: Optimizer = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD and the like")
    weight_decay: float = Field(default=1e-3, ge=0)
    schedule: Schedule = "constant"
    warmup: float = Field(default=0, ge=0, lt=1, exclude_if=lambda share: share == 0)
    clip_grad: float | None = Field(default=None, gt=0, exclude_if=_unset)
    batch_norm: Literal["batch", "fixed"] = Field(default="batch", exclude_if=lambda by: by == "batch")
    transforms: Annotated[tuple[AnyTransform, ...], AfterValidator(_one_of_each)] = ()

    @model_validator(mode="after")
    def _warms_up_once(self):
        if self.warmup and self.schedule == "one_cycle":
            raise ValueError("warmup: the schedule 'one_cycle' warms up by itself; leave it out")
        if isinstance(self.schedule, Drops) and self.warmup >= self.schedule.drops[0]:
            raise ValueError("warmup: the rate drops before it has risen; let it end before the first drop")
        return self


class Phase(Training):
    """A phase of a model's own training with the labels, of all weights or of the head alone."""

    batch_size: int = Field(default=128, ge=1)
    optimizer: Optimizer = "adamw"
    weight_decay: float = Field(default=0.02, ge=0)
    schedule: Schedule = "one_cycle"
    lr: float = Field(gt=0, description="peak learning rate")
    train: Literal["all", "head"] = "all"


class Budget(Training):
    """What one transfer may spend.

    Views are drawn by `view_seed` and not by the trial's seed: trials of all seeds see the same ones, so
    what frozen models say of them is computed once. `precision` is what models compute in, also where the
    study's zoo is trained; without it bfloat16 on CUDA, float32 elsewhere. With `evaluate: epoch` the
    student is evaluated after every epoch, not at the end alone. The first `head_first` epochs train the
    head alone (the warm-up of arXiv 2310.17653, appendix B.1), all else, statistics of BatchNorm too, as it
    is.

    Two options are there to chase published numbers, as the paper's own scripts ran: `lr_per_256` takes a
    method's learning rate, and the interval of slow weights, as of batches of 256, and `teacher_crop:
    student` evaluates the teacher through the student's crop.
    """

    view_seed: Seed = 0
    precision: Literal["float32", "bfloat16", "float16"] | None = Field(default=None, exclude_if=_unset)
    evaluate: Literal["end", "epoch"] = "end"
    head_first: int = Field(default=0, ge=0, exclude_if=lambda epochs: epochs == 0)
    lr_per_256: bool = Field(default=False, exclude_if=lambda scaled: not scaled)
    teacher_crop: Literal["own", "student"] = Field(default="own", exclude_if=lambda whose: whose == "own")


# --- methods ------------------------------------------------------------------------------------


class Slow(Strict):
    """Slow weights, which are the result in place of the fast ones: θ ← τ·θ + (1−τ)·θ_fast every N steps.

    Give `tau` as a number, or `half_life` as the share of the run after which half of the original student is
    forgotten: a τ made for long runs leaves the student of a short one where it was. With `reset: epoch` the
    fast weights begin each epoch at the slow ones, as in the paper's own runs; without, they never do, as in
    its text.
    """

    tau: float | None = Field(default=None, ge=0, lt=1)
    half_life: float | None = Field(default=None, gt=0)
    every: int = Field(default=2, ge=1, description="N, steps between two updates")
    reset: Literal["never", "epoch"] = "never"

    @model_validator(mode="after")
    def _one_of_tau_and_half_life(self):
        if (self.tau is None) == (self.half_life is None):
            raise ValueError("give exactly one of 'tau' and 'half_life'")
        return self

    def decay(self, steps: int) -> float:
        """τ for a run of `steps` optimiser steps: given, or such that τ^(half_life · updates) = ½."""
        if self.tau is not None:
            return self.tau
        return 0.5 ** (1 / (self.half_life * max(1, steps // self.every)))


NONE_KEPT_ASIDE = "{} on images kept aside, and there are none; say how many in splits.tune"


class Augmentation(Strict):
    """The second input, a copy of the batch as the student sees it, to which `transforms` happen: none, and
    it is the same again (arXiv 2012.02909).

    Each sample has draws of its own, as in views. With `draw: batch` those of a batch's first sample are all
    samples', and partners are of the batch: so the authors' code runs. With `pick`, `pool` candidates are
    made of each sample, and of all candidates of a batch those are kept, as many as it has samples, on which
    this is largest: the teacher's or the student's entropy, or the KL from the one to the other.
    """

    transforms: Annotated[tuple[AnyTransform, ...], AfterValidator(_one_of_each)] = ()
    draw: Literal["sample", "batch"] = "sample"
    pick: Literal["teacher_entropy", "student_entropy", "kl"] | None = None
    pool: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _there_is_a_choice(self):
        if self.pick and self.pool == 1:
            raise ValueError(
                "pool: of one candidate there is none to pick; give 2 or more, or leave out 'pick'"
            )
        if self.pick is None and self.pool != 2:
            raise ValueError("pool: candidates are for 'pick'; say by what, or leave it out")
        return self

    @property
    def name(self) -> str:
        """What records call it."""
        return ", ".join(name for transform in self.transforms for name in dump(transform)) or "identity"

    def views(self, view: View) -> tuple[View, ...]:
        """How each candidate is shown, of what a view shows."""
        return tuple(view.copy(self.transforms, number) for number in range(self.pool if self.pick else 1))


class Method(Named):
    """How a student learns: an objective (`study.objectives`, or one's own) with its settings, and at what
    rate.

    With `interpolate` the result lies on the line between the student's weights before and after (WiSE-FT,
    arXiv 2109.01903): at this share of the way, or at that of several which is best on `tune`
    (`study.weight_space`). `augmentation` says what the second input is, of objectives that read one.
    `epochs_factor` multiplies the epochs of the study's budget: prolonged training, with a schedule that is
    as much longer.
    """

    NAME: ClassVar = "method"
    KNOWN: ClassVar = objectives.OBJECTIVES

    method: str
    lr: float = Field(gt=0, description="peak learning rate")
    slow: Slow | None = Field(default=None, exclude_if=_unset)
    interpolate: Shares | None = Field(default=None, exclude_if=_unset)
    augmentation: Augmentation | None = Field(default=None, exclude_if=_unset)
    epochs_factor: float = Field(default=1, gt=0, exclude_if=lambda factor: factor == 1)
    # The entry of a study that it is a combination of.
    search: str | None = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="after")
    def _needs_are_known(self):
        objectives.check(self.function, self.method)
        reads = "student_augmented" in self.needs
        if reads and self.augmentation is None:
            raise ValueError(
                f"augmentation: '{self.method}' reads a second input; say what happens to it, as in "
                "{transforms: [cutmix]}"
            )
        if self.augmentation and not reads:
            raise ValueError(
                f"augmentation: '{self.method}' reads no second input; leave it out, or choose another "
                "method, such as xe_kl_augmented"
            )
        return self

    def check_views(self, budget: Budget) -> None:
        """Refuse, by a ValueError, a second input of images that are mixed already."""
        mixed = [name for one in budget.transforms if isinstance(one, Mix) for name in dump(one)]
        if self.augmentation and mixed:
            raise ValueError(
                f"augmentation: copies are of whole images; leave '{mixed[0]}' out of budget.transforms"
            )

    def scaled(self, budget: Budget) -> Method:
        """The method with the learning rate, and the interval of slow weights, that the batch size asks
        for."""
        if not budget.lr_per_256:
            return self
        share = budget.batch_size / 256
        slow = self.slow and self.slow.model_copy(update={"every": max(1, round(self.slow.every / share))})
        return self.model_copy(update={"lr": self.lr * share, "slow": slow})

    @property
    def needs(self) -> tuple[str, ...]:
        """What the objective reads, in its order; it is given nothing else."""
        named = objectives.needs if self.augmentation else objectives.needs_of_one_input
        return named(self.function)

    @property
    def fitted_on_tune(self) -> bool:
        """Whether it fits something on the images kept aside before it begins."""
        return objectives.fitted_on_tune(self.function)

    @property
    def all_settings(self) -> dict[str, Any]:
        """Every setting by its path, `lr` and those of slow weights too."""
        content = self.model_dump(mode="json", exclude={self.NAME, "code"})
        return dict(search.flat(content))

    @property
    def teachers(self) -> int | None:
        """How many teachers it learns from at once: none, one, or (None) any number."""
        if "teachers" in self.needs or "teachers_features" in self.needs:
            return None
        return int(self.asks_teachers or self.trains_teacher)

    @property
    def asks_teachers(self) -> bool:
        """Whether it reads what a teacher says as it is, frozen."""
        read = {"teacher", "teachers", "teacher_features", "teachers_features", "teacher_maps"}
        return bool((read | {"teacher_augmented"}) & set(self.needs))

    @property
    def reads_labels(self) -> bool:
        """Whether it is given the labels of the transfer set, or of images kept aside."""
        return self.reads_transfer_labels or "tune_labels" in objectives.made_with(self.function)

    @property
    def reads_transfer_labels(self) -> bool:
        """Whether it is given the labels of the transfer set."""
        return bool({"labels", "sample_labels"} & {*self.needs, *objectives.made_with(self.function)})

    @property
    def trains_teacher(self) -> bool:
        """Whether a copy of the teacher learns beside the student."""
        return "learning_teacher" in self.needs


# --- models -------------------------------------------------------------------------------------


class Hub(Strict):
    """Weights that timm has: from its hub, or as its cache holds them.

    Of a repository of someone's own (`timm: hf-hub:user/model`) `repository` names it with the commit, and
    `sha256` what its file of weights holds; both are found out when a study is run.
    """

    source: Literal["hub"] = "hub"
    repository: str | None = Field(default=None, exclude_if=_unset)
    sha256: str | None = Field(default=None, exclude_if=_unset)


def _names_a_file(path: str) -> str:
    storage.at(path)
    return path


class File(Strict):
    """Weights of a file: safetensors, or a torch file of tensors alone. Its content, not its path, counts."""

    source: Literal["file"] = "file"
    path: Annotated[str, AfterValidator(_names_a_file)]
    sha256: str | None = None


class Random(Strict):
    """Initial weights, which know nothing. A student that begins with them is drawn anew for each seed of a
    study: by this seed plus the trial's.
    """

    source: Literal["seed"] = "seed"
    seed: Seed


class Trained(Strict):
    """Weights trained on the study's images, phase after phase.

    Training begins at the weights of `start` (of a model of the zoo, by name, or from any source), else at
    initial ones. It takes `images` of the zoo split (all, without), or of the transfer set where the zoo
    split is empty; `seed` draws them, the initial weights, the order and the views. With `data` these are
    other images than the study's: of another domain, or of other classes (say kwargs.num_classes then).
    `label_smoothing` is that of all phases (`objectives.xe`).
    """

    source: Literal["trained"] = "trained"
    start: AnyWeights | None = Field(default=None, exclude_if=_unset)
    data: Data | None = Field(default=None, exclude_if=_unset)
    images: int | None = Field(default=None, gt=0)
    phases: tuple[Phase, ...] = Field(min_length=1)
    label_smoothing: Smoothing = 0
    seed: Seed = 0


Combine = Literal["sequential", "parallel", "soup", "greedy_soup"]
SOUPS = ("soup", "greedy_soup")


class Transfer(Strict):
    """Everything that makes a student: from whom it learns, how, on what budget, and by which seed.

    Several teachers teach one after the other (`sequential`: each new stage's student is the one frozen), all
    at once (`parallel`: by a method that takes several), or each its own student, whose weights are averaged
    (`soup`; arXiv 2310.17653, section 4.3), or those of them whose average is best on `tune` (`greedy_soup`;
    arXiv 2203.05482). A sequence is taught in `order`: as listed, or by top-1 accuracy.
    """

    student: Model
    teachers: tuple[Model, ...] = ()
    combine: Combine | None = Field(default=None, exclude_if=_unset)
    order: Literal["listed", "ascending", "descending"] = "listed"
    method: Method
    budget: Budget
    seed: Seed = 0

    @model_validator(mode="after")
    def _teachers_fit(self):
        if self.method.epochs_factor != 1:
            raise ValueError(
                "method.epochs_factor: multiplies the epochs of a study; give this budget its own epochs"
            )
        self.method.check_views(self.budget)
        if (len(self.teachers) > 1) != (self.combine is not None):
            raise ValueError("combine: of several teachers, and only of several, says how they teach")
        wanted = self.method.teachers
        if wanted == 0 and self.teachers:
            raise ValueError(f"teachers: the method '{self.method.method}' has none; remove them")
        if wanted != 0 and not self.teachers:
            raise ValueError(f"teachers: the method '{self.method.method}' needs one; name it")
        if wanted == 1 and self.combine == "parallel":
            raise ValueError(
                f"combine: the method '{self.method.method}' learns from one teacher at a time; choose "
                "'sequential' or 'soup', or a method that takes several (such as kl_dp)"
            )
        return self

    def only(self, *teachers: Model) -> Transfer:
        """The same transfer from some of its teachers, in this order."""
        kept = {name: getattr(self, name) for name in Transfer.model_fields}
        combine = self.combine if len(teachers) > 1 else None
        return Transfer(**{**kept, "teachers": teachers, "combine": combine, "order": "listed"})

    @property
    def result(self) -> Model:
        """The student that comes of it, as a model."""
        kept = {name: getattr(self, name) for name in Transfer.model_fields}
        return self.student.model_copy(update={"weights": Transferred(**kept)})


class Transferred(Transfer):
    """Weights of a transfer's student."""

    source: Literal["transferred"] = "transferred"


class Averaged(Strict):
    """The mean of several models' weights, a soup (Wortsman et al., arXiv 2203.05482)."""

    source: Literal["averaged"] = "averaged"
    models: tuple[Model, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _of_one_architecture(self):
        """Those of folders that timm loads are known, and checked, once these have been read."""
        known = [model for model in self.models if not model.timm.startswith("local-dir:")]
        built = [(model.timm.partition(".")[0], model.kwargs | {"num_classes": None}) for model in known]
        for model, architecture in zip(known, built, strict=True):
            if architecture != built[0]:
                raise ValueError(
                    f"models: '{known[0].name}' ({known[0].timm}) and '{model.name}' ({model.timm}) are not "
                    "of one architecture; a soup is an average of students of the same model"
                )
        return self


class Grafted(Strict):
    """The backbone of one model with the head of another of its architecture: what a model has learnt to see
    elsewhere, asked about the classes of the other (arXiv 2310.17653, appendix B.5).
    """

    source: Literal["grafted"] = "grafted"
    backbone: Model
    head: Model

    @model_validator(mode="after")
    def _of_one_architecture(self):
        first, second = (
            (model.timm.partition(".")[0], model.kwargs | {"num_classes": None})
            for model in (self.backbone, self.head)
        )
        if first != second:
            raise ValueError(
                f"head: '{self.backbone.name}' and '{self.head.name}' are not of one architecture; take the "
                "head of a model like the backbone's"
            )
        return self


AnyWeights = Annotated[
    Hub | File | Random | Trained | Transferred | Averaged | Grafted, Field(discriminator="source")
]
MADE = (Trained, Transferred, Averaged, Grafted)  # by us, and kept in the zoo folder


def _three_sides(size: Any) -> Any:
    if not isinstance(size, list | tuple) or len(size) != 3 or size[0] != 3:
        raise ValueError(f"should be [3, height, width] (it says {size})")
    return size


def _of_pixels_up_to_one(values: Any) -> Any:
    if isinstance(values, list | tuple) and any(isinstance(v, int | float) and v > 1 for v in values):
        raise ValueError(f"is of pixels in [0, 1], as timm has it (it says {values}); divide by 255")
    return values


class DataConfig(Strict):
    """How a model sees an image, where timm's data configuration is not to say it.

    `size: test` takes the size and the crop that timm tests a model with, which for some are not those it was
    trained with. `mean` and `std` are of pixels in [0, 1], a number a channel.
    """

    size: Literal["train", "test"] = "train"
    input_size: Annotated[tuple[int, Side, Side], BeforeValidator(_three_sides)] | None = None
    crop_pct: float | None = Field(default=None, gt=0, le=1, strict=True)
    crop_mode: Literal["center", "squash"] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    mean: Annotated[tuple[Share, Share, Share], BeforeValidator(_of_pixels_up_to_one)] | None = None
    std: Annotated[tuple[Above0, Above0, Above0], BeforeValidator(_of_pixels_up_to_one)] | None = None


def _data_config(config: dict[str, Any]) -> dict[str, Any]:
    """Checked, and left as it was written: it is part of ids."""
    try:
        DataConfig.model_validate(config)
    except ValidationError as error:
        path, text = mistakes.path_and_text(error, DataConfig)
        raise PydanticCustomError("setting", "{text}", {"path": path, "text": text}) from None
    return config


def _takes_pictures(kwargs: dict[str, Any]) -> dict[str, Any]:
    if kwargs.get("in_chans", 3) != 3:
        raise ValueError(f"in_chans: images have 3 channels (it says {kwargs['in_chans']}); leave it out")
    return kwargs


class Model(Strict):
    """A model of the zoo: a timm architecture, and where its weights come from (timm's hub, without
    `weights`).

    `config` overrides timm's data configuration (`DataConfig`), `kwargs` are handed to timm.
    """

    timm: str
    family: Literal["cnn", "transformer", "mlp"]
    kwargs: Annotated[dict[str, Any], AfterValidator(_takes_pictures)] = Field(default={})
    config: Annotated[dict[str, Any], AfterValidator(_data_config)] = Field(default={})
    weights: AnyWeights = Hub()
    name: str = ""

    @property
    def source(self) -> str:
        """Where the weights come from."""
        return self.weights.source

    @property
    def made(self) -> bool:
        """Whether the weights are made by us."""
        return isinstance(self.weights, MADE)

    @property
    def label_smoothing(self) -> float | None:
        """The label smoothing that the weights were last trained with; None where it is unknown."""
        return self.weights.label_smoothing if isinstance(self.weights, Trained) else None

    @property
    def twin(self) -> str | None:
        """A hash of what the weights are trained by, names and smoothing left out: models that differ in
        smoothing alone have the same; None of weights that are not trained by us.
        """
        if not isinstance(self.weights, Trained):
            return None
        content = self.model_dump(mode="json")
        return digest.of_json(without(content, "name", "family", "label_smoothing"))


for _kind in (Transfer, *MADE):  # whose fields name what stands below them
    _kind.model_rebuild()


def without(content: Any, *keys: str) -> Any:
    """JSON without some keys, and without the paths of files, whose content counts."""
    if isinstance(content, dict):
        dropped = (*keys, "path") if content.get("source") == "file" else keys
        return {key: without(value, *keys) for key, value in content.items() if key not in dropped}
    return [without(value, *keys) for value in content] if isinstance(content, list) else content


class Grid(Strict):
    """Every student with every teacher, but not with itself, unless `itself` says so (as in the paper's 400
    pairs, one of which is a model with itself).
    """

    students: list[str] = Field(min_length=1)
    teachers: list[str] = Field(min_length=1)
    itself: bool = False


def _kind_of_pairs(value: Any) -> str:
    if isinstance(value, str):
        return "all"
    return "grid" if isinstance(value, dict | Grid) else "list"


Pairs = Annotated[
    Annotated[Literal["all"], Tag("all")]
    | Annotated[Grid, Tag("grid")]
    | Annotated[list[tuple[str, str]], Tag("list"), Field(min_length=1)],
    Discriminator(_kind_of_pairs),
]


class Several(Strict):
    """Transfers from several teachers: each of the `students` (those of `pairs`, without) from all of them,
    in every way of `combine`, sequences in every `order`, by each of the `methods` (all that have teachers).
    """

    teachers: list[str] = Field(min_length=2)
    students: list[str] | None = None
    combine: list[Combine] = Field(min_length=1)
    order: list[Literal["listed", "ascending", "descending"]] = Field(default=["listed"], min_length=1)
    methods: list[str] | None = None


class Search(Strict):
    """How lists among the settings of methods are searched (`study.search`).

    `sample` combinations of each method are drawn (all, without), and `pairs` of the study's pairs (all,
    without), by `seed`. Methods without a list are run as they are: a control, say.
    """

    sample: int | None = Field(default=None, ge=1)
    pairs: int | None = Field(default=None, ge=1)
    seed: Seed = 0


class Resources(Strict):
    """What one trial needs, and how it is run; none of it changes what comes out, up to rounding.

    `cpus` and `gpus` (a share of one, if need be) are for each of its `workers`, which train
    data-parallel on equal parts of every batch. `seconds` is what a trial took where it was measured,
    for estimates alone. What a longer trial has learnt is kept after each epoch that ends more than
    `checkpoint_seconds` after what was kept last.

    Between its trials a process keeps models, decoded images and frozen models' outputs where they are
    used, `keep_gib` GiB of them at most; without it a share of the device's memory
    (`study.workspace.keep_bytes`). `compile` trains through torch.compile, which takes some seconds for each
    architecture before it pays (docs/performance.md).
    """

    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0, ge=0, le=1)
    workers: int = Field(default=1, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    checkpoint_seconds: float = Field(default=60, ge=0)
    keep_gib: float | None = Field(default=None, ge=0)
    compile: bool = False


class FrozenOutputs(Strict):
    """What becomes of frozen models' outputs.

    `transfer` says it of what students learn from: 'cached' computes it once and keeps it for all trials,
    'live' computes it anew in each step, 'auto' decides by reuse and disk (`study.frozen`). On the
    evaluation split every logit is kept, or the `top_k` largest and the mass of the rest. In a study,
    `outputs: cached` is short for `outputs: {transfer: cached}`.
    """

    transfer: Literal["auto", "cached", "live"] = "auto"
    top_k: int | None = Field(default=None, ge=1)


def _in_full(outputs: Any) -> Any:
    return {"transfer": outputs} if isinstance(outputs, str) else outputs


def _location(value: Any) -> storage.Location:
    if not isinstance(value, str | storage.Location):
        raise ValueError(f"should be a path or a URL (it says {value!r})")
    return storage.at(value)


Location = Annotated[storage.Location, PlainValidator(_location)]


class Folders(Strict):
    """Where things lie, by path or URL; `results` defaults to results/<name of the study>.

    What lies at a URL is copied to a node's `cache` before use, and so is all the rest if the study
    names one; the copies take `cache_gib` GiB at most.
    """

    data: Location = Path("data")
    zoo: Location = Path("zoo")
    outputs: Location = Path("outputs")
    results: Location | None = None
    cache: Path | None = None
    cache_gib: float = Field(default=250, gt=0)


# Of experiments, that show a sweep while it runs (docs/trackers.md).
Tracker = Literal["tensorboard", "mlflow", "wandb"]


def _rule(keep: Any) -> Any:
    return {True: "all", False: "never"}.get(keep, keep) if isinstance(keep, bool) else keep


Keep = Annotated[Literal["never", "better", "all"], BeforeValidator(_rule)]


class Watch(Strict):
    """How the student is on some images of a split while it learns, for curves; it changes no result.

    After each `every`-th epoch and the last one, on so many `samples`, drawn by class (all, without).
    """

    split: Literal[SPLITS] = "tune"
    samples: int | None = Field(default=None, ge=1)
    every: int = Field(default=1, ge=1)


def _three_classes(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < 3:
        raise ValueError(f"a plane is of three different classes (it says {', '.join(names)})")
    return names


class Geometry(Strict):
    """What is recorded of the activations before the last layer (`study.geometry`); it changes no result.

    Of the atlas's models and of students after transfer: where the classes lie, and of `samples` images of
    each class of the `planes`, which are of three classes by name, where they lie in these.
    """

    planes: tuple[Annotated[tuple[str, str, str], AfterValidator(_three_classes)], ...] = ()
    samples: int = Field(default=100, ge=1)


class Trial(Transfer):
    """One transfer of a study: everything that can change its result, and nothing else but labels.

    `name` is the study's label for the method. `keep` says when the student is kept as a folder that timm
    loads: never, if it is better than before (`transfer.is_better`), or in any case. Neither it, nor `watch`,
    nor `geometry` changes what comes out.
    """

    study: str
    data: Data
    name: str
    keep: Keep = Field(default="never", exclude=True)
    watch: Watch | None = Field(default=None, exclude=True)
    geometry: Geometry | None = Field(default=None, exclude=True)

    @property
    def id(self) -> str:
        """Hash of the content, without what changes no record (the study's name, paths of files)."""
        content = without(self.model_dump(mode="json", exclude={"study"}))
        if not self.budget.transforms:  # then nothing is drawn by it
            del content["budget"]["view_seed"]
        return digest.of_json({"results_version": RESULTS_VERSION, **content})

    @property
    def teacher(self) -> str | None:
        """The one label of its teachers."""
        return " + ".join(model.name for model in self.teachers) or None

    @property
    def labels(self) -> dict[str, Any]:
        """What was asked for, by names of the study: columns that `plans` and `trials` share."""
        return {
            "student": self.student.name,
            "teacher": self.teacher,
            "teachers": [model.name for model in self.teachers],
            "combine": self.combine,
            "order": self.order if self.combine == "sequential" else None,
            "method": self.name,
            "seed": self.seed,
        }


def _drawn_anew(student: Model, seed: int) -> Model:
    """The student as trials of a seed begin with it."""
    if not isinstance(student.weights, Random):
        return student
    return student.model_copy(update={"weights": Random(seed=(student.weights.seed + seed) % 2**63)})


def _searched(content: dict[str, Any]) -> dict[str, Any]:
    """A study's methods with one for each combination, and its data to be scored on `tune`.

    Raises:
        PydanticCustomError: a combination is none that its method takes, told as of the entry.
    """
    try:
        wanted = Search.model_validate(content["search"])
    except ValidationError:
        return {}  # what is wrong with it is told where it stands
    found: dict[str, Any] = {}
    for key, method in content.get("methods", {}).items():
        if not isinstance(method, dict) or not search.is_searched(method):
            found[key] = method
            continue
        for chosen in search.combinations(method, wanted.sample, wanted.seed):
            try:
                Method.model_validate(chosen)
            except ValidationError as error:
                path, text = mistakes.path_and_text(error, Method)
                place = {"path": f"methods.{key}.{path}", "text": text}
                raise PydanticCustomError("setting", "{text}", place) from None
            found[search.name(key, method, chosen)] = {**chosen, "search": key}
    data = content.get("data")
    return {"methods": found} | ({"data": {"evaluate": "tune", **data}} if isinstance(data, dict) else {})


def _with_models(zoo: dict[str, Any], budget: Any) -> dict[str, Any]:
    """A zoo's entries with models in place of the names that their weights are made from.

    What is not said of a made model (architecture, preprocessing) is as with the model it is made from.

    Raises:
        ValueError: a name is not in the zoo, or a model needs itself.
    """

    def entry(name: Any, path: tuple[str, ...]) -> Any:
        if name in path:
            loop = " → ".join([*path[path.index(name) :], name])
            raise ValueError(f"zoo.{path[-1]}.weights: it is made from itself ({loop}); break the circle")
        if path and name not in zoo:
            raise ValueError(
                f"zoo.{path[-1]}.weights: '{name}' is not in the zoo{mistakes.nearest(str(name), zoo)}"
            )
        model = zoo[name]
        if not isinstance(model, dict):
            return {} if path else model  # what is wrong with it is told where it stands
        weights = model.get("weights")
        if not isinstance(weights, dict):
            return model
        made = dict(weights)
        path = (*path, name)
        origin = None
        if isinstance(made.get("start"), str):
            origin = entry(made["start"], path)
            made["start"] = origin.get("weights", {"source": "hub"})
        if isinstance(made.get("student"), str):
            made["student"] = origin = entry(made["student"], path)
            made.setdefault("budget", budget)
        for field in ("backbone", "head"):  # the head says what there is to tell apart
            if isinstance(made.get(field), str):
                made[field] = origin = entry(made[field], path)
        for field in ("teachers", "models"):
            if isinstance(made.get(field), list):
                made[field] = [entry(one, path) if isinstance(one, str) else one for one in made[field]]
        if isinstance(made.get("models"), list) and made["models"]:
            origin = made["models"][0]
        if not isinstance(origin, dict):
            origin = {}
        inherited = {key: value for key, value in origin.items() if key not in ("weights", "name")}
        return {**inherited, **model, "weights": made}

    return {name: entry(name, ()) for name in zoo}


class Study(Strict):
    """A whole study, as its YAML file says it.

    With `search`, lists among the settings of methods are tried, and trials are scored on `tune`.
    `keep: true` is short for `all`; students that others are made from are kept in any case. `pictures:
    false` keeps images out of the results (`jobs/gallery.py`), where they are not for everybody's eyes."""

    name: Name
    data: Data
    zoo: dict[Name, Model] = Field(min_length=1)
    pairs: Pairs
    several: list[Several] = Field(default=[])
    methods: dict[Name, Method] = Field(min_length=1)
    search: Search | None = None
    budget: Budget
    seeds: list[Seed] = Field(default=[0], min_length=1)
    keep: Keep = "never"
    watch: Watch | None = Field(default=None, exclude_if=_unset)
    geometry: Geometry | None = Field(default=None, exclude_if=_unset)
    pictures: bool = True
    resources: Resources = Resources()
    outputs: Annotated[FrozenOutputs, BeforeValidator(_in_full)] = FrozenOutputs()
    trackers: list[Tracker] = Field(default=[])
    folders: Folders = Folders()

    @model_validator(mode="before")
    @classmethod
    def _names_from_keys(cls, content: Any) -> Any:
        """A model is called by its key; a method is, unless it says otherwise, what its key says."""
        if not isinstance(content, dict):
            return content

        def named(section: str, field: str) -> dict:
            entries = content.get(section)
            if not isinstance(entries, dict):
                return {}
            return {
                section: {
                    key: {field: key, **(entry or {})} if isinstance(entry, dict | None) else entry
                    for key, entry in entries.items()
                }
            }

        content = content | named("zoo", "name") | named("methods", "method")
        if isinstance(content.get("search"), dict):
            content = content | _searched(content)
        if isinstance(content.get("zoo"), dict):
            content["zoo"] = _with_models(content["zoo"], content.get("budget"))
        return content

    @model_validator(mode="after")
    def _models_are_named_by_their_keys(self):
        for key, model in self.zoo.items():
            if model.name != key:
                raise ValueError(f"zoo.{key}.name: a model is named by its key; remove 'name'")
        return self

    @model_validator(mode="after")
    def _pairs_name_models_of_the_zoo(self):
        for student, teacher in self._all_pairs():
            self._check_names("pairs", [student, teacher])
        if not self._all_pairs():
            raise ValueError("pairs: no model is paired with another one")
        for student, teacher in self.pairs if isinstance(self.pairs, list) else ():
            if student == teacher:
                raise ValueError(f"pairs: '{student}' is paired with itself; name another teacher")
        if self.search and self.several:
            raise ValueError("several: a search is over pairs; leave out several teachers")
        if self.search and self.data.evaluate != "tune":
            raise ValueError("data.evaluate: a search is scored on 'tune'; leave it out")
        if self.search and self.search.pairs and self.search.pairs > len(self._all_pairs()):
            raise ValueError(f"search.pairs: there are {len(self._all_pairs())} pairs; ask for fewer")
        for number, several in enumerate(self.several):
            self._check_names(f"several.{number}.teachers", several.teachers)
            self._check_names(f"several.{number}.students", several.students or [])
            for name in several.methods or []:
                if name not in self.methods:
                    near = mistakes.nearest(name, self.methods)
                    raise ValueError(f"several.{number}.methods: there is no method '{name}'{near}")
                wanted = self.methods[name].teachers
                if wanted == 0 or (wanted == 1 and "parallel" in several.combine):
                    raise ValueError(
                        f"several.{number}.methods: '{name}' does not learn from several teachers"
                        + (" at once; leave out 'parallel', or it" if wanted else "; leave it out")
                    )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_watch(self):
        there = getattr(self.data.splits, self.watch.split, 1) if self.watch else 1
        if self.watch and 1 < there < (self.watch.samples or 0):
            raise ValueError(
                f"watch.samples: asks for {self.watch.samples} images of {there:g} in '{self.watch.split}'; "
                "ask for fewer"
            )
        if there == 0:
            raise ValueError(
                f"watch.split: there are no images in '{self.watch.split}'; say how many in "
                f"data.splits.{self.watch.split}, or watch another split"
            )
        return self

    @model_validator(mode="after")
    def _maps_are_not_kept(self):
        for name, method in self.methods.items():
            if self.outputs.transfer == "cached" and "teacher_maps" in method.needs:
                raise ValueError(
                    f"outputs.transfer: 'cached', but 'methods.{name}' reads a teacher's maps, which are too "
                    "large to keep; say 'auto', which asks this method's teachers live"
                )
        return self

    @property
    def made_aside(self) -> list[str]:
        """What is fitted or chosen on images kept aside: where a study says so, and which of the two."""
        methods = self.methods.items()
        made = [f"methods.{name}: '{one.method}' is fitted" for name, one in methods if one.fitted_on_tune]
        made += [
            f"methods.{name}.interpolate: chosen" for name, one in methods if len(one.interpolate or ()) > 1
        ]
        made += [
            f"several.{number}.combine: chosen"
            for number, several in enumerate(self.several)
            if "greedy_soup" in several.combine
        ]
        return made

    @model_validator(mode="after")
    def _what_is_fitted_or_chosen_has_images_of_its_own(self):
        for what in self.made_aside:
            if not self.data.splits.tune:
                raise ValueError(NONE_KEPT_ASIDE.format(what))
            if self.data.evaluate == "tune" and not self.data.splits.fit:
                raise ValueError(
                    f"{what} on 'tune', where these trials are scored, which would flatter it; leave it out, "
                    "or give it images of its own (splits.fit)"
                )
        return self

    @model_validator(mode="after")
    def _second_inputs_are_to_be_had(self):
        for name, method in self.methods.items():
            try:
                method.check_views(self.budget)
            except ValueError as error:
                raise ValueError(f"methods.{name}.{error}") from None
            drawn = method.augmentation and method.augmentation.draw
            if drawn == "batch" and self.outputs.transfer == "cached":
                raise ValueError(
                    f"methods.{name}.augmentation.draw: what a teacher says of a batch's own draws is no "
                    "other trial's, and is not kept; set outputs to 'live' or 'auto', or draw by 'sample'"
                )
        return self

    def _check_names(self, path: str, names: list[str]) -> None:
        for name in names:
            if name not in self.zoo:
                raise ValueError(f"{path}: '{name}' is not in the zoo{mistakes.nearest(name, self.zoo)}")
        if path.endswith("teachers") and len(set(names)) < len(names):
            raise ValueError(f"{path}: a teacher is listed twice")

    @property
    def results(self) -> storage.Location:
        """The results folder."""
        return self.folders.results or Path("results") / self.name

    def absolute(self) -> Study:
        """The study with absolute paths, for workers that start in another folder."""
        places = {**dict(self.folders), "results": self.results}
        folders = self.folders.model_copy(
            update={n: place.resolve() for n, place in places.items() if isinstance(place, storage.Location)}
        )
        return self.model_copy(update={"folders": folders})

    def own_modules(self) -> list[str]:
        """The top-level modules of what the study names of one's own (objectives, sources, transforms)."""
        found: set[str] = set()

        def look(content: Any) -> None:
            if isinstance(content, dict):
                named = [content.get("method"), content.get("source"), *content]
                found.update(
                    name.partition(".")[0] for name in named if isinstance(name, str) and "." in name
                )
                content = list(content.values())
            for value in content if isinstance(content, list) else ():
                look(value)

        sections = self.model_dump(mode="json", include={"data", "budget"})
        methods = [method.model_dump() for method in self.methods.values()]
        look([sections, methods, *(model.weights.model_dump(mode="json") for model in self.zoo.values())])
        return sorted(found)

    def ordered_pairs(self) -> list[tuple[str, str]]:
        """(student, teacher) of every pair, none twice, in a fixed order; of a search those it draws."""
        pairs = self._all_pairs()
        if self.search is None or self.search.pairs is None:
            return pairs
        drawn = random.Random(self.search.seed).sample(range(len(pairs)), self.search.pairs)
        return [pairs[number] for number in sorted(drawn)]

    def _all_pairs(self) -> list[tuple[str, str]]:
        """Every pair, a model with itself only where a grid says so."""
        if self.pairs == "all":
            pairs = [(s, t) for s in self.zoo for t in self.zoo]
        elif isinstance(self.pairs, Grid):
            pairs = [(s, t) for s in self.pairs.students for t in self.pairs.teachers]
        else:
            pairs = self.pairs
        itself = isinstance(self.pairs, Grid) and self.pairs.itself
        return list(dict.fromkeys((s, t) for s, t in pairs if itself or s != t))

    def students(self) -> list[str]:
        """Every model that is a student of some trial."""
        named = [student for several in self.several for student in several.students or []]
        return list(dict.fromkeys([*(student for student, _ in self.ordered_pairs()), *named]))

    def trials(self) -> list[Trial]:
        """Every trial of the study, none twice; no file is touched.

        Methods without a teacher run once a student and seed. Students of initial weights are others for
        each seed: trials that differ in their seed alone would else not say what chance does.
        """
        trials = []
        for seed in dict.fromkeys(self.seeds):
            for name, method in self.methods.items():
                several = list(dict.fromkeys(self._several(name, method)))
                wanted = {
                    (s, t) for s, teachers, combine, _ in several if combine != "parallel" for t in teachers
                }
                alone = method.teachers == 0
                single = dict.fromkeys((s, () if alone else (t,)) for s, t in self.ordered_pairs())
                for student, teachers, combine, order in [
                    *((s, t, None, "listed") for s, t in single),
                    *several,
                ]:
                    trials.append(
                        Trial(
                            study=self.name,
                            data=self.data,
                            student=_drawn_anew(self.zoo[student], seed),
                            teachers=tuple(self.zoo[teacher] for teacher in teachers),
                            combine=combine,
                            order=order,
                            name=name,
                            method=method.model_copy(update={"epochs_factor": 1.0}),
                            budget=self._budget_of(method),
                            seed=seed,
                            keep="all" if (student, *teachers) in wanted else self.keep,
                            watch=self.watch,
                            geometry=self.geometry,
                        )
                    )
        return trials

    def _budget_of(self, method: Method) -> Budget:
        """The study's budget, of as many epochs as a method asks for."""
        epochs = max(1, round(method.epochs_factor * self.budget.epochs))
        return self.budget.model_copy(update={"epochs": epochs})

    def _several(self, name: str, method: Method):
        """(student, teachers, combine, order) of what a method learns from several teachers."""
        for several in self.several:
            if method.teachers == 0 or name not in (several.methods or self.methods):
                continue
            students = several.students or dict.fromkeys(student for student, _ in self.ordered_pairs())
            for student in students:
                teachers = tuple(teacher for teacher in several.teachers if teacher != student)
                for combine in several.combine if len(teachers) > 1 else ():
                    if combine == "parallel" and method.teachers == 1:
                        continue
                    for order in several.order if combine == "sequential" else ["listed"]:
                        yield student, teachers, combine, order


def load(path: str | Path, **overrides: Any) -> Study:
    """Read and check a study.

    Args:
        path: the YAML file; `based_on` in it names another one beside it, whose sections it takes over where
            it has none of its own.
        overrides: folders to use instead of the file's (fields of `Folders`); None leaves the file's.

    Raises:
        StudyError: the file cannot be read, is not YAML, or does not describe a study.
    """
    path = Path(path)
    content = _read(path, ())
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{path}: {mistakes.first(error, Study)}") from error
    folders = {key: value for key, value in overrides.items() if value is not None}
    try:
        changed = Folders(**(dict(study.folders) | folders))
    except ValidationError as error:
        raise StudyError(f"--{mistakes.first(error, Folders)}") from error
    return study.model_copy(update={"folders": changed})


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The sections of a study's file, and of those it is based on."""
    try:
        content = yaml.load(path.read_text(), mistakes.StrictLoader)
    except OSError as error:
        raise StudyError(f"{path}: the study cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise StudyError(f"{path}: not valid YAML{line} ({problem})") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path}: a study is a mapping with the keys {', '.join(Study.model_fields)}")
    # Keys that start with a dot hold YAML anchors, and nothing of the study.
    content = {key: value for key, value in content.items() if not str(key).startswith(".")}
    if (base := content.pop("based_on", None)) is None:
        return content
    if not isinstance(base, str) or path.resolve() in above:
        raise StudyError(f"{path}: based_on: name another study's file (it says {base!r})")
    return _read(path.parent / base, (*above, path.resolve())) | content
