"""What frozen models say: kept or live it is the same; whether it is kept is counted by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from study import evaluate, frozen, spec, transfer
from study.images.batches import Crop
from study.models import zoo
from study.models.timm_import import timm
from study.store import outputs, storage
from study.transforms import parse
from study.views import View
from study.workspace import Workspace
from tests.study.trials import budget as budgeted
from tests.study.trials import changed as changed_trial
from tests.study.trials import elsewhere, method, trial_of


@pytest.fixture
def study(base, tmp_path) -> spec.Study:
    return spec.Study.model_validate(base).absolute()


def changed(study: spec.Study, **budget) -> spec.Study:
    content = study.budget.model_dump() | budget
    return study.model_copy(update={"budget": spec.Budget.model_validate(content)})


def decide(study: spec.Study) -> frozen.Decision:
    return frozen.decide(study, study.trials(), 100, 10)


def test_passes_are_counted(study):
    """Two pairs of two models; kl and xe_kl_mcl need the teacher, either KL+DP also the frozen student."""
    decision = decide(study)
    assert decision.live_passes == 2 * 2 * (1 + 1 + 2 + 2)  # epochs, pairs, models of each method
    assert decision.cached_passes == 2  # either model, through the crop both have
    assert decision.gib == pytest.approx(2 * outputs.size_of(100, 10, None) / 2**30)
    assert decision.transfer == "cached"
    assert "2 forward passes over the transfer set, not 24" in str(decision)


def test_each_crop_and_each_view_is_another_pass(study):
    for transforms, passes in {
        ("flip",): 2,
        ("flip", "grayscale"): 2,  # four ways, but two epochs
        ("flip", "mixup"): 2,
    }.items():
        for epochs in (2, 3):
            many = passes if transforms == ("flip",) else epochs
            assert decide(changed(study, transforms=transforms, epochs=epochs)).cached_passes == 2 * many
    assert decide(changed(study, transforms=["flip", "grayscale"], epochs=9)).cached_passes == 2 * 4
    assert decide(changed(study, transforms=["flip"], epochs=1)).cached_passes == 2
    mixer = study.zoo["mixer"]
    cropped = mixer.model_copy(update={"config": mixer.config | {"crop_pct": 0.875}})
    assert zoo.crop_of(cropped) == Crop(0.875)
    other = study.model_copy(update={"zoo": study.zoo | {"mixer": cropped}})
    assert decide(other).cached_passes == 4  # students with crops of their own, each with two models


def test_what_no_trials_share_runs_live(study):
    alone = study.model_copy(update={"methods": {"kl": study.methods["kl"]}, "pairs": [("mixer", "resnet")]})
    decision = decide(changed(alone, transforms=["flip"]))
    assert (decision.transfer, decision.live_passes, decision.cached_passes) == ("live", 2, 2)
    assert str(decision).startswith("live: no two trials share a forward pass")
    assert decide(alone).transfer == "cached"  # two epochs share one
    seeds = changed(alone, transforms=["flip"]).model_copy(update={"seeds": [0, 1]})
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
    model = spec.Model(timm=timm, family="cnn", weights=spec.Random(seed=0), name="a")
    assert zoo.crop_of(model) == zoo.build(model, 10).crop


def test_the_papers_subset_on_disk():
    """128,117 images of 1,000 classes, float16, mirrored or not; from timm's own configurations."""
    study = spec.load(Path(__file__).parents[2] / "studies" / "paper_subset10.yaml")
    study = study.model_copy(update={"outputs": spec.FrozenOutputs(transfer="cached")})
    decision = frozen.decide(study, study.trials(), 128_117, 1000)

    def crop(name):
        config = timm.get_pretrained_cfg(study.zoo[name].timm)
        return config.crop_pct, config.crop_mode

    pairs = [(s, t) for s in study.pairs.students for t in study.pairs.teachers if s != t]
    assert len(pairs) == 399
    files = {(teacher, crop(student)) for student, teacher in pairs} | {(s, crop(s)) for s, _ in pairs}
    assert decision.cached_passes == 2 * len(files)
    # Of six methods five have a teacher, two the frozen student too; 20 epochs each.
    assert decision.live_passes == 20 * 399 * (3 * 1 + 2 * 2)
    assert decision.gib == pytest.approx(2 * len(files) * 128_117 * (2 * 1000 + 8) / 2**30)
    assert f"{decision.gib:.0f}" == "47"


@pytest.mark.parametrize(
    ("combine", "name", "live", "cached"),
    [
        ("parallel", "kl_dp", 2 * 3, 3),
        ("sequential", "kl", 2 * 2, 2),
        ("sequential", "kl_dp", 2 * (2 + 2), 4),  # each stage has a frozen student of its own
        ("soup", "kl_dp", 0, 0),  # its students are other trials
    ],
)
def test_several_teachers_are_counted(study, combine, name, live, cached):
    third = study.zoo["resnet"].model_copy(update={"name": "third", "weights": spec.Random(seed=0)})
    study = study.model_copy(update={"zoo": study.zoo | {"third": third}})
    trial = changed_trial(trial_of(study, name), teachers=(study.zoo["resnet"], third), combine=combine)
    decision = frozen.decide(study, [trial], 100, 10)
    assert (decision.live_passes, decision.cached_passes) == (live, cached)


