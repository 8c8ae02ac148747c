"""Files of weights as training scripts write them: read where that is safe, else told in a sentence."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from study.models import tensor_files
from study.models.timm_import import timm


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=5)


def under(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def older(state: dict) -> dict:
    """As before BatchNorm counted its batches."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


WRITTEN = {
    "timm's train.py": lambda s: {
        "state_dict": s,
        "arch": "x",
        "args": argparse.Namespace(lr=0.1),
        "metric": 1.0,
    },
    "numpy scalars": lambda s: {
        "state_dict": s,
        "best": np.float64(76.5),
        "of": np.int64(3),
        "at": np.float32(1),
    },
    "no averaged weights": lambda s: {"state_dict": s, "state_dict_ema": None},
    "no averaged model": lambda s: {"model": s, "model_ema": None},
    "averaged weights first": lambda s: {"state_dict": under("x", s), "state_dict_ema": s},
    "DistributedDataParallel": lambda s: under("module.", s),
    "torch.compile": lambda s: under("_orig_mod.", s),
    "compiled, then parallel": lambda s: under("module._orig_mod.", s),
    "parallel, then compiled": lambda s: under("_orig_mod.module.", s),
    "Lightning": lambda s: {"state_dict": under("model.", s) | {"loss.weight": torch.ones(5)}, "epoch": 3},
    "model_state_dict": lambda s: {"model_state_dict": s, "epoch": 3},
    "weights": lambda s: {"weights": s},
    "tensors alone": lambda s: s,
    "of an older torch": older,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_training_scripts_write_is_read(tmp_path, network, name):
    state = network.state_dict()
    torch.save(WRITTEN[name](state), tmp_path / "x.pth")
    found = tensor_files.fitting(tensor_files.read(tmp_path / "x.pth"), state)
    assert found.keys() <= state.keys()
    assert all(torch.equal(found[name], state[name]) for name in older(state))
    network.load_state_dict(found)


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_safetensors_is_known_by_its_content(tmp_path, network, name):
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    safetensors.torch.save_file(under("module.", state), tmp_path / name)
    found = tensor_files.fitting(tensor_files.read(tmp_path / name), state)
    assert all(torch.equal(found[key], state[key]) for key in state)


REFUSED = {
    "a whole model": (lambda n: n, r"holds Python objects .* torch\.save\(model\.state_dict\(\), FILE\)"),
    "a list": (lambda n: [1, 2], "holds no tensors by name; save the state_dict"),
    "no tensors": (lambda n: {"epoch": 3, "lr": 0.1}, "holds no tensors by name, but epoch, lr"),
    "two models": (
        lambda n: under("student.", n.state_dict()) | under("teacher.", n.state_dict()),
        r"holds several models \(student\., teacher\.\); keep one of them in a file of its own",
    ),
    "another network": (
        lambda n: timm.create_model("test_vit", num_classes=5).state_dict(),
        r"lacks conv1\.0\.weight, .* more; it has cls_token, pos_embed, .* and \d+ more",
    ),
    "another head": (
        lambda n: timm.create_model("test_resnet", num_classes=4).state_dict(),
        r"^it differs in fc\.weight \[4, 96\], not \[5, 96\], fc\.bias \[4\], not \[5\]$",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_told_with_its_remedy(tmp_path, network, name):
    content, words = REFUSED[name]
    torch.save(content(network), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=words) as told:
        tensor_files.fitting(tensor_files.read(tmp_path / "x.pth"), network.state_dict())
    assert "\n" not in str(told.value) and "\x1b" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n", "git lfs pull"),
        (b"", "damaged or no file of tensors"),
        (b"no tensors at all", "damaged or no file of tensors"),
    ],
)
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_what_is_no_file_of_tensors_is_told(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        tensor_files.read(tmp_path / name)


def test_nothing_in_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"state_dict": {"w": torch.ones(1)}, "args": Evil()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="Python objects"):
        tensor_files.read(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()
