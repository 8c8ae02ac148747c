"""The zoo: timm models that look at the loader's pixels the way they were trained to.

`build` makes a model as the study describes it; `study.models.weights` gives it its weights. Every model
comes wrapped in a `Classifier`, which resizes and normalises uint8 batches on the device by timm's data
configuration.

Left out on purpose: models that look beyond the image's edge (timm's crop mode 'border', crop_pct
above 1), nine of timm's 1,826, which are refused.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import study.models.binary
import study.models.cifar
import study.models.tiny  # noqa: F401 - all register small models with timm
from study import mistakes, spec
from study.errors import StudyError
from study.images.batches import Crop
from study.models.timm_import import timm
from study.store import storage

T = TypeVar("T")


class Classifier(nn.Module):
    """A network with its preprocessing: uint8 [batch, 3, side, side] in, logits [batch, classes] out.

    The pixels are the crop; they are resized to the network's input size, if they have another one
    (antialiased, as PIL does), and normalised with its mean and std.

    Args:
        network: a timm model.
        config: its data configuration (`timm.data.resolve_model_data_config`).

    Attributes:
        crop: which part of an image the network was trained to look at; for views that other models share.
        input: the same as timm makes an input of it; for its evaluation.
        preprocessing: what is done with the crop's pixels, as JSON could hold it.
        model: which model of the zoo it is (`build`).
        weights: SHA-256 of the weights it was loaded with (`weights.load`; None before).
        chosen: int64 [classes], which of the network's logits are given, in this order; None: all of them.
    """

    def __init__(self, network: nn.Module, config: dict) -> None:
        super().__init__()
        self.network = network
        for tensor in itertools.chain(network.parameters(), network.buffers()):
            if tensor.dim() == 4:  # Module.to does the same, but refuses networks with others (LambdaNet)
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        for module in filter(_corrupts_memory, network.modules()):
            module.to(memory_format=torch.contiguous_format)
            module.register_forward_pre_hook(_contiguous)
        self.size = tuple(config["input_size"][1:])
        self.interpolation = config["interpolation"]
        self.crop = Crop(float(config["crop_pct"]), config["crop_mode"])
        self.input = self.crop._replace(size=self.size, interpolation=self.interpolation)
        self.preprocessing = {
            name: list(config[name]) if isinstance(config[name], tuple | list) else config[name]
            for name in ("input_size", "interpolation", "mean", "std")
        }
        self.model: spec.Model | None = None
        self.weights: str | None = None
        self.register_buffer("chosen", None, persistent=False)
        for name in ("mean", "std"):
            values = 255 * torch.tensor(config[name], dtype=torch.float32)
            self.register_buffer(name, values[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self._told_apart(self.network(self._normalised(pixels)))

    def _normalised(self, pixels: Tensor) -> Tensor:
        x = pixels.float()
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode=self.interpolation, antialias=True).clamp_(0, 255)
        return (x - self.mean) / self.std

    def _told_apart(self, logits: Tensor) -> Tensor:
        return logits if self.chosen is None else logits.index_select(1, self.chosen)

    def choose(self, chosen: Sequence[int] | None) -> Classifier:
        """Tell only some classes apart, in this order (`labels.chosen`), if the network has them; itself."""
        if chosen and told_apart(self.model, chosen) != classes_of(self.model):
            self.chosen = torch.tensor(chosen, device=self.mean.device)
        return self

    @contextlib.contextmanager
    def only(self, places: Sequence[int] | None) -> Iterator[None]:
        """Meanwhile, give the logits at these places alone, in this order; None: as they are."""
        before = self.chosen
        if places is not None:
            wanted = torch.tensor(places, device=self.mean.device)
            self.chosen = wanted if before is None else before[wanted]
        try:
            yield
        finally:
            self.chosen = before

    @property
    def head(self) -> nn.Module:
        """The last layer, from features to logits (the first, where a distilled model has two)."""
        head = self.network.get_classifier()
        return head[0] if isinstance(head, tuple | list | nn.ModuleList) else head

    @property
    def heads(self) -> list[nn.Module]:
        """All last layers."""
        head = self.network.get_classifier()
        return list(head) if isinstance(head, tuple | list | nn.ModuleList) else [head]

    @property
    def dim(self) -> int:
        """How many features there are before the head."""
        sizes = (getattr(self.head, name, None) for name in ("in_features", "in_channels"))
        return next((size for size in sizes if size), self.network.num_features)

    def with_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, classes] and, from the same pass, what the head was given: features [batch, dim]."""
        return self._with_features(self, pixels)

    def _with_features(self, run: Callable[[Tensor], T], pixels: Tensor) -> tuple[T, Tensor]:
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda head, given: seen.append(given[0]))
        try:
            found = run(pixels)
        finally:
            hook.remove()
        return found, seen[0].flatten(1)

    def check_maps(self) -> None:
        """
        Raises:
            StudyError: timm does not give maps of this model's stages.
        """
        if not hasattr(self.network, "forward_intermediates"):
            raise StudyError(
                f"zoo.{self.model.name}: timm gives no maps of '{self.model.timm}', which the method reads; "
                "choose another model, or a method of pooled features"
            )

    def with_maps(self, pixels: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Logits, features, and, from the same pass, maps of each stage [batch, channels, height, width].

        Raises:
            StudyError: timm does not give this model's.
        """
        self.check_maps()

        def run(pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
            last, maps = self.network.forward_intermediates(self._normalised(pixels))
            return self._told_apart(self.network.forward_head(last)), maps

        (logits, maps), features = self._with_features(run, pixels)
        return logits, features, tuple(maps)

    @property
    def channels(self) -> tuple[int, ...]:
        """How many channels the maps of each stage have: seen on a black image."""
        training, device = self.training, self.mean.device
        try:
            with torch.no_grad():
                *_, maps = self.eval().with_maps(torch.zeros(1, 3, *self.size, device=device))
        finally:
            self.train(training)
        return tuple(one.shape[1] for one in maps)


def _corrupts_memory(module: nn.Module) -> bool:
    """Whether torch writes beyond its memory in this layer's backward pass, on CPUs and channels-last.

    Such are strided 1 x 1 convolutions of few channels (measured: 3 to 8 do, 16 do not): stems of networks
    that are re-parametrised (RepVGG, MobileOne). github.com/pytorch/pytorch/issues/136348
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < 16
    )


