"""What the trials of one process share: opened data, compiled loaders, outputs of frozen models.

A trial leaves nothing behind in its process but what lies here, and everything here is keyed by
what it holds, so trials may run in any order, one after another, in a reused worker.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor

from study import data as study_data
from study import evaluate, spec, zoo
from study.evaluate import Predictions

# Outputs kept in memory, over all models; what does not fit is computed where it is needed.
OUTPUTS_BYTES = 2 << 30


class Workspace:
    """Opened data, loaders and frozen models' outputs for one `Data` on one device.

    Args:
        data: images and splits.
        data_folder: where the written images lie (`study.data.prepare` put them there).
        zoo_folder: where trained weights lie.
        device: where models run; default CUDA if there is one.
        threads: CPU threads for torch and for decoding; None leaves torch's setting.

    Raises:
        StudyError: the images are missing or damaged.
    """

    def __init__(
        self,
        data: spec.Data,
        data_folder: Path,
        zoo_folder: Path,
        device: torch.device | str | None = None,
        threads: int | None = None,
    ) -> None:
        self.data, self.zoo = data, Path(zoo_folder)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.threads = threads or torch.get_num_threads()
        torch.set_num_threads(self.threads)
        self.images = study_data.open_images(data.images, Path(data_folder))
        self.splits = study_data.split(self.images, data.splits)
        self._outputs: LRUCache = LRUCache(OUTPUTS_BYTES, getsizeof=lambda t: t.element_size() * t.numel())
        self._predictions: dict[str, Predictions] = {}
        self.batches = functools.cache(self._batches)

    def _batches(self, crop_pct: float) -> study_data.Batches:
        return study_data.Batches(self.images, crop_pct, self.threads)

    def load(self, model: spec.Model) -> zoo.Classifier:
        """A fresh copy of a model, on the device, in `eval` mode.

        Raises:
            StudyError: its weights are missing, damaged or of another model, or tell other classes apart.
        """
        return zoo.load(model, self.data, len(self.images.classes), self.zoo).to(self.device)

    def recipe_indices(self, recipe: spec.Recipe) -> NDArray[np.int64]:
        """The images a recipe trains on."""
        return study_data.images_of_recipe(self.splits, self.images.labels, recipe)

    def evaluation(self, model: spec.Model, classifier: zoo.Classifier) -> Predictions:
        """What a zoo model says of the evaluation split, computed once a process.

        Args:
            model: the model, for the key.
            classifier: the same, loaded.
        """
        key = model.model_dump_json()
        if key not in self._predictions:
            self._predictions[key] = self.predict(classifier)
        return self._predictions[key]

    def predict(self, classifier: zoo.Classifier) -> Predictions:
        """What any classifier says of the evaluation split, through its own crop."""
        batches = self.batches(classifier.crop_pct)
        logits = evaluate.logits(classifier, batches, self.splits["evaluation"], self.device)
        return evaluate.predictions(logits)

    def transfer_logits(
        self, model: spec.Model, classifier: zoo.Classifier, crop_pct: float
    ) -> Tensor | None:
        """A frozen model's logits on the unaugmented transfer set, computed once a process.

        Args:
            model: the model, for the key.
            classifier: the same, loaded.
            crop_pct: the crop all models of the transfer see (the student's).

        Returns:
            float32 [samples of the transfer set, classes] on the device; None where they are too
            large to keep.
        """
        samples = self.splits["transfer"]
        if 4 * len(samples) * len(self.images.classes) > OUTPUTS_BYTES // 8:
            return None
        key = (model.model_dump_json(), crop_pct)
        if key not in self._outputs:
            logits = evaluate.logits(classifier, self.batches(crop_pct), samples, self.device)
            self._outputs[key] = logits.to(self.device)
        return self._outputs[key]


def of(study: spec.Study) -> Workspace:
    """This process's workspace for a study's data, folders and resources; one is kept."""
    device = "cuda" if study.resources.gpus else "cpu"
    return _of(study.data, study.folders, device, study.resources.cpus)


@functools.lru_cache(maxsize=1)
def _of(data: spec.Data, folders: spec.Folders, device: str, threads: int) -> Workspace:
    return Workspace(data, folders.data, folders.zoo, device, threads)
