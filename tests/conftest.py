"""Small real parts the tests share: a folder of Fashion-MNIST images, a study on it, a workspace."""

from __future__ import annotations

import copy
import gzip
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import settings
from PIL import Image

# A test is not wrong because the machine is busy.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Ends what hangs, and nothing else: commands that start Ray, three at a time, take four times as long as one.
PATIENCE = 900  # seconds
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
LOOK = {"input_size": [3, 28, 28], "crop_pct": 1.0, "mean": [0.286] * 3, "std": [0.353] * 3}
STUDY = {
    "name": "small",
    "data": {"splits": {"zoo": 0.5, "transfer": 100, "evaluate_rest": True}},
    "zoo": {
        "mixer": {
            "timm": "tiny_mixer",
            "family": "mlp",
            "kwargs": {"embed_dim": 16, "num_blocks": 1},
            "config": LOOK,
            "weights": {
                "source": "trained",
                "images": 100,
                "phases": [
                    {"epochs": 2, "lr": 5e-3, "batch_size": 32, "transforms": ["flip", {"shift": 2}]},
                    {"epochs": 1, "lr": 1e-2, "batch_size": 64, "optimizer": "sgd", "schedule": "cosine"},
                ],
            },
        },
        "resnet": {
            "timm": "resnet10t",
            "family": "cnn",
            "kwargs": {"stem_width": 8, "channels": [8, 8, 16, 16]},
            "config": LOOK,
            "weights": {"source": "trained", "phases": [{"epochs": 2, "lr": 5e-3, "batch_size": 32}]},
        },
    },
    "pairs": "all",
    "methods": {
        "xe": {"lr": 1e-2},
        "kl": {"lr": 1e-2},
        "xe_kl_mcl": {"method": "xe_kl", "lr": 1e-2, "weight": 0.7, "slow": {"half_life": 0.2}},
        "kl_dp": {"lr": 1e-2},
        "kl_dp_unsupervised": {"lr": 1e-2},
    },
    "budget": {"epochs": 2, "batch_size": 32, "schedule": "cosine"},
}


def fashion_mnist(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images [count, 28, 28] uint8 and labels [count] of 'train' or 't10k'."""
    images = np.frombuffer(
        gzip.decompress((FASHION_MNIST / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((FASHION_MNIST / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    return images.reshape(-1, 28, 28)[:count], labels[:count].astype(np.int64)


def write_image_folder(folder: Path, images: np.ndarray, labels: np.ndarray, size: int = 28) -> None:
    """Images by class, as PNG; enlarged to `size` pixels a side."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / f"class{label}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """`train` (400 images) and `test` (103) of Fashion-MNIST, by class."""
    folder = tmp_path_factory.mktemp("images")
    write_image_folder(folder / "train", *fashion_mnist("train", 400))
    write_image_folder(folder / "test", *fashion_mnist("t10k", 103))
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory, image_folder) -> dict:
    """The content of a small study whose data and zoo the whole session shares."""
    folder = tmp_path_factory.mktemp("study")
    content = copy.deepcopy(STUDY)
    content["data"]["images"] = {
        "source": "image_folder",
        "train": str(image_folder / "train"),
        "test": str(image_folder / "test"),
    }
    content["folders"] = {name: str(folder / name) for name in ("data", "zoo", "outputs")}
    return content


@pytest.fixture
def content(base, tmp_path) -> dict:
    """A copy of the small study, to change, with results of its own."""
    changed = copy.deepcopy(base)
    changed["folders"]["results"] = str(tmp_path / "results")
    return changed


@pytest.fixture
def write_study(tmp_path):
    """A function that writes a study's content to a YAML file and gives its path."""

    def write(content: dict) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture(scope="session")
def workspace(base):
    """The small study's workspace, its zoo trained; shared by all tests."""
    from study import derivation, spec, workspace
    from study.images import files

    study = spec.Study.model_validate(base)
    files.prepare(study.data.images, study.folders.data)
    place = workspace.Workspace(study.data, study.folders, "cpu", threads=1)
    for model in study.zoo.values():
        derivation.make(model, place)
    return place


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A cache of the hub as it is after a download of somebody's own model: (name, commit, its network)."""
    import huggingface_hub
    import safetensors.torch
    import torch

    from study.models.timm_import import timm

    torch.manual_seed(3)
    network = timm.create_model("test_resnet", num_classes=5)
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "hub" / "models--me--mine"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    timm.models._hub.save_config_for_hf(network, snapshot / "config.json")
    safetensors.torch.save_file(
        {key: tensor.contiguous() for key, tensor in network.state_dict().items()},
        snapshot / "model.safetensors",
    )
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return "me/mine", commit, network


@pytest.fixture
def the_hub(tmp_path, monkeypatch):
    """A stand-in of the Hugging Face Hub, which this process takes for the hub, logged in; no waiting."""
    from tests.hub import Hub

    server = Hub()
    server.stand_in(monkeypatch, tmp_path / "hub")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def s3():
    """An S3 server, and its keys in the environment, until the module's tests are done."""
    from tests.s3 import KEYS, S3

    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        server = S3()
        yield server
        server.stop()
