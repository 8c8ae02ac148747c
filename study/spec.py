"""What a study is: the YAML file under `studies/`, validated, and the trials it expands to.

A `Study` names its data, its zoo of models, which pairs are tried with which methods, and the
budget of a trial. `load` reads and checks a file; every mistake in it is told in one sentence that
names the file and the field. `Study.trials()` expands it: a `Trial` holds everything that can
change its result, and its id is a hash of just that, so a study may be edited and run again: trials
that did not change keep their ids and their records.

Left out on purpose: where a study runs. Folders, resources and trackers are part of the file but not of
a trial's identity.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
    model_validator,
)

from study import mistakes
from study.errors import StudyError
from study.methods import AnyMethod
from study.store import storage
from study.views import View

# Part of every trial's id: raise it when a change of the code changes what a trial's result means.
RESULTS_VERSION = 2


def content_hash(content: Any) -> str:
    """16 hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Strict(BaseModel):
    """Immutable, and no key it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _whole_above_one(amount: float) -> float:
    if amount > 1 and amount != int(amount):
        raise ValueError(f"{amount} is neither a share up to 1 nor a whole number of images")
    return amount


Amount = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]


SPLITS = ("zoo", "tune", "transfer", "evaluation")


class Splits(Strict):
    """Class-stratified parts of the data; up to 1 a share of what it is drawn from, above 1 a count.

    `zoo` (what models of the zoo may be trained on) and then `tune` (where hyper-parameters are
    chosen) are drawn from the training images; `transfer` from `zoo`, or, where the zoo is trained
    elsewhere (`zoo: 0`), from the training images outside `tune`. `evaluation` is the test images,
    with `evaluate_rest` also the training images in no other split.
    """

    zoo: Amount = 0
    transfer: Amount = Field(gt=0)
    tune: Amount = 0
    evaluate_rest: bool = False
    seed: Seed = 0


class Source(Strict):
    """Settings every source of images shares.

    Images are written with their shorter side shrunk to `short_side` (None: as they are), raw below
    64 x 64 pixels and as JPEG of `jpeg_quality` above.
    """

    short_side: int | None = Field(default=None, ge=8)
    jpeg_quality: int = Field(default=95, ge=1, le=100)


class FashionMNIST(Source):
    """Fashion-MNIST: Debian's package dataset-fashion-mnist where installed, else a download."""

    source: Literal["fashion_mnist"] = "fashion_mnist"


class ImageFolder(Source):
    """Two folders with a sub-folder of images for every class."""

    source: Literal["image_folder"] = "image_folder"
    train: str
    test: str
    short_side: int | None = Field(default=384, ge=8)


class Torchvision(Source):
    """A classification data set of torchvision, by its class name (for example CIFAR10)."""

    source: Literal["torchvision"] = "torchvision"
    dataset: str
    short_side: int | None = Field(default=384, ge=8)


AnySource = Annotated[FashionMNIST | ImageFolder | Torchvision, Field(discriminator="source")]


class Data(Strict):
    """Images and how they are split."""

    images: AnySource
    splits: Splits


class Finish(Strict):
    """The end of a recipe: plain cross-entropy without augmentation, with a transfer's optimiser.

    Brings a model to its plateau for that optimiser and learning rate, so that fine-tuning alone
    gains nothing afterwards and what a transfer gains is transfer.
    """

    epochs: int = Field(ge=1)
    lr: float = Field(default=1e-2, gt=0)
    batch_size: int = Field(default=64, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-3, ge=0)


class Recipe(Strict):
    """How a model of the zoo is trained from scratch: AdamW, one cycle, cross-entropy."""

    images: int | None = Field(default=None, gt=0, description="images of the zoo split; None: all")
    epochs: int = Field(ge=1)
    lr: float = Field(gt=0, description="peak learning rate")
    batch_size: int = Field(default=128, ge=1)
    weight_decay: float = Field(default=0.02, ge=0)
    flip: bool = True
    shift: int = Field(default=2, ge=0, description="random shift in pixels, zeros drawn in")
    finish: Finish | None = None
    seed: Seed = 0


