"""Weights: read from where they come, and kept where they were made.

A model's weights come from timm's hub, from a file, from a seed, or are made by us: trained, transferred,
averaged (`study.derivation`). What is made lies in the zoo folder as a folder that timm loads
(`timm.create_model("local-dir:FOLDER", pretrained=True)`), under a name that is a hash of all that makes it,
with the facts of its making beside it.

`study.models.tensor_files` reads the files.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from study import mistakes, spec
from study.errors import StudyError
from study.models import tensor_files, zoo
from study.models.timm_import import timm
from study.models.zoo import Classifier
from study.store import cache, digest, storage
from study.store.storage import Location

TENSORS, FACTS = "model.safetensors", "facts.json"
LOCAL, REPOSITORY = "local-dir:", "hf-hub:"  # how timm calls a folder, or a repository, that it loads

Held = spec.File | spec.Hub


# --- what a study names -------------------------------------------------------------------------


def pinned(study: spec.Study) -> spec.Study:
    """The study with the SHA-256 of its files of weights: the content, not the path, is what results depend
    on.

    A folder that timm loads (`timm: local-dir:FOLDER`) and a repository of the hub (`timm:
    hf-hub:user/model`) become the architecture that they hold, and their file of weights stands where the
    hub's would. A name that timm has changed becomes the one it now has.

    Raises:
        StudyError: a file is missing, or is not the one the study names; a folder or a repository holds no
            model of timm's.
    """
    known: dict[str, str] = {}

    def of_model(model: spec.Model) -> spec.Model:
        held, name = None, _todays(model.timm)
        if name.startswith(LOCAL):
            held = spec.File(path=str(Path(name.removeprefix(LOCAL)) / TENSORS))
            model = _held(model, name, timm.models._hub.load_model_config_from_path)
        elif name.startswith(REPOSITORY):
            model = _held(model, name, timm.models._hub.load_model_config_from_hf)
            held = _in_repository(name.removeprefix(REPOSITORY), model.name)
        else:
            model = model.model_copy(update={"timm": name})
        return model.model_copy(update={"weights": of_weights(model.weights, model, held)})

    def of_weights(weights: spec.AnyWeights, model: spec.Model, held: Held | None) -> spec.AnyWeights:
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
            case spec.Grafted(backbone=backbone, head=head):
                update = {"backbone": of_model(backbone), "head": of_model(head)}
        return weights.model_copy(update=update)

    return study.model_copy(update={"zoo": {name: of_model(model) for name, model in study.zoo.items()}})


def _sha256(path: Location, name: str) -> str:
    if isinstance(path, Path) and path.is_dir():
        raise StudyError(
            f"{path}: a folder, not the file of weights of model '{name}'; name the file in it, or, for a "
            f"folder that timm loads, say timm: {LOCAL}{path}"
        )
    try:
        return digest.of_file(path)
    except OSError as error:
        raise StudyError(
            f"{path}: the weights of model '{name}' are not there; correct the path in zoo.{name}"
        ) from error


def _todays(name: str) -> str:
    """A name as timm has it now: legacy ones by timm's own table, and those of its own repositories."""
    scheme, _, rest = name.rpartition(":")
    if scheme.replace("_", "-") == "hf-hub":
        name = REPOSITORY + rest
    own = name.removeprefix(REPOSITORY).removeprefix("timm/")
    if timm.models.is_model(zoo.architecture(own)):
        name = own
    return timm.models.get_deprecated_models().get(name) or name


def _held(model: spec.Model, name: str, read: Callable[[str], tuple]) -> spec.Model:
    """A model of a folder or repository, by the architecture that its configuration names; its weights are
    left as they are.
    """
    place = name.partition(":")[2]
    try:
        config, architecture, arguments = read(place)
    except Exception as error:  # whatever a damaged file, or the network, makes timm raise
        raise StudyError(
            f"{place}: no model that timm loads ({storage.reason(error)}); correct zoo.{model.name}.timm"
            + (", or check the network" if name.startswith(REPOSITORY) else "")
        ) from error
    look = {key: config[key] for key in spec.DataConfig.model_fields if config.get(key) is not None}
    return model.model_copy(
        update={
            "timm": architecture,
            "kwargs": {"num_classes": config["num_classes"], **(arguments or {}), **model.kwargs},
            "config": {**look, **model.config},
        }
    )


def _in_repository(repository: str, name: str) -> spec.Hub:
    """The weights that a repository holds now: which commit, and which content."""
    path = _downloaded(repository, name)
    commit = path.parts[path.parts.index("snapshots") + 1]
    return spec.Hub(repository=f"{repository.partition('@')[0]}@{commit}", sha256=digest.of_file(path))


