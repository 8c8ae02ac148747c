"""Whether frozen models' outputs are kept: counted by hand, weighed against the disk, told in a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from study import reuse, spec
from study.images.batches import Crop
from study.models import zoo
from study.store import outputs, storage


@pytest.fixture
def study(base, tmp_path) -> spec.Study:
    return spec.Study.model_validate(base).absolute()


def changed(study: spec.Study, **budget) -> spec.Study:
    return study.model_copy(update={"budget": study.budget.model_copy(update=budget)})


def decide(study: spec.Study) -> reuse.Decision:
    return reuse.decide(study, study.trials(), 100, 10)


def test_passes_are_counted(study):
    """Two pairs of two models; kl and xe_kl_mcl need the teacher, either KL+DP also the frozen student."""
    decision = decide(study)
    assert decision.live_passes == 2 * 2 * (1 + 1 + 2 + 2)  # epochs, pairs, models of each method
    assert decision.cached_passes == 2  # either model, through the crop both have
    assert decision.gib == pytest.approx(2 * outputs.size_of(100, 10, None) / 2**30)
    assert decision.transfer == "cached"
    assert "2 forward passes over the transfer set, not 24" in str(decision)


def test_each_crop_and_each_view_is_another_pass(study):
    assert decide(changed(study, flip=True)).cached_passes == 2 * 2
    mixer = study.zoo["mixer"]
    cropped = mixer.model_copy(update={"config": mixer.config | {"crop_pct": 0.875}})
    assert zoo.crop_of(cropped) == Crop(0.875)
    other = study.model_copy(update={"zoo": study.zoo | {"mixer": cropped}})
    assert decide(other).cached_passes == 4  # students with crops of their own, each with two models


def test_what_no_trials_share_runs_live(study):
    alone = study.model_copy(update={"methods": {"kl": study.methods["kl"]}, "pairs": [("mixer", "resnet")]})
    decision = decide(changed(alone, flip=True))
    assert (decision.transfer, decision.live_passes, decision.cached_passes) == ("live", 2, 2)
    assert str(decision).startswith("live: no two trials share a forward pass")
    assert decide(alone).transfer == "cached"  # two epochs share one
    seeds = changed(alone, flip=True).model_copy(update={"seeds": [0, 1]})
    assert decide(seeds).transfer == "cached"


def test_a_disk_without_room_means_live(study, monkeypatch):
    asked = []
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: asked.append(folder) or SimpleNamespace(free=5000)
    )
    decision = decide(study)
    assert decision.transfer == "live"
    assert str(decision).startswith("live: cached would take")
    assert all(folder.exists() for folder in asked)


def test_at_a_url_the_nodes_cache_is_the_limit(study):
    url = storage.at("s3://bucket/outputs?region=eu-west-1")
    small = study.folders.model_copy(update={"outputs": url, "cache_gib": 1e-6, "cache": Path("cache")})
    assert decide(study.model_copy(update={"folders": small})).transfer == "live"
    large = small.model_copy(update={"cache_gib": 1.0})
    assert decide(study.model_copy(update={"folders": large})).transfer == "cached"


@pytest.mark.parametrize("asked", ["cached", "live"])
def test_a_study_that_says_it_is_obeyed(base, asked):
    decision = decide(spec.Study.model_validate(base | {"outputs": asked}))
    assert decision.transfer == asked
    assert str(decision).startswith(f"{asked}, as the study says")


@pytest.mark.parametrize("name", ["mixer", "resnet"])
def test_a_crop_is_known_without_building_the_model(study, name):
    assert zoo.crop_of(study.zoo[name]) == zoo.build(study.zoo[name], 10).crop


@pytest.mark.parametrize("timm", ["mixer_b16_224.miil_in21k_ft_in1k", "resnet10t", "pit_xs_224", "dla34"])
def test_timms_own_crops_are_known(timm):
    model = spec.Model(timm=timm, family="cnn", untrained=0, name="a")
    assert zoo.crop_of(model) == zoo.build(model, 10).crop
