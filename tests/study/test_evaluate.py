"""Evaluation is exact: every sample once, in order, the same for any batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from study import evaluate, spec, spread
from study.images.batches import Crop
from study.models import weights
from study.views import Shown, View

CPU = torch.device("cpu")


def logits_of(*arguments, **options) -> torch.Tensor:
    """At float32, without features."""
    parts = [*evaluate.stream(*arguments, "float32", **options)]
    assert all(features is None for _, features in parts)
    return torch.cat([logits for logits, _ in parts])


@pytest.fixture(scope="module", params=["resnet", "mixer"])
def classifier(request, workspace, base):
    return workspace.load(spec.Study.model_validate(base).zoo[request.param])


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_any_batch_size_gives_what_the_images_give(workspace, classifier, image_folder, batch_size):
    samples = workspace.splits["evaluation"]
    assert all(len(samples) % size for size in (7, 256))
    files = [path for part in ("train", "test") for path in sorted((image_folder / part).rglob("*.png"))]
    pixels = np.stack([np.asarray(Image.open(files[i]).convert("RGB")) for i in samples])
    with torch.no_grad():
        expected = classifier.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    logits = logits_of(classifier, workspace.batches(Crop()), samples, CPU, batch_size=batch_size)
    assert logits.shape == (len(samples), 10)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    said = evaluate.predict(classifier, workspace.batches(Crop()), samples, CPU, "float32", batch_size)
    assert np.array_equal(said.label, expected.argmax(1))
    np.testing.assert_allclose(said.confidence, expected.softmax(1).amax(1), rtol=1e-4)


def test_how_probabilities_vary_within_classes_is_measured_where_labels_are_known(
    workspace, classifier, monkeypatch
):
    samples, labels = workspace.splits["evaluation"], workspace.labels("evaluation")
    asked = (classifier, workspace.batches(Crop()), samples, CPU, "float32", 50)
    sums = spread.class_sums([logits_of(*asked[:-2])], torch.from_numpy(labels), 10)
    found = evaluate.predict(*asked, labels=labels).variance
    assert found == pytest.approx(spread.intra_class_variance(sums), rel=1e-4)
    assert evaluate.predict(*asked).variance is None
    monkeypatch.setattr(spread, "MOST", 9)
    assert evaluate.predict(*asked, labels=labels).variance is None


def test_features_are_what_the_head_is_given(workspace, classifier):
    samples = workspace.splits["transfer"]
    loader = Shown(workspace.batches(Crop()), View(Crop()), samples, 10)
    parts = [*evaluate.stream(classifier, loader, samples, CPU, "float32", 7, epoch=0, features=True)]
    logits, features = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    assert features.shape == (len(samples), classifier.dim)
    torch.testing.assert_close(classifier.head(features), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        logits, logits_of(classifier, loader, samples, CPU, epoch=0), rtol=1e-4, atol=1e-5
    )


def test_the_precision_is_what_is_asked_for(workspace, classifier):
    seen = []
    hook = classifier.head.register_forward_hook(lambda head, given, result: seen.append(result.dtype))
    samples, loader = workspace.splits["transfer"], workspace.batches(Crop())
    for precision in ("float32", "bfloat16"):
        (*_, (logits, _)) = evaluate.stream(classifier, loader, samples, CPU, precision)
        assert logits.dtype == torch.float32
    hook.remove()
    assert seen == [torch.float32, torch.bfloat16]
    assert evaluate.default_precision(CPU) == "float32"


def test_dropout_is_off_and_the_mode_is_put_back(workspace):
    class Dropping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, pixels):
            return self.dropout(pixels.float().mean((2, 3)))

    model = Dropping().train()
    samples = workspace.splits["tune"] if len(workspace.splits["tune"]) else workspace.splits["transfer"]
    first, second = (logits_of(model, workspace.batches(Crop()), samples, CPU) for _ in range(2))
    assert torch.equal(first, second)
    assert model.training


@pytest.mark.parametrize("fault", ["drops", "repeats", "reorders"])
def test_a_loader_that_is_not_exact_is_found_out(fault):
    class Faulty:
        def epoch(self, indices, batch_size, device):
            seen = {"drops": indices[:-1], "repeats": indices[[0, 0, 1]], "reorders": indices[::-1]}[fault]
            yield torch.zeros(len(seen), 3, 4, 4), None, torch.from_numpy(seen.copy())

    def model(pixels):
        return torch.zeros(len(pixels), 2)

    module = torch.nn.Module()
    module.forward = model
    with pytest.raises(RuntimeError, match="each sample once"):
        logits_of(module, Faulty(), np.arange(3), CPU)


class Hungry(torch.nn.Module):
    """Needs more memory than any machine has for batches above a limit; counts what it was given."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.batches = limit, []

    def forward(self, pixels):
        self.batches.append(len(pixels))
        if len(pixels) > self.limit:
            torch.empty(1 << 60, dtype=torch.uint8)
        return pixels.float().mean((2, 3))


def test_a_batch_that_memory_cannot_hold_is_halved(workspace):
    samples = workspace.splits["evaluation"]
    expected = logits_of(Hungry(1000), workspace.batches(Crop()), samples, CPU)
    model = Hungry(40).train()
    got = logits_of(model, workspace.batches(Crop()), samples, CPU, batch_size=128)
    assert torch.equal(got, expected)
    assert model.batches[:4] == [128, 64, 32, 32]
    assert sum(model.batches[2:]) == len(samples)
    assert model.training
    again = Hungry(40)
    logits_of(again, workspace.batches(Crop()), samples, CPU, batch_size=128)
    assert again.batches[0] == 32  # what sufficed is remembered


def test_memory_that_holds_no_sample_is_an_error(workspace):
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        logits_of(Hungry(0), workspace.batches(Crop()), workspace.splits["evaluation"], CPU)


def test_other_errors_are_not_taken_for_memory(workspace):
    class Broken(torch.nn.Module):
        def forward(self, pixels):
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        logits_of(Broken(), workspace.batches(Crop()), workspace.splits["evaluation"], CPU)
    assert evaluate.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


def test_predictions_are_the_largest_class_and_its_probability():
    label, confidence = evaluate.predicted(torch.tensor([[0.0, np.log(3.0)], [2.0, 2.0 - np.log(4.0)]]))
    assert label.tolist() == [1, 0]
    np.testing.assert_allclose(confidence, [0.75, 0.8], rtol=1e-6)


def test_the_digest_of_weights_sees_every_tensor(workspace, base):
    classifier = workspace.load(spec.Study.model_validate(base).zoo["resnet"])
    seen = {weights.digest_of(classifier)}
    tensors = classifier.network.state_dict().values()
    for tensor in tensors:
        tensor.add_(1)
        seen.add(weights.digest_of(classifier))
    assert len(seen) == 1 + len(tensors)
