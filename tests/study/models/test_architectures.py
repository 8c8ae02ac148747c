"""A small architecture of each of timm's families goes through a whole trial (make test-architectures).

Drawn with a fixed seed among those of fewer than 13 million parameters. A trial of five samples in batches of
four: did a last batch of one not join the others, those with BatchNorm behind pooling would fail.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from study import spec, transfer
from study.images import files
from study.models import zoo
from study.workspace import Workspace

pytestmark = pytest.mark.architectures

DRAWN = [
    "lambda_resnet26t",
    "mobileone_s1",
    "cait_xxs24_384",
    "coat_mini",
    "convit_tiny",
    "convnext_femto_ols",
    "cpubone_b0_bfrobust",
    "crossvit_tiny_240",
    "csatv2",
    "cs3darknet_s",
    "cspnext_s",
    "deit_tiny_patch16_224",
    "densenet169",
    "dla60x_c",
    "dpn48b",
    "edgenext_small_rw",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientnet_b0_g8_gn",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m1",
    "vit_pe_core_tiny_patch16_384",
    "fasternet_t0",
    "fastvit_sa12",
    "gcvit_xxtiny",
    "ghostnet_050",
    "hardcorenas_c",
    "hgnetv2_b0",
    "hrnet_w18_small",
    "iformer_s",
    "inception_next_atto",
    "lcnetv2_small",
    "levit_conv_128",
    "lowformer_b0",
    "mambaout_femto",
    "coatnet_pico_rw_224",
    "poolformerv2_s12",
    "gmlp_ti16_224",
    "mobilenetv4_conv_small_035",
    "mobilevitv2_050",
    "test_nfnet",
    "pit_xs_224",
    "pvt_v2_b0",
    "regnetx_006",
    "repghostnet_050",
    "repvit_m1",
    "resnest14d",
    "resnet10t",
    "resnetv2_18",
    "rexnet_130",
    "shvit_s2",
    "skresnet18",
    "starnet_s100",
    "swiftformer_xs",
    "tiny_vit_5m_224",
    "visformer_tiny",
    "test_vit3",
    "vit_tiny_r_s16_p8_384",
    "test_vit_relpos",
    "ese_vovnet19b_slim_dw",
    "xcit_tiny_24_p16_384",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[dict, spec.Data]:
    """A study without its zoo, and its images, written."""
    folder = tmp_path_factory.mktemp("architectures")
    random = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 4)):
        for number in range(count):
            path = folder / part / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(path)
    content = {
        "name": "architectures",
        "data": {
            "images": {
                "source": "image_folder",
                "train": str(folder / "train"),
                "test": str(folder / "test"),
            },
            "splits": {"transfer": 1.0},
        },
        "pairs": [["student", "teacher"]],
        "methods": {"kl_dp": {"lr": 1e-3}},
        "budget": {"epochs": 1, "batch_size": 4},
        "folders": {name: str(folder / name) for name in ("data", "zoo", "outputs", "results")},
    }
    files.prepare(spec.Images.model_validate(content["data"]["images"]), folder / "data")
    return content


def written(name: str, path: Path) -> Path:
    """A file of weights that are not trained, but whose BatchNorm knows what it is shown.

    Else what some say of an image, layer upon layer, is beyond float16.
    """
    torch.manual_seed(0)
    model = spec.Model(name=name, timm=name, family="cnn", weights=spec.Random(seed=0))
    classifier = zoo.build(model, 2).train()
    for module in classifier.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean of all that was shown
    with torch.no_grad():
        for _ in range(2):
            classifier(torch.randint(0, 256, (4, 3, 256, 256), dtype=torch.uint8))
    torch.save({"state_dict": classifier.network.state_dict(), "arch": name}, path)
    return path


@pytest.mark.parametrize("name", DRAWN)
def test_a_trial_of_an_architecture(place, name, tmp_path):
    teacher = {"timm": "tiny_mixer", "family": "mlp", "weights": {"source": "seed", "seed": 0}}
    kept = {"source": "file", "path": str(written(name, tmp_path / "weights.pth"))}
    student = {"timm": name, "family": "cnn", "weights": kept}
    study = spec.Study.model_validate({**place, "zoo": {"student": student, "teacher": teacher}})
    zoo.check_names(study)
    zoo.check_builds(study)
    workspace = Workspace(study.data, study.folders, "cpu", threads=2, keep=0)
    (trial,) = study.trials()
    row = transfer.run(trial, workspace).row
    assert row["status"] == "ok"
    assert row["student_weights"] != row["student_weights_after"]
    assert np.isfinite(row["student_negative_log_likelihood_after"])
