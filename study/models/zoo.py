"""The zoo: timm models that look at the loader's pixels the way they were trained to.

`build` makes a model as the study describes it, `load` also gives it its weights: from timm's hub,
from a checkpoint file, from a training recipe (`study.recipe`), whose result lies in the zoo
folder under a name that holds the hash of the recipe, or from a seed (a model that knows nothing).
Every model comes wrapped in a `Classifier`, which resizes and normalises uint8 batches on the device
by timm's data configuration.

Left out on purpose: models that look beyond the image's edge (timm's crop mode 'border', crop_pct
above 1), nine of timm's 1,826, which are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import study.models.tiny  # noqa: F401 - registers the demo's small models with timm
from study import mistakes, spec
from study.errors import StudyError
from study.images.batches import Crop
from study.models.timm_import import timm
from study.store import cache, storage
from study.store.storage import Location


class Classifier(nn.Module):
    """A network with its preprocessing: uint8 [batch, 3, side, side] in, logits [batch, classes] out.

    The pixels are the crop; they are resized to the network's input size (antialiased, as PIL does)
    and normalised with its mean and std. `crop` tells the loader which crop.

    Args:
        network: a timm model.
        config: its data configuration (`timm.data.resolve_model_data_config`).

    Attributes:
        crop: which part of an image the network was trained to look at.
        preprocessing: what is done with the crop's pixels, as JSON could hold it.
        weights: SHA-256 of the weights it was loaded with (`load`; None before).
    """

    def __init__(self, network: nn.Module, config: dict) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.size = tuple(config["input_size"][1:])
        self.interpolation = config["interpolation"]
        self.crop = Crop(float(config["crop_pct"]), config["crop_mode"])
        self.preprocessing = {
            name: list(config[name]) if isinstance(config[name], tuple | list) else config[name]
            for name in ("input_size", "interpolation", "mean", "std")
        }
        self.weights: str | None = None
        for name in ("mean", "std"):
            values = 255 * torch.tensor(config[name], dtype=torch.float32)
            self.register_buffer(name, values[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.float()
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode=self.interpolation, antialias=True).clamp_(0, 255)
        return self.network((x - self.mean) / self.std)


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
        if model.timm not in known[model.pretrained]:
            what = "no pretrained weights" if model.pretrained else "no model"
            near = mistakes.nearest(model.timm, listed[model.pretrained])
            raise StudyError(f"zoo.{name}.timm: timm has {what} named '{model.timm}'{near}")


def architecture(timm_name: str) -> str:
    """A timm name without the tag of its weights."""
    return timm_name.partition(".")[0]


def classes_of(model: spec.Model) -> int | None:
    """Number of classes a model is made with, or None where it takes the data's."""
    if "num_classes" in model.kwargs:
        return model.kwargs["num_classes"]
    return timm.get_pretrained_cfg(model.timm).num_classes if model.pretrained else None


def check_classes(study: spec.Study, classes: int | None = None) -> None:
    """Refuse pairs whose models tell apart different numbers of classes, or not the data's.

    Args:
        study: the study.
        classes: number of classes of its data, if known already.

    Raises:
        StudyError: names the pair and the numbers.
    """
    numbers = {name: classes_of(model) or classes for name, model in study.zoo.items()}
    for pair in study.ordered_pairs():
        student, teacher = (numbers[name] for name in pair)
        if None not in (student, teacher) and student != teacher:
            raise StudyError(
                f"pairs: student '{pair[0]}' tells {student} classes apart and teacher '{pair[1]}' "
                f"{teacher}; pair models with the same classes"
            )
        for name in pair:
            if classes is not None:
                check_data_classes(study.zoo[name], classes)