def _contiguous(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    return (given[0].contiguous(),)


def check_names(study: spec.Study) -> None:
    """Refuse models timm does not know, or has no weights for, before anything is loaded.

    Raises:
        StudyError: names the model and the nearest name timm knows.
    """
    listed = {True: timm.list_pretrained(), False: timm.list_models()}
    # A name without a tag means timm's default weights of that architecture.
    pretrained = {*listed[True], *map(architecture, listed[True])}
    known = {True: pretrained, False: pretrained | set(listed[False])}
    for name, model in study.zoo.items():
        start = model.weights.start if isinstance(model.weights, spec.Trained) else model.weights
        hub = isinstance(start, spec.Hub) and start.repository is None
        if model.timm not in known[hub]:
            what = "no pretrained weights" if hub else "no model"
            near = mistakes.nearest(model.timm, listed[hub])
            raise StudyError(f"zoo.{name}.timm: timm has {what} named '{model.timm}'{near}")
        its = timm.get_pretrained_cfg(model.timm).num_classes if hub else None
        asked = model.kwargs.get("num_classes", its)
        if hub and start is model.weights and asked != its:
            raise StudyError(
                f"zoo.{name}.kwargs.num_classes: the weights of '{model.timm}' tell {its} classes apart, and "
                f"a head for {asked} would be random; leave it out, or train a head (weights: {{source: "
                "trained, start: {source: hub}, phases: [{train: head, ...}]})"
            )


def check_builds(study: spec.Study) -> None:
    """Build, with initial weights, every model with `kwargs` or a `config`, and show it an image.

    Those too of whose stages a method reads maps.

    Raises:
        StudyError: timm refuses them, or the network what it is shown, or timm has no maps of it.
    """
    maps = {"student_maps", "teacher_maps"} & {need for one in study.methods.values() for need in one.needs}
    for model in study.zoo.values():
        if model.kwargs or model.config or maps:
            blank = model.model_copy(update={"weights": spec.Random(seed=0)})
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                classifier = build(blank, classes_of(model) or 2).eval()
                if maps:
                    classifier.check_maps()
                try:
                    classifier(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
                except Exception as error:  # timm's models raise whatever their code happens to
                    raise StudyError(
                        f"zoo.{model.name}: '{model.timm}' takes no images of {classifier.size[0]} x "
                        f"{classifier.size[1]} pixels ({storage.reason(error)}); correct "
                        "config.input_size, or give kwargs.img_size, too"
                    ) from error


def architecture(timm_name: str) -> str:
    """A timm name without the tag of its weights."""
    return timm_name.partition(".")[0]


def is_own(model: spec.Model) -> bool:
    """Whether the architecture is this project's, which timm does not know without it."""
    return timm.models.model_entrypoint(architecture(model.timm)).__module__.startswith("study.")


def classes_of(model: spec.Model) -> int | None:
    """Number of classes a model is made with, or None where it takes the data's."""
    if "num_classes" in model.kwargs:
        return model.kwargs["num_classes"]
    if not isinstance(model.weights, spec.Hub):  # what is trained from the hub's weights gets a new head
        return None
    known = timm.get_pretrained_cfg(model.timm)
    return known.num_classes if known else None


def told_apart(model: spec.Model, chosen: Sequence[int] | None) -> int | None:
    """As `classes_of`, after choosing those of the data (`labels.chosen`), if the model knows these."""
    number = classes_of(model)
    return len(chosen) if chosen and number is not None and max(chosen) < number else number


def check_classes(study: spec.Study, classes: int | None = None, chosen: Sequence[int] | None = None) -> None:
    """Refuse pairs whose models tell apart different numbers of classes, or not the data's.

    Args:
        study: the study.
        classes: number of classes of its data, if known already.
        chosen: which of its models' classes these are (`labels.chosen`).

    Raises:
        StudyError: names the pair and the numbers.
    """
    if classes is None and study.data.class_map is not None:  # which of a model's classes count, is not known
        return
    numbers = {name: told_apart(model, chosen) or classes for name, model in study.zoo.items()}
    several = [
        (student, one.teachers) for one in study.several for student in one.students or study.students()
    ]
    made = [
        (name, [teacher.name for teacher in (model.weights.student, *model.weights.teachers)])
        for name, model in study.zoo.items()
        if isinstance(model.weights, spec.Transferred)
    ]
    groups = [*((student, [teacher]) for student, teacher in study.ordered_pairs()), *several, *made]
    for student, teachers in groups:
        for teacher in teachers:
            own, its = numbers[student], numbers[teacher]
            if None not in (own, its) and own != its:
                raise StudyError(
                    f"pairs: student '{student}' tells {own} classes apart and teacher '{teacher}' {its}; "
                    "pair models with the same classes"
                )
        for name in (student, *teachers) if classes is not None else ():
            check_data_classes(study.zoo[name], classes, chosen)


def check_data_classes(model: spec.Model, classes: int, chosen: Sequence[int] | None = None) -> None:
    """Refuse a model that does not tell apart the data's classes.

    Raises:
        StudyError: names the model and the numbers.
    """
    number = told_apart(model, chosen)
    if number not in (None, classes):
        raise StudyError(
            f"zoo.{model.name}: tells {number} classes apart, but the data have {classes}; choose a model "
            "for these data, or say in data.class_map which of its classes they are"
        )


def build(model: spec.Model, classes: int) -> Classifier:
    """A model as its study describes it, with the initial weights (or the hub's).

    Args:
        model: the model.
        classes: number of classes of the data, for models that do not fix it.

    Raises:
        StudyError: timm refuses the name or the keyword arguments, or cannot fetch the weights.
    """
    kwargs = {"num_classes": classes_of(model) or classes, **model.kwargs}
    hub = isinstance(model.weights, spec.Hub) and model.weights.repository is None
    overlay, test = _data_config(model)
    try:
        network = timm.create_model(model.timm, pretrained=hub, pretrained_cfg_overlay=overlay, **kwargs)
    except Exception as error:  # timm's models raise whatever their code happens to
        remedy = "check the network" if hub else "correct 'kwargs' or 'config'" + _meant(error)
        raise StudyError(
            f"zoo.{model.name}: timm cannot make '{model.timm}' ({storage.reason(error)}); {remedy}"
        ) from error
    config = timm.data.resolve_model_data_config(network, overlay, use_test_size=test)
    if config["crop_mode"] == "border" or config["crop_pct"] > 1:
        raise StudyError(
            f"zoo.{model.name}: '{model.timm}' looks beyond the image's edge (crop_mode "
            f"'{config['crop_mode']}', crop_pct {config['crop_pct']}), which is not known here; leave it "
            "out, or set another crop in 'config'"
        )
    classifier = Classifier(network, config)
    classifier.model = model
    return classifier


def _meant(error: Exception) -> str:
    """The nearest argument of the class of timm's that refused one."""
    told = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if not told:
        return ""
    modules = [module for name, module in sys.modules.items() if name.startswith("timm.models.")]
    kinds = {getattr(module, told[1]) for module in modules if hasattr(module, told[1])}
    return mistakes.nearest(told[2], [name for kind in kinds for name in inspect.signature(kind).parameters])


def licenses_of(model: spec.Model) -> set[str]:
    """The licences under which timm has the weights that a model's are, or are made from."""
    match model.weights:
        case spec.Hub(repository=None) | spec.Trained(start=spec.Hub(repository=None)):
            known = timm.get_pretrained_cfg(model.timm)
            return {known.license} if known and known.license else set()
        case spec.Transferred(student=student, teachers=teachers):
            return set().union(*map(licenses_of, (student, *teachers)))
        case spec.Averaged(models=models):
            return set().union(*map(licenses_of, models))
        case spec.Grafted(backbone=backbone, head=head):
            return licenses_of(backbone) | licenses_of(head)
        case _:
            return set()


def licence_of(model: spec.Model) -> str:
    """The one licence of a model as the hub has it; `other` where there are several, or none is known."""
    known = licenses_of(model)
    return known.pop() if len(known) == 1 else "other"


def crop_of(model: spec.Model) -> Crop:
    """The crop of a model, as `build` would find it, but without building it."""
    config = _resolved(model)
    return Crop(float(config["crop_pct"]), config["crop_mode"])


def size_of(model: spec.Model) -> tuple[int, int]:
    """Height and width in pixels of what a model is shown."""
    return tuple(_resolved(model)["input_size"][1:])


def side_of(model: spec.Model) -> int:
    """How many pixels the shorter side of an image needs, so that the model sees none enlarged."""
    config = _resolved(model)
    return math.ceil(max(config["input_size"][1:]) / config["crop_pct"])


def sized(study: spec.Study) -> spec.Study:
    """The study with a number for `short_side: auto`: what lets no model see images enlarged.

    Raises:
        StudyError: as `check_names`, where it matters.
    """
    parts = {None: study.data, **study.data.also}
    asking = {name: part.images for name, part in parts.items() if part.images.short_side == "auto"}
    if not asking:
        return study
    check_names(study)
    side = max(map(side_of, study.zoo.values()))
    for name, images in asking.items():
        sized = {"images": images.model_copy(update={"short_side": side})}
        parts[name] = parts[name].model_copy(update=sized)
    data = parts.pop(None)
    return study.model_copy(update={"data": data.model_copy(update={"also": parts})})


def _resolved(model: spec.Model) -> dict:
    known, (overlay, test) = timm.get_pretrained_cfg(model.timm), _data_config(model)
    return timm.data.resolve_data_config(
        overlay, pretrained_cfg=known.to_dict() if known else {}, use_test_size=test
    )


def _data_config(model: spec.Model) -> tuple[dict, bool]:
    """What overrides timm's data configuration, and whether its test-time one is wanted."""
    overlay = {name: value for name, value in model.config.items() if name != "size"}
    return overlay, model.config.get("size") == "test"