class Model(Strict):
    """A model of the zoo: a timm architecture, and where its weights come from.

    Weights come from a training `recipe`, from a `checkpoint` file (safetensors, or a torch file of
    tensors alone), from nowhere (`untrained` is the seed of random initial weights: a model that knows
    nothing), or else from timm's hub. `config` overrides timm's data configuration (input size, crop,
    interpolation, mean, std).
    """

    timm: str
    family: Literal["cnn", "transformer", "mlp"]
    kwargs: dict[str, Any] = {}
    config: dict[str, Any] = {}
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    recipe: Recipe | None = None
    # Left out where it is not set, so that models without it keep the ids they had before it existed.
    untrained: Seed | None = Field(default=None, exclude_if=lambda seed: seed is None)
    name: str = ""

    @model_validator(mode="after")
    def _one_source_of_weights(self):
        sources = ("checkpoint", "recipe", "untrained")
        names = [f"'{name}'" for name in sources if getattr(self, name) is not None]
        if len(names) > 1:
            raise ValueError(f"give {' or '.join(names)}, not both")
        if self.checkpoint_sha256 is not None and self.checkpoint is None:
            raise ValueError("'checkpoint_sha256' needs a 'checkpoint'")
        return self

    @property
    def source(self) -> Literal["hub", "checkpoint", "recipe", "untrained"]:
        """Where the weights come from."""
        for name in ("untrained", "recipe", "checkpoint"):
            if getattr(self, name) is not None:
                return name
        return "hub"

    @property
    def pretrained(self) -> bool:
        """Whether the weights come from timm's hub."""
        return self.source == "hub"

    def pinned(self) -> Model:
        """The model with its checkpoint's SHA-256: the content, not the path, is what results depend on.

        Raises:
            StudyError: the checkpoint file is missing, or is not the one the study names.
        """
        if self.checkpoint is None:
            return self
        path = storage.at(self.checkpoint)
        try:
            found = storage.sha256(path)
        except OSError as error:
            raise StudyError(
                f"{path}: the checkpoint of model '{self.name}' is not there; correct its path"
            ) from error
        if self.checkpoint_sha256 not in (None, found):
            raise StudyError(
                f"{path}: the checkpoint of model '{self.name}' has SHA-256 {found}, not the one in "
                "checkpoint_sha256; restore the file or correct the study"
            )
        return self.model_copy(update={"checkpoint_sha256": found})


class Grid(Strict):
    """Every student with every teacher (but not with itself)."""

    students: list[str] = Field(min_length=1)
    teachers: list[str] = Field(min_length=1)


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


class ResizedCrop(Strict):
    """Random resized crops: `scale` is the least and largest share of the area kept, `ratio` the least and
    largest ratio of width to height.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _in_order(self):
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError("scale: give the least and the largest share of the area, between 0 and 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio: give the least and the largest ratio, both above 0")
        return self


def _unset(value: Any) -> bool:
    """Fields left out where they are not set: trials without them keep the ids they had before."""
    return value is None


class Budget(Strict):
    """What one transfer may spend, and on which views: SGD over the transfer set.

    With `flip` or `resized_crop` every epoch has a view of its own, drawn by `view_seed` and not by the
    trial's seed: trials of all seeds see the same views, so what frozen models say of them is computed
    once. `precision` is what models compute in; without it bfloat16 on CUDA, float32 elsewhere.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-3, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    flip: bool = Field(default=False, description="mirror samples at random")
    resized_crop: ResizedCrop | None = Field(default=None, exclude_if=_unset)
    view_seed: Seed = 0
    precision: Literal["float32", "bfloat16"] | None = Field(default=None, exclude_if=_unset)

    @property
    def augmented(self) -> bool:
        """Whether epochs differ in what they show."""
        return self.flip or self.resized_crop is not None

    @property
    def views(self) -> list[View | None]:
        """The different views there are, one an epoch; [None] if all epochs show samples as they are."""
        return [self.view(epoch) for epoch in range(self.epochs)] if self.augmented else [None]

    def view(self, epoch: int) -> View | None:
        """What an epoch shows; None: samples as they are."""
        if not self.augmented:
            return None
        view = View(self.view_seed, epoch, flip=self.flip)
        return view._replace(**dict(self.resized_crop)) if self.resized_crop else view


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


