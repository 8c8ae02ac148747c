"""What the trials of one process share: opened data, models, and outputs of frozen models.

A trial leaves nothing behind in its process but what lies here, and everything here is keyed by
what it holds, so trials may run in any order, one after another, in a reused worker. Models, decoded
images and, on a GPU, outputs are kept where they are used, up to a limit (`keep_bytes`), the least
recently used dropped first. Outputs of frozen models lie in the outputs folder (`study.store.outputs`), which
all processes share.
"""

from __future__ import annotations

import copy
import functools
import itertools
import os
import platform
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor, nn

from study import __version__, evaluate, scores, spec
from study.errors import StudyError
from study.evaluate import Predictions
from study.images import class_names, files, labels, splits
from study.images.batches import Batches, Crop, Resident
from study.images.sources import UNKNOWN
from study.models import published, weights, zoo
from study.models.zoo import Classifier
from study.objectives.pool import pool_weights
from study.store import cache, digest
from study.store.outputs import Key, Outputs, Store, collect
from study.store.storage import Location
from study.transforms import dump
from study.views import Shown, View

T = TypeVar("T")

EVALUATED = 64  # models whose predictions on a split are kept
ENOUGH = 1000  # samples that say how good a model is, within three points or so
# Of the memory of the device a process has to itself, what it keeps between trials.
KEPT_SHARE = {"cpu": 0.1, "cuda": 0.4}


def keep_bytes(resources: spec.Resources, device: torch.device | str) -> int:
    """Bytes a process keeps on its device between trials: as the study says, or a share of its memory.

    The share of a GPU is that which a trial asks for, that of a machine's memory is by its CPUs.
    """
    device = torch.device(device)
    if resources.keep_gib is not None:
        return int(resources.keep_gib * 2**30)
    if device.type == "cuda" and torch.cuda.is_available():  # else it only notes what failed elsewhere
        memory = torch.cuda.get_device_properties(device).total_memory * resources.gpus
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory *= min(1, resources.cpus / os.cpu_count())
    return int(KEPT_SHARE[device.type] * memory)


def has_gpu() -> int:
    """1 where this machine has a GPU that torch computes on, else 0."""
    return int(torch.cuda.is_available())