def _downloaded(repository: str, name: str) -> Path:
    """A repository's file of weights, in the cache of the hub's own library."""
    whose, _, revision = repository.partition("@")
    for file in (timm.models._hub.HF_SAFE_WEIGHTS_NAME, timm.models._hub.HF_WEIGHTS_NAME):
        try:
            return Path(huggingface_hub.hf_hub_download(whose, file, revision=revision or None))
        except huggingface_hub.errors.EntryNotFoundError as error:
            missing = error
        except Exception as error:  # the network, or a repository that is private or gone
            raise StudyError(
                f"zoo.{name}: the weights of {repository} cannot be had ({storage.reason(error)}); correct "
                f"zoo.{name}.timm, or check the network"
            ) from error
    raise StudyError(f"zoo.{name}: {repository} holds no weights that timm loads; name another") from missing


def check_files(study: spec.Study, classes: int) -> None:
    """Load every file of weights once, so that a bad one is found before any trial starts.

    Raises:
        StudyError: as `load` does.
    """
    for model in study.zoo.values():
        if isinstance(model.weights, spec.File):
            load(model, study.data, classes, study.folders)


# --- what is made -------------------------------------------------------------------------------


def data_of(model: spec.Model, data: spec.Data) -> spec.Data:
    """The data that a model is made on: the study's, unless it says others."""
    return getattr(model.weights, "data", None) or data


def folder_of(model: spec.Model, data: spec.Data, zoo_folder: Location, precision: str | None) -> Location:
    """Where weights that are made lie: under the hash of all that makes them, labels left out."""
    described = spec.without(model.model_dump(mode="json"), "name", "family")
    described["weights"].pop("data", None)  # which follows
    content = {
        "results_version": spec.RESULTS_VERSION,
        "model": described,
        "data": data_of(model, data).made_on(_transferred(model)),
        "precision": precision,
    }
    return zoo_folder / f"{zoo.architecture(model.timm)}-{digest.of_json(content)}"


def _transferred(model: spec.Model) -> bool:
    """Whether a transfer is among what weights are made by."""
    match model.weights:
        case spec.Transferred():
            return True
        case spec.Averaged(models=models):
            return any(map(_transferred, models))
        case spec.Grafted(backbone=backbone, head=head):
            return _transferred(backbone) or _transferred(head)
        case _:
            return False


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
    if path := _file_of(model, data, folders, precision):
        tensors = _read(path, model.name, cache.of(folders, path))
        try:
            tensors = tensor_files.fitting(tensors, classifier.network.state_dict())
        except ValueError as error:
            raise StudyError(
                f"{path}: not the weights of '{model.timm}' as zoo.{model.name} describes it ({error}); "
                "correct 'timm' and 'kwargs', or the file"
            ) from error
        classifier.network.load_state_dict(tensors)
    classifier.weights = digest_of(classifier)
    return classifier.eval()


def _file_of(
    model: spec.Model, data: spec.Data, folders: spec.Folders, precision: str | None
) -> Location | None:
    """The file of a model's weights; None where timm, or a seed, gives them."""
    match model.weights:
        case spec.Hub(repository=str(repository)):
            return _downloaded(repository, model.name)
        case spec.File(path=path):
            return storage.at(path)
        case _ if model.made:
            return folder_of(model, data, folders.zoo, precision) / TENSORS
        case _:
            return None


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


def interpolated(first: Classifier, second: Classifier, share: float) -> dict[str, Tensor]:
    """(1 − share) · first + share · second, of all state of two networks of one architecture.

    WiSE-FT (arXiv 2109.01903, section 3); statistics of BatchNorm too, which belong to the weights they were
    collected with. Whole numbers are the second one's. In float64: shares of 0 and 1 are exactly these two.
    """
    return {
        name: torch.lerp(one.double(), other.double(), share).to(other.dtype)
        if other.is_floating_point()
        else other
        for (name, one), other in zip(
            first.network.state_dict().items(), second.network.state_dict().values(), strict=True
        )
    }


def grafted(backbone: Classifier, head: Classifier) -> dict[str, Tensor]:
    """The state of a network with one's backbone and the other's head."""
    of_head = {id(tensor) for part in head.heads for tensor in part.state_dict(keep_vars=True).values()}
    own, other = head.network.state_dict(keep_vars=True), backbone.network.state_dict()
    return {name: tensor if id(tensor) in of_head else other[name] for name, tensor in own.items()}


def _read(path: Location, name: str, copies: cache.Cache | None) -> dict[str, Tensor]:
    try:
        with copies.copy(path) if copies else contextlib.nullcontext(path) as local:
            return tensor_files.read(local)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StudyError(f"{path}: the weights of model '{name}' are not there; build the zoo") from error
    except ValueError as error:
        raise StudyError(f"{path}: the weights of model '{name}' cannot be read: {error}") from error