def check_data_classes(model: spec.Model, classes: int) -> None:
    """Refuse a model that does not tell apart the data's classes.

    Raises:
        StudyError: names the model and the numbers.
    """
    number = classes_of(model)
    if number not in (None, classes):
        raise StudyError(
            f"zoo.{model.name}: tells {number} classes apart, but the data have {classes}; choose a model "
            "for these data"
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
    try:
        network = timm.create_model(
            model.timm, pretrained=model.pretrained, pretrained_cfg_overlay=model.config, **kwargs
        )
    except Exception as error:  # timm's models raise whatever their code happens to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "check the network" if model.pretrained else "correct the name or 'kwargs'"
        raise StudyError(f"zoo.{model.name}: timm cannot make '{model.timm}' ({reason}); {remedy}") from error
    config = timm.data.resolve_model_data_config(network)
    if config["crop_mode"] == "border" or config["crop_pct"] > 1:
        raise StudyError(
            f"zoo.{model.name}: '{model.timm}' looks beyond the image's edge (crop_mode "
            f"'{config['crop_mode']}', crop_pct {config['crop_pct']}), which is not known here; leave it "
            "out, or set another crop in 'config'"
        )
    return Classifier(network, config)


def crop_of(model: spec.Model) -> Crop:
    """The crop of a model, as `build` would find it, but without building it."""
    known = timm.get_pretrained_cfg(model.timm)
    config = timm.data.resolve_data_config(
        {}, pretrained_cfg={**(known.to_dict() if known else {}), **model.config}
    )
    return Crop(float(config["crop_pct"]), config["crop_mode"])


def trained_path(model: spec.Model, data: spec.Data, zoo: Location) -> Location:
    """Where the weights of a trained model lie: its name and the hash of all that makes them."""
    content = {"model": model.model_dump(mode="json"), "data": data.model_dump(mode="json")}
    return zoo / f"{model.name}-{spec.content_hash(content)}.safetensors"


def save_trained(classifier: Classifier, facts: dict, path: Location) -> None:
    """Write trained weights, and beside them a JSON file with facts of the training; whole or not at all."""
    storage.make(path.parent)
    storage.write(path.with_suffix(".json"), json.dumps(facts, indent=1).encode())
    tensors = {name: t.contiguous().clone() for name, t in classifier.network.state_dict().items()}
    storage.write(path, safetensors.torch.save(tensors))


def _read_weights(path: Location, name: str, copies: cache.Cache | None) -> dict[str, Tensor]:
    try:
        with copies.copy(path) if copies else contextlib.nullcontext(path) as local:
            return _read_tensors(local, name, path)
    except FileNotFoundError as error:
        raise StudyError(f"{path}: the weights of model '{name}' are not there; build the zoo") from error


def _read_tensors(path: Path, name: str, told: Location) -> dict[str, Tensor]:
    """The tensors of a file of this machine; mistakes are told of the file it may be a copy of."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        # Training scripts wrap the tensors in a dictionary; timm's read the same keys.
        for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
            tensors = tensors.get(key, tensors)
        return tensors
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file makes either reader raise anything
        raise StudyError(
            f"{told}: the weights of model '{name}' are damaged or no tensor file "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); replace the file"
        ) from error


def load(model: spec.Model, data: spec.Data, classes: int, folders: spec.Folders) -> Classifier:
    """A model with its weights, on the CPU, in `eval` mode.

    Args:
        model: the model.
        data: the study's data, which a trained model's weights depend on.
        classes: number of classes of the data.
        folders: where the trained weights are, and where to copy weights of a URL to.

    Raises:
        StudyError: the weights are missing, damaged, or not of this architecture.
    """
    with torch.random.fork_rng(devices=[]):
        if model.untrained is not None:
            torch.manual_seed(model.untrained)
        classifier = build(model, classes)
    if model.source in ("recipe", "checkpoint"):
        path = storage.at(model.checkpoint) if model.checkpoint else trained_path(model, data, folders.zoo)
        try:
            classifier.network.load_state_dict(_read_weights(path, model.name, cache.of(folders, path)))
        except (RuntimeError, AttributeError, TypeError) as error:
            raise StudyError(
                f"{path}: not the weights of '{model.timm}' as zoo.{model.name} describes it "
                f"({' '.join(str(error).split())[:200]}); correct 'timm' and 'kwargs', or the file"
            ) from error
    classifier.weights = fingerprint(classifier.network)
    return classifier.eval()


def check_checkpoints(study: spec.Study, classes: int) -> None:
    """Load every checkpoint once, so that a bad one is found before any trial starts.

    Raises:
        StudyError: as `load` does.
    """
    for model in study.zoo.values():
        if model.checkpoint:
            load(model, study.data, classes, study.folders)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over all tensors of a module (parameters and saved buffers), in order."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