class Outputs(Strict):
    """What becomes of frozen models' outputs.

    `transfer` says it of what students learn from: 'cached' computes it once and keeps it for all trials,
    'live' computes it anew in each step, 'auto' decides by reuse and disk (`study.reuse`). On the
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


class Trial(Strict):
    """One transfer: everything that can change its result, and nothing else but labels.

    `teacher` is None for methods that need none.
    """

    study: str
    data: Data
    student: Model
    teacher: Model | None
    name: str
    method: AnyMethod
    budget: Budget
    seed: Seed

    @property
    def id(self) -> str:
        """Hash of the content, without what changes no record (the study's name, paths of checkpoints)."""
        unhashed: dict[str, Any] = {"study": True, "student": {"checkpoint"}, "teacher": {"checkpoint"}}
        if not self.budget.augmented:  # then nothing is drawn by it
            unhashed["budget"] = {"view_seed"}
        content = self.model_dump(mode="json", exclude=unhashed)
        return content_hash({"results_version": RESULTS_VERSION, **content})


class Study(Strict):
    """A whole study, as its YAML file says it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    data: Data
    zoo: dict[str, Model] = Field(min_length=1)
    pairs: Pairs
    methods: dict[str, AnyMethod] = Field(min_length=1)
    budget: Budget
    seeds: list[Seed] = Field(default=[0], min_length=1)
    resources: Resources = Resources()
    outputs: Annotated[Outputs, BeforeValidator(_in_full)] = Outputs()
    trackers: list[Tracker] = []
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

        return content | named("zoo", "name") | named("methods", "method")

    @model_validator(mode="after")
    def _models_are_named_and_can_be_trained(self):
        for key, model in self.zoo.items():
            if model.name != key:
                raise ValueError(f"zoo.{key}.name: a model is named by its key; remove 'name'")
            if model.recipe and not self.data.splits.zoo:
                raise ValueError(f"zoo.{key}.recipe: has no images to train on; set data.splits.zoo")
        return self

    @model_validator(mode="after")
    def _pairs_name_models_of_the_zoo(self):
        for student, teacher in self.ordered_pairs():
            for name in (student, teacher):
                if name not in self.zoo:
                    raise ValueError(f"pairs: '{name}' is not in the zoo{mistakes.nearest(name, self.zoo)}")
        if not self.ordered_pairs():
            raise ValueError("pairs: no model is paired with another one")
        return self

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
        zoo = {
            name: model.model_copy(update={"checkpoint": str(Path(model.checkpoint).resolve())})
            if model.checkpoint and "://" not in model.checkpoint
            else model
            for name, model in self.zoo.items()
        }
        return self.model_copy(update={"folders": folders, "zoo": zoo})

    def ordered_pairs(self) -> list[tuple[str, str]]:
        """(student, teacher) of every pair, no model with itself, none twice, in a fixed order."""
        if self.pairs == "all":
            pairs = [(s, t) for s in self.zoo for t in self.zoo]
        elif isinstance(self.pairs, Grid):
            pairs = [(s, t) for s in self.pairs.students for t in self.pairs.teachers]
        else:
            pairs = self.pairs
        return list(dict.fromkeys((s, t) for s, t in pairs if s != t))

    def trials(self) -> list[Trial]:
        """Every trial of the study, none twice.

        Methods without a teacher run once a student and seed.

        Raises:
            StudyError: a checkpoint file is missing, or is not the one the study names.
        """
        models = {name: model.pinned() for name, model in self.zoo.items()}
        pairs = self.ordered_pairs()
        trials = []
        for seed in dict.fromkeys(self.seeds):
            for name, method in self.methods.items():
                alone = "teacher" not in method.needs
                combinations = dict.fromkeys((s, None if alone else t) for s, t in pairs)
                trials += [
                    Trial(
                        study=self.name,
                        data=self.data,
                        student=models[student],
                        teacher=teacher and models[teacher],
                        name=name,
                        method=method,
                        budget=self.budget,
                        seed=seed,
                    )
                    for student, teacher in combinations
                ]
        return trials


def load(path: str | Path, **overrides: Any) -> Study:
    """Read and check a study.

    Args:
        path: the YAML file.
        overrides: folders to use instead of the file's (fields of `Folders`); None leaves the file's.

    Raises:
        StudyError: the file cannot be read, is not YAML, or does not describe a study.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(), mistakes.StrictLoader)
    except OSError as error:
        raise StudyError(f"{path}: the study cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise StudyError(f"{path}: not valid YAML{line} ({problem})") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path}: a study is a mapping with the keys {', '.join(Study.model_fields)}")
    # Keys that start with a dot hold YAML anchors, and nothing of the study.
    content = {key: value for key, value in content.items() if not str(key).startswith(".")}
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