class Workspace:
    """Opened data, models and frozen models' outputs for one `Data` on one device.

    Args:
        data: images and splits.
        folders: where written images, trained weights and outputs lie (`study.images.files.prepare` and
            `study.derivation` put the first two there).
        device: where models run; default CUDA if there is one.
        threads: CPU threads for torch and for decoding; None leaves torch's setting.
        top_k: how many classes of the outputs on the evaluation split are kept; None: every logit.
        precision: what models compute in; None: the device's default.
        cached: whether frozen models' outputs on the transfer set are kept, or computed in each step.
        compiled: whether students train through torch.compile.
        keep: bytes kept on the device between trials; None: as `keep_bytes` gives by default.

    Raises:
        StudyError: the images are missing or damaged.
    """

    def __init__(
        self,
        data: spec.Data,
        folders: spec.Folders,
        device: torch.device | str | None = None,
        threads: int | None = None,
        top_k: int | None = None,
        precision: str | None = None,
        cached: bool = True,
        compiled: bool = False,
        keep: int | None = None,
    ) -> None:
        self.data, self.folders, self.top_k = data, folders, top_k
        self.cached, self.compiled = cached, compiled
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.asked_precision = precision
        self.precision = precision or evaluate.default_precision(self.device)
        self.threads = threads or torch.get_num_threads()
        torch.set_num_threads(self.threads)
        self.store = Store(folders.outputs, cache.of(folders, folders.outputs))
        limit = keep_bytes(spec.Resources(cpus=self.threads, gpus=1), self.device) if keep is None else keep
        self._kept: LRUCache = LRUCache(limit, getsizeof=_bytes)
        self._evaluated: LRUCache = LRUCache(EVALUATED)
        self._see(data.images)
        self.classes, self.chosen = len(self.images.classes), labels.chosen(data, self.images.classes)
        self.evaluated = data.evaluate  # the split that students are scored on
        self.places: list[int] | None = None  # of the images' classes among those that models tell apart
        self.published = data.as_published and data.class_map is None
        self.on = functools.cache(self._on)
        self._made_on = functools.cache(self._for)

    def _see(self, source: spec.Images, *, all_test: bool = False) -> None:
        """Open images, and split them as the study says, or take all test images for evaluation."""
        folders = self.folders
        self.images = files.open_images(source, folders.data, cache.of(folders, folders.data))
        if all_test:
            self.splits = {"evaluation": np.arange(*self.images.subsets["test"])}
        else:
            self.images = files.chosen(self.images, self.data)
            self.splits = splits.split(self.images, self.data.splits)
        self._samples = {name: digest.of_array(i) for name, i in self.splits.items()}
        self.batches = functools.cache(self._batches)

    def _on(self, name: str) -> Workspace:
        """The same models before the test images of another set (`spec.Data.also`)."""
        other, place = self.data.also[name], copy.copy(self)
        place._see(other.images, all_test=True)
        place.places = labels.among(other, place.images.classes, self.data, self.images.classes)
        place.evaluated = "evaluation"
        place.published = False  # timm's figures are not of these images
        return place

    @property
    def aside(self) -> str:
        """The split of images kept aside on which a trial fits or chooses something."""
        return "fit" if len(self.splits["fit"]) else "tune"

    def made_on(self, model: spec.Model) -> Workspace:
        """The workspace that a model is made in: this one, or one of the data that it says."""
        data = weights.data_of(model, self.data)
        return self if data is self.data else self._made_on(data.model_dump_json())

    def _for(self, data: str) -> Workspace:
        """The same for other data, given as JSON; it may keep a tenth of what this one may."""
        return Workspace(
            spec.Data.model_validate_json(data),
            self.folders,
            self.device,
            self.threads,
            None,
            self.asked_precision,
            self.cached,
            self.compiled,
            int(self._kept.maxsize / 10),
        )

    def _batches(self, crop: Crop) -> Batches:
        return Batches(self.images, crop, self.threads)

    def _keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under a key, or else made, and kept if it is not too large."""
        if key not in self._kept:
            made = make()
            if _bytes(made) > self._kept.maxsize:
                return made
            self._kept[key] = made
        return self._kept[key]

    def pixels(self, crop: Crop, split: str) -> Batches | Resident:
        """Batches of a split: kept decoded on the device if they take half of what is kept at most."""
        samples, batches = self.splits[split], self.batches(crop)
        if Resident.size(*batches.size, len(samples)) > self._kept.maxsize / 2:
            return batches
        return self._keep(
            ("pixels", self.images.sha256, crop, split), lambda: Resident(batches, samples, self.device)
        )

    def shown(
        self,
        view: View,
        split: str,
        variant: int | None = None,
        pool: NDArray[np.int64] | None = None,
    ) -> Shown:
        """A loader of a split as a view shows it; images are mixed with those of `pool`, else the split."""
        pixels, pool = self.pixels(view.crop, split), self.splits[split] if pool is None else pool
        classes = len(self.images.classes) if self.is_labelled(split) else None
        return Shown(pixels, view, pool, classes, variant)

    def load(self, model: spec.Model) -> Classifier:
        """A model read anew, on the device, in `eval` mode; not kept.

        Raises:
            StudyError: its weights are missing, damaged or of another model, or tell other classes apart.
        """
        loaded = weights.load(model, self.data, self.classes, self.folders, self.asked_precision)
        return loaded.choose(self.chosen).to(self.device)

    def frozen(self, model: spec.Model) -> Classifier:
        """A model as `load` gives it, for everyone: kept, and never to be changed."""
        return self._keep(("model", model.model_dump_json()), lambda: self.load(model))

    def student(self, model: spec.Model) -> Classifier:
        """A copy of `frozen`, to be trained."""
        return copy.deepcopy(self.frozen(model))

    def folder_of(self, model: spec.Model) -> Location:
        """Where the weights of a model that is made lie."""
        return weights.folder_of(model, self.data, self.folders.zoo, self.asked_precision)

    def outputs(
        self,
        classifier: Classifier,
        split: str,
        view: View | None = None,
        *,
        epoch: int = 0,
        variant: int | None = None,
        features: bool = False,
        top_k: int | None = None,
        batch_size: int | None = None,
    ) -> Outputs:
        """What a zoo model says of a split, computed once and kept in the outputs folder.

        Args:
            classifier: as `load` gave it, not trained since.
            split: name of the split.
            view: how the samples are shown; None: as timm shows them to it, for evaluation.
            epoch, variant: which epoch's view, or which of its variants.
            features: whether to keep them beside the logits.
            top_k: how many classes to keep; None: every logit.
            batch_size: samples a forward pass at most; None: `evaluate.BATCH_SIZE`.

        Raises:
            StudyError: the outputs are not finite, or cannot be written.
        """
        view = view or View(classifier.input)
        model = classifier.model
        key = Key(
            timm=zoo.architecture(model.timm),
            kwargs=model.kwargs,
            chosen=self._told(classifier),
            weights=classifier.weights,
            preprocessing=classifier.preprocessing,
            crop=view.crop,
            data_sha256=self.images.sha256,
            samples=self._samples[split],
            precision=self.precision,
            top_k=top_k,
            view=_described(view, epoch, variant),
            features=features,
        )

        def compute() -> tuple[dict[str, Tensor], dict[str, str]]:
            samples, loader = self.splits[split], self.shown(view, split, variant)
            parts = evaluate.stream(
                classifier, loader, samples, self.device, self.precision, batch_size, epoch, features
            )
            try:
                with classifier.only(self.places):
                    tensors, largest = collect(parts, len(samples), top_k)
            except StudyError as error:
                raise StudyError(f"zoo.{model.name}: {error}; give it other weights") from error
            return tensors, {"model": model.name, "split": split, "batch_size": str(largest)}

        return self.store.get(key, compute)

    def _told(self, classifier: Classifier) -> str | None:
        """A digest of which of a model's classes are told apart here; None: all."""
        with classifier.only(self.places):
            return None if classifier.chosen is None else digest.of_array(classifier.chosen.cpu().numpy())

    def evaluation(
        self, classifier: Classifier, split: str | None = None, view: View | None = None
    ) -> Predictions:
        """What a zoo model says of a split, that which is scored on as a rule, through its own crop as a
        rule.

        Raises:
            MislabelledError: on ImageNet it is far under what timm publishes.
        """
        split = split or self.evaluated
        found = self.outputs(classifier, split, view, top_k=self.top_k)
        key = found.header["key"]
        if key not in self._evaluated:
            known = self.is_labelled(split)
            self._evaluated[key] = (
                scores.with_truth(found, self.labels(split)) if known else found.predictions
            )
        if view is None:
            self.check_published(classifier, split, self._evaluated[key])
        return self._evaluated[key]

    def check_published(self, classifier: Classifier, split: str, said: Predictions) -> None:
        """Refuse, by a `MislabelledError`, a model far under what timm publishes of it on ImageNet."""
        imagenet = self.published and class_names.is_imagenet(self.images.classes)
        if imagenet and len(said.label) >= ENOUGH:
            accuracy = float((said.label == self.labels(split)).mean())
            published.check(classifier.model, classifier.size[0], accuracy, published.top1())

    def accuracy(self, classifier: Classifier, split: str) -> float:
        """Top-1 of any classifier on a split, a fraction; not kept."""
        return float((self.predict(classifier, split).label == self.labels(split)).mean())

    def labels(self, split: str | None = None) -> NDArray[np.int64]:
        """The true classes of a split, of that which is scored on as a rule, int64 [samples].

        Raises:
            StudyError: nobody has said them.
        """
        split = split or self.evaluated
        if not self.is_labelled(split):
            raise StudyError(f"'{split}': nobody has said the classes of its images; name another split")
        return self.images.labels[self.splits[split]]

    def is_labelled(self, split: str) -> bool:
        """Whether the true classes of a split are known."""
        return not (self.images.labels[self.splits[split]] == UNKNOWN).any()

    def predict(
        self,
        classifier: Classifier,
        split: str | None = None,
        samples: NDArray[np.int64] | None = None,
        temperature: float | None = None,
    ) -> Predictions:
        """What any classifier says of a split, of that which is scored on as a rule, or of some of its
        samples, through its own crop, at a `temperature` too; not kept.
        """
        split = split or self.evaluated
        samples = self.splits[split] if samples is None else samples
        loader = self.pixels(classifier.input, split)
        labels = self.images.labels[samples] if self.is_labelled(split) else None
        with classifier.only(self.places):
            where = (classifier, loader, samples, self.device, self.precision)
            return evaluate.predict(*where, labels=labels, temperature=temperature)

    def best_temperature(self, classifier: Classifier, split: str) -> float | None:
        """The T at which any classifier gives a split's labels most probability (temperature scaling, Guo et
        al., arXiv 1706.04599); None of one that says nothing of them.
        """
        samples, loader = self.splits[split], self.pixels(classifier.input, split)
        with classifier.only(self.places):
            parts = evaluate.stream(classifier, loader, samples, self.device, self.precision)
            logits = torch.cat([of.cpu() for of, _ in parts])
        inverse = float(pool_weights(logits, (), torch.from_numpy(self.labels(split))))
        return 1 / inverse if inverse > 0 else None

    def transfer_outputs(
        self, classifier: Classifier, view: View, features: bool, **which: int
    ) -> tuple[Tensor, Tensor | None]:
        """A frozen model's logits and features on the transfer set in a view.

        Args:
            classifier: as `load` gave it, not trained since.
            view: how the samples are shown, through the crop all models of the transfer see (the student's).
            features: whether they are wanted.
            which: `epoch` or `variant`, as `outputs` has it.

        Returns:
            float16 [samples of the transfer set, classes], and [samples, dim] or None, on the device if that
            keeps them, or else memory-mapped on the CPU.
        """
        found = self.outputs(classifier, "transfer", view, features=features, **which)

        def on_device(name: str, tensor: Tensor | None) -> Tensor | None:
            if tensor is None or self.device.type == "cpu" or _bytes(tensor) > self._kept.maxsize / 4:
                return tensor
            return self._keep((name, found.header["key"]), lambda: tensor.to(self.device))

        return on_device("logits", found.logits), on_device("features", found.features)

    def environment(self) -> dict:
        """Where and with what something is run: columns that every record has."""
        # A node that only notes what failed elsewhere may have none.
        on_gpu = self.device.type == "cuda" and torch.cuda.is_available()
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            "host": platform.node(),
            "finished": datetime.now(UTC),
            "python_version": platform.python_version(),
            "torch_version": torch.__version__,
            "timm_version": version("timm"),
            "study_version": __version__,
        }