def test_features_take_room_of_their_own(study):
    trial = method(trial_of(study, "kl"), method="tests.study.own.matching", lr=1.0)
    decision = frozen.decide(study, [trial], 100, 10)
    assert decision.cached_passes == 1
    assert decision.gib == pytest.approx(outputs.size_of(100, 10, None, 2048) / 2**30)
    own = method(trial_of(study, "kl"), method="tests.study.own.small_features", lr=1.0)
    decision = frozen.decide(study, [own], 100, 10)
    assert decision.gib == pytest.approx(outputs.size_of(100, 10, None) / 2**30)  # the student's are not kept
    both = frozen.decide(study, [trial, trial_of(study, "kl")], 100, 10)
    assert both.cached_passes == 2  # a file with features, and one without


# --- what they say ------------------------------------------------------------------------------


VIEWS = {
    "as they are": ((), 3, 1),
    "mirrored": (("flip",), 3, 2),
    "mirrored or grey": (("flip", "grayscale"), 4, 4),
    "crops": (("flip", {"resized_crop": {"scale": [0.4, 0.9]}}), 3, 3),
    "mixed": (("flip", "cutmix"), 3, 3),
}


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize(("transforms", "epochs", "files"), VIEWS.values(), ids=VIEWS)
def test_what_is_kept_is_what_is_live(study, workspace, tmp_path, transforms, epochs, files, features):
    """To float16's precision, for each sample of every epoch, in any order; so many files keep it."""
    view = View(Crop(), tuple(map(parse, transforms)), seed=3)
    kept, live = elsewhere(workspace, tmp_path), elsewhere(workspace, tmp_path, cached=False)
    models = [
        frozen.Frozen(place, place.frozen(study.zoo["resnet"]), view, epochs, features)
        for place in (kept, live)
    ]
    models[1].prefetch()
    assert kept.store.entries() == []
    models[0].prefetch(begin=7)
    assert len(kept.store.entries()) == files
    samples = np.random.default_rng(0).permutation(workspace.splits["transfer"])
    for epoch in range(epochs):
        asked = [model.epoch(epoch) for model in models]
        for batch in kept.shown(view, "transfer").epoch(samples, 33, "cpu", epoch):
            (logits, pooled, _), (computed, own, _) = (ask(batch.pixels, batch.indices) for ask in asked)
            assert logits.dtype == computed.dtype == torch.float32
            torch.testing.assert_close(logits, computed, rtol=2e-3, atol=2e-3)
            if features:
                assert pooled.shape == (len(batch.indices), models[0].classifier.dim)
                torch.testing.assert_close(pooled, own, rtol=2e-3, atol=2e-3)
            else:
                assert pooled is own is None
    assert len(kept.store.entries()) == files


def test_mirrored_views_are_run_twice_for_all_epochs_seeds_and_methods(
    study, workspace, tmp_path, monkeypatch
):
    place = elsewhere(workspace, tmp_path)
    trials = [
        changed_trial(budgeted(trial_of(study, name), transforms=["flip"], epochs=epochs), seed=seed)
        for name, epochs, seed in (("kl_dp", 4, 0), ("kl_dp_unsupervised", 3, 1), ("kl", 2, 7))
    ]
    transfer.run(trials[0], place)
    files = [entry.model for entry in place.store.entries() if entry.split == "transfer"]
    assert sorted(files) == ["mixer", "mixer", "resnet", "resnet"]
    computed, stream = [], evaluate.stream
    monkeypatch.setattr(evaluate, "stream", lambda *a, **k: computed.append(a) or stream(*a, **k))
    for trial in trials[1:]:
        transfer.run(trial, place)
    assert len(computed) == 2  # the results, on the evaluation split


@pytest.mark.parametrize("transforms", [["mixup"], [{"cutmix": 0.5}], ["flip"]], ids=str)
def test_a_trial_learns_the_same_from_what_is_kept_and_live(study, workspace, transforms):
    trial = budgeted(trial_of(study, "kl_dp", "resnet"), transforms=transforms)
    live = elsewhere(workspace, cached=False)
    kept, computed = transfer.run(trial, workspace), transfer.run(trial, live)
    np.testing.assert_allclose(computed.history["loss"], kept.history["loss"], rtol=1e-4)
    assert (kept.predictions["student_after"] == computed.predictions["student_after"]).mean() > 0.99


def test_a_panel_asks_whom_the_method_reads(study, workspace):
    models = [workspace.frozen(study.zoo[name]) for name in ("mixer", "resnet")]
    student, teacher = models
    pixels = torch.zeros(4, 3, 28, 28, dtype=torch.uint8)
    indices = torch.from_numpy(workspace.splits["transfer"][:4])
    told = {}
    for name in ("xe", "kl", "kl_dp"):
        method = study.methods[name]
        panel = frozen.panel(workspace, method, View(Crop()), 1, student, [teacher, teacher])
        told[name] = {key for key, value in panel.epoch(0)(pixels, indices).items() if value is not None}
        if name == "kl_dp":
            said = panel.epoch(0)(pixels, indices)
            assert [len(said["teachers"]), said["teachers_features"]] == [2, (None, None)]
            assert torch.equal(said["teacher"], said["teachers"][0])
    teaching = {"teacher", "teachers", "teachers_features"}
    assert told == {"xe": set(), "kl": teaching, "kl_dp": teaching | {"frozen"}}


def test_live_answers_may_be_part_of_a_loss(study, workspace):
    live: Workspace = elsewhere(workspace, cached=False)
    asked = frozen.Frozen(live, live.frozen(study.zoo["mixer"]), View(Crop()), 1, features=True)
    pixels = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
    scale = torch.ones((), requires_grad=True)
    for said in asked.epoch(0)(pixels, torch.arange(2))[:2]:
        (scale * said).square().sum().backward()
    assert scale.grad > 0
    assert all(parameter.grad is None for parameter in asked.classifier.parameters())
