"""What the trials of one process share: opened data, compiled loaders, outputs of frozen models.

A trial leaves nothing behind in its process but what lies here, and everything here is keyed by
what it holds, so trials may run in any order, one after another, in a reused worker. Outputs of
frozen models lie in the outputs folder (`study.outputs`), which all processes share.
"""

from __future__ import annotations

import functools
import platform
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor

from study import __version__, cache, evaluate, spec, zoo
from study import data as study_data
from study import outputs as study_outputs
from study.batches import Batches, Crop
from study.errors import StudyError
from study.evaluate import Predictions
from study.outputs import Outputs

# Outputs kept on a device beside the models, over all models.
DEVICE_BYTES = 2 << 30
# A frozen model whose outputs on the transfer set take more than this runs live.
TRANSFER_BYTES = 1 << 30


class Workspace:
    """Opened data, loaders and frozen models' outputs for one `Data` on one device.

    Args:
        data: images and splits.
        folders: where written images, trained weights and outputs lie (`study.data.prepare` and
            `study.pretraining` put the first two there).
        device: where models run; default CUDA if there is one.
        threads: CPU threads for torch and for decoding; None leaves torch's setting.
        top_k: how many classes of the outputs on the evaluation split are kept; None: every logit.

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
    ) -> None:
        self.data, self.folders, self.top_k = data, folders, top_k
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.threads = threads or torch.get_num_threads()
        torch.set_num_threads(self.threads)
        self.images = study_data.open_images(data.images, folders.data, cache.of(folders, folders.data))
        self.splits = study_data.split(self.images, data.splits)
        self.store = study_outputs.Store(folders.outputs, cache.of(folders, folders.outputs))
        self._on_device: LRUCache = LRUCache(DEVICE_BYTES, getsizeof=lambda t: t.element_size() * t.numel())
        self._samples = {name: study_outputs.hash_of_samples(i) for name, i in self.splits.items()}
        self.batches = functools.cache(self._batches)

    def _batches(self, crop: Crop) -> Batches:
        return Batches(self.images, crop, self.threads)

    def load(self, model: spec.Model) -> zoo.Classifier:
        """A fresh copy of a model, on the device, in `eval` mode.

        Raises:
            StudyError: its weights are missing, damaged or of another model, or tell other classes apart.
        """
        return zoo.load(model, self.data, len(self.images.classes), self.folders).to(self.device)

    def recipe_indices(self, recipe: spec.Recipe) -> NDArray[np.int64]:
        """The images a recipe trains on."""
        return study_data.images_of_recipe(self.splits, self.images.labels, recipe)

    def outputs(
        self,
        model: spec.Model,
        classifier: zoo.Classifier,
        split: str,
        crop: Crop | None = None,
        top_k: int | None = None,
        batch_size: int = 256,
    ) -> Outputs:
        """What a zoo model says of a split, computed once and kept in the outputs folder.

        Args:
            model: the model, for the key.
            classifier: the same as `load` gave it, not trained since.
            split: name of the split.
            crop: what the model is shown; None: its own crop.
            top_k: how many classes to keep; None: every logit.
            batch_size: samples a forward pass at most.

        Raises:
            StudyError: the outputs are not finite, or cannot be written.
        """
        crop = crop or classifier.crop
        key = study_outputs.Key(
            timm=zoo.architecture(model.timm),
            kwargs=model.kwargs,
            weights=classifier.weights,
            preprocessing=classifier.preprocessing,
            crop=crop,
            data_sha256=self.images.sha256,
            samples=self._samples[split],
            precision="bfloat16" if self.device.type == "cuda" else "float32",
            top_k=top_k,
        )

        def compute() -> tuple[dict[str, Tensor], dict[str, str]]:
            samples = self.splits[split]
            parts = evaluate.stream(classifier, self.batches(crop), samples, self.device, batch_size)
            try:
                tensors, largest = study_outputs.collect(parts, len(samples), top_k)
            except StudyError as error:
                raise StudyError(f"zoo.{model.name}: {error}; give it other weights") from error
            return tensors, {"model": model.name, "split": split, "batch_size": str(largest)}

        return self.store.get(key, compute)

    def evaluation(self, model: spec.Model, classifier: zoo.Classifier) -> Predictions:
        """What a zoo model says of the evaluation split, through its own crop."""
        return self.outputs(model, classifier, "evaluation", top_k=self.top_k).predictions

    def predict(self, classifier: zoo.Classifier) -> Predictions:
        """What any classifier says of the evaluation split, through its own crop; not kept."""
        batches = self.batches(classifier.crop)
        logits = evaluate.logits(classifier, batches, self.splits["evaluation"], self.device)
        return evaluate.predictions(logits)

    def transfer_logits(self, model: spec.Model, classifier: zoo.Classifier, crop: Crop) -> Tensor | None:
        """A frozen model's logits on the unaugmented transfer set.

        Args:
            model: the model, for the key.
            classifier: the same as `load` gave it, not trained since.
            crop: the crop all models of the transfer see (the student's).

        Returns:
            float16 [samples of the transfer set, classes], on the device, or memory-mapped on a CPU;
            None where they are too large to keep.
        """
        samples, classes = len(self.splits["transfer"]), len(self.images.classes)
        if study_outputs.size_of(samples, classes, None) > TRANSFER_BYTES:
            return None
        found = self.outputs(model, classifier, "transfer", crop)
        if self.device.type == "cpu":
            return found.logits
        if found.header["key"] not in self._on_device:
            self._on_device[found.header["key"]] = found.logits.to(self.device)
        return self._on_device[found.header["key"]]

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


def of(study: spec.Study) -> Workspace:
    """This process's workspace for a study's data, folders and resources; one is kept."""
    device = "cuda" if study.resources.gpus else "cpu"
    return _of(study.data, study.folders, device, study.resources.cpus, study.outputs.top_k)


@functools.lru_cache(maxsize=1)
def _of(data: spec.Data, folders: spec.Folders, device: str, threads: int, top_k: int | None) -> Workspace:
    return Workspace(data, folders, device, threads, top_k)