def _described(view: View, epoch: int, variant: int | None) -> dict[str, Any] | None:
    """What a view shows in an epoch, or in a variant, as JSON; None of samples as they are."""
    if not view.transforms:
        return None
    which = {"seed": view.seed, "epoch": epoch} if variant is None else {"variant": variant}
    if view.of and view.of.transforms:
        of = _described(view.of, epoch, variant)
        which["of"] = {key: of[key] for key in of if key in ("transforms", "seed")}
    return {"transforms": [dump(transform) for transform in view.transforms], **which}


def _bytes(kept: Tensor | nn.Module | Resident) -> int:
    if isinstance(kept, nn.Module):
        return sum(t.nbytes for t in itertools.chain(kept.parameters(), kept.buffers()))
    return kept.nbytes


_kept: dict[str, Workspace] = {}


def of(study: spec.Study) -> Workspace:
    """This process's workspace for a study's data, folders and resources; one is kept."""
    data, folders, resources, precision = study.data, study.folders, study.resources, study.budget.precision
    key = repr((data, folders, resources, study.outputs, precision))
    if key not in _kept:
        _kept.clear()  # before another one is made, so that there is room for it
        device = torch.device("cuda" if resources.gpus else "cpu")
        _kept[key] = Workspace(
            data,
            folders,
            device,
            resources.cpus,
            study.outputs.top_k,
            precision,
            study.outputs.transfer != "live",
            resources.compile,
            keep_bytes(resources, device),
        )
    return _kept[key]
