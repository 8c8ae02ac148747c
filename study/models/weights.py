"""Weights: read from where they come, and kept where they were made.

A model's weights come from timm's hub, from a file, from a seed, or are made by us: trained, transferred,
averaged (`study.derivation`). What is made lies in the zoo folder as a folder that timm loads
(`timm.create_model("local-dir:FOLDER", pretrained=True)`), under a name that is a hash of all that makes it,
with the facts of its making beside it.

Left out on purpose: pickled checkpoints with code in them.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from study import mistakes, spec
from study.errors import StudyError
from study.models import zoo
from study.models.timm_import import timm
from study.models.zoo import Classifier
from study.store import cache, digest, storage
from study.store.storage import Location

TENSORS, FACTS = "model.safetensors", "facts.json"
LOCAL = "local-dir:"  # how timm calls a folder that it loads


# --- what a study names -------------------------------------------------------------------------


def pinned(study: spec.Study) -> spec.Study:
    """The study with the SHA-256 of its files of weights: the content, not the path, is what results depend
    on.

    A folder that timm loads (`timm: local-dir:FOLDER`) becomes the architecture that it holds, and its file
    of weights stands where the hub's would.

    Raises:
        StudyError: a file is missing, or is not the one the study names.
    """
    known: dict[str, str] = {}

    def of_model(model: spec.Model) -> spec.Model:
        held = None
        if model.timm.startswith(LOCAL):
            held = spec.File(path=str(Path(model.timm.removeprefix(LOCAL)) / TENSORS))
            model = _local(model)
        return model.model_copy(update={"weights": of_weights(model.weights, model, held)})

    def of_weights(weights: spec.AnyWeights, model: spec.Model, held: spec.File | None) -> spec.AnyWeights:
        if held and isinstance(weights, spec.Hub):
            weights = held
        update = {}
        match weights:
            case spec.File():
                path = storage.at(weights.path)
                path = path.resolve()
                if str(path) not in known:
                    known[str(path)] = _sha256(path, model.name)
                found = known[str(path)]
                if weights.sha256 not in (None, found):
                    raise StudyError(
                        f"{path}: the weights of model '{model.name}' have SHA-256 {found}, not the one in "
                        "weights.sha256; restore the file or correct the study"
                    )
                # A URL says where it is by itself, and its text holds what it is reached with.
                where = str(path) if isinstance(path, Path) else weights.path
                update = {"sha256": found, "path": where}
            case spec.Trained(start=start) if start is not None:
                update = {"start": of_weights(start, model, held)}
            case spec.Transferred():
                teachers = tuple(map(of_model, weights.teachers))
                update = {"student": of_model(weights.student), "teachers": teachers}
            case spec.Averaged():
                try:
                    return spec.Averaged(models=tuple(map(of_model, weights.models)))
                except ValidationError as error:
                    raise StudyError(
                        f"zoo.{model.name}.weights: {mistakes.first(error, spec.Averaged)}"
                    ) from None
        return weights.model_copy(update=update)

    return study.model_copy(update={"zoo": {name: of_model(model) for name, model in study.zoo.items()}})


def _sha256(path: Location, name: str) -> str:
    try:
        return digest.of_file(path)
    except OSError as error:
        raise StudyError(
            f"{path}: the weights of model '{name}' are not there; correct the path in zoo.{name}"
        ) from error


def _local(model: spec.Model) -> spec.Model:
    """A model of a folder that timm loads, by its architecture; its weights are left as they are."""
    folder = Path(model.timm.removeprefix(LOCAL))
    try:
        config, architecture, arguments = timm.models._hub.load_model_config_from_path(folder)
    except Exception as error:  # whatever a damaged file makes timm raise
        raise StudyError(
            f"{folder}: no folder of a model that timm loads ({storage.reason(error)}); correct zoo."
            f"{model.name}.timm"
        ) from error
    names = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    look = {name: config[name] for name in names if name in config}
    return model.model_copy(
        update={
            "timm": architecture,
            "kwargs": {"num_classes": config["num_classes"], **(arguments or {}), **model.kwargs},
            "config": {**look, **model.config},
        }
    )


def check_files(study: spec.Study, classes: int) -> None:
    """Load every file of weights once, so that a bad one is found before any trial starts.

    Raises:
        StudyError: as `load` does.
    """
    for model in study.zoo.values():
        if isinstance(model.weights, spec.File):
            load(model, study.data, classes, study.folders)


# --- what is made -------------------------------------------------------------------------------


def folder_of(model: spec.Model, data: spec.Data, zoo_folder: Location, precision: str | None) -> Location:
    """Where weights that are made lie: under the hash of all that makes them, labels left out."""
    content = {
        "results_version": spec.RESULTS_VERSION,
        "model": spec.without(model.model_dump(mode="json"), "name", "family"),
        "data": data.model_dump(mode="json"),
        "precision": precision,
    }
    return zoo_folder / f"{zoo.architecture(model.timm)}-{digest.of_json(content)}"


def is_made(folder: Location) -> bool:
    """Whether a folder of weights is there, whole."""
    return storage.published(folder, FACTS)


def facts(folder: Location) -> dict:
    """What is known of the making of weights.

    Raises:
        StudyError: the folder is not there, or is damaged.
    """
    try:
        return json.loads(storage.read(folder / FACTS))
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{folder / FACTS}: missing or damaged; remove the folder and build the zoo"
        ) from error


def save(classifier: Classifier, about: dict, folder: Location) -> None:
    """Write weights as a folder that timm loads, with facts of their making; whole or not at all."""
    storage.make(folder.parent)
    here = folder if isinstance(folder, Path) else Path(tempfile.gettempdir()) / folder.name
    network = classifier.network
    with storage.new_folder(storage.aside(here)) as new:
        timm.models._hub.save_config_for_hf(network, new / "config.json")
        # timm's own writer of tensors wants each in memory's order, which those in channels-last are not.
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()}
        safetensors.torch.save_file(tensors, new / TENSORS, metadata={"format": "pt"})
        (new / FACTS).write_text(json.dumps(about, indent=1))
        storage.publish(new, folder, FACTS)


# --- loading ------------------------------------------------------------------------------------


def load(
    model: spec.Model, data: spec.Data, classes: int, folders: spec.Folders, precision: str | None = None
) -> Classifier:
    """A model with its weights, on the CPU, in `eval` mode.

    Args:
        model: the model.
        data: the study's data, which weights that are made depend on.
        classes: number of classes of the data.
        folders: where made weights are, and where to copy weights of a URL to.
        precision: what made weights were computed in, as the study says.

    Raises:
        StudyError: the weights are missing, damaged, or not of this architecture.
    """
    with torch.random.fork_rng(devices=[]):
        if isinstance(model.weights, spec.Random):
            torch.manual_seed(model.weights.seed)
        classifier = zoo.build(model, classes)
    if not isinstance(model.weights, spec.Hub | spec.Random):
        path = (
            folder_of(model, data, folders.zoo, precision) / TENSORS
            if model.made
            else storage.at(model.weights.path)
        )
        try:
            classifier.network.load_state_dict(_read(path, model.name, cache.of(folders, path)))
        except (RuntimeError, AttributeError, TypeError) as error:
            raise StudyError(
                f"{path}: not the weights of '{model.timm}' as zoo.{model.name} describes it "
                f"({' '.join(str(error).split())[:200]}); correct 'timm' and 'kwargs', or the file"
            ) from error
    classifier.weights = digest_of(classifier)
    return classifier.eval()


def digest_of(classifier: Classifier) -> str:
    """SHA-256 over all tensors of a network (parameters and saved buffers), in order."""
    return digest.of_tensors(classifier.network.state_dict().items())


def average(models: list[Classifier]) -> dict[str, Tensor]:
    """The mean of networks of one architecture: of all their state, but whole numbers are the first one's.

    In float64, so that the mean of equal weights is those weights.
    """
    states = [model.network.state_dict() for model in models]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }


def _read(path: Location, name: str, copies: cache.Cache | None) -> dict[str, Tensor]:
    try:
        with copies.copy(path) if copies else contextlib.nullcontext(path) as local:
            return _read_tensors(local, name, path)
    except (FileNotFoundError, NotADirectoryError) as error:
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
