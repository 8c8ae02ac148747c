"""Losses of features against what the base of arXiv 2012.02909 gives, and the maps that they read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from study import distributed, frozen, objectives, spec, transfer
from study.errors import StudyError
from study.images.batches import Crop
from study.objectives import features
from study.views import View
from tests.study.trials import elsewhere, method, trial_of

OFFICIAL = json.loads((Path(__file__).parent / "good_da_parity.json").read_text())["other_losses"]["cases"]


def normal(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy((scale * np.random.RandomState(seed).standard_normal(shape)).astype(np.float32))


OWN = (normal(20, (6, 3, 8, 8)), normal(21, (6, 4, 4, 4)))  # maps of two stages
ITS = (normal(22, (6, 5, 4, 4)), normal(23, (6, 7, 4, 4)))
POOLED = (normal(26, (6, 5)), normal(27, (6, 9)))
STUDENT, TEACHER, LABELS = normal(28, (6, 4)), normal(29, (6, 4)), torch.arange(6) % 4


def value(name: str) -> float:
    return OFFICIAL[name]["value"]


def as_official(made: features.xe_kl_vid) -> features.xe_kl_vid:
    """With the weights of the official case."""
    with torch.no_grad():
        for number, layer in enumerate(made.predictors[0][::2]):
            layer.weight.copy_(normal(30 + number, tuple(layer.weight.shape), 0.3))
    return made


def test_attention_transfer_is_the_official_one():
    for own, its, expected in zip(OWN, ITS, OFFICIAL["attention (AT)"]["per_layer"], strict=True):
        assert float(features.attention_distance(own, its)) == pytest.approx(expected, rel=1e-5)


def test_similarity_of_samples_is_the_official_one():
    expected = value("similarity (SP)")
    assert float(features.similarity_distance(OWN[1], ITS[1])) == pytest.approx(expected, rel=1e-5)


def test_correlation_of_neighbours_is_the_official_one():
    found = features.correlation_of_neighbours(normal(24, (6, 8)), normal(25, (6, 8)))
    assert float(found) == pytest.approx(value("correlation (CC), after the embeddings"), rel=1e-5)


def test_divergence_of_similarities_is_the_official_one():
    assert float(features.similarity_divergence(*POOLED)) == pytest.approx(value("pkt (PKT)"), rel=1e-5)


def test_what_a_student_predicts_of_its_teachers_maps_is_the_official_loss():
    made = as_official(features.xe_kl_vid((3,), (5,), weight=0.0, beta=1.0))
    assert made.log_scales[0].tolist() == pytest.approx([OFFICIAL["vid (VID)"]["initial_log_scale"]] * 5)
    alone = made(STUDENT, TEACHER, LABELS, OWN[:1], ITS[:1]) - objectives.xe(STUDENT, LABELS)
    assert alone.item() == pytest.approx(value("vid (VID)"), rel=1e-5)


# --- whole objectives ---------------------------------------------------------------------------

MADE = {
    "student_dim": 5,
    "teacher_dim": 9,
    "student_channels": (3, 4),
    "teacher_channels": (5, 7),
    "sample_labels": torch.arange(12) % 4,
}
FEW = {"xe_kl_crd": {"negatives": 6}}  # settings of each, where the default is too large here
KNOWN = {
    "student": STUDENT,
    "teacher": TEACHER,
    "labels": LABELS,
    "indices": torch.arange(len(LABELS)),
    "student_features": POOLED[0],
    "teacher_features": POOLED[1],
    "student_maps": OWN,
    "teacher_maps": ITS,
}
NAMES = ["xe_kl_at", "xe_kl_sp", "xe_kl_cc", "xe_kl_crd", "xe_kl_pkt", "xe_kl_vid"]
every_one = pytest.mark.parametrize("name", NAMES)


def leaves(name: str) -> dict:
    """What an objective reads, as leaves of which gradients can be asked."""

    def leaf(tensor):
        if isinstance(tensor, tuple):
            return tuple(map(leaf, tensor))
        return tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor

    return {need: leaf(KNOWN[need]) for need in objectives.needs_of_one_input(objectives.OBJECTIVES[name])}


@every_one
def test_it_is_xe_kl_and_beta_times_a_loss_of_features(name):
    given = leaves(name)

    def loss(**settings):
        torch.manual_seed(0)
        return objectives.make(objectives.OBJECTIVES[name], FEW.get(name, {}) | settings, **MADE)(
            *given.values()
        ).item()

    tiny, one, two = (loss(beta=beta) for beta in (1e-12, 1.0, 2.0))
    expected = objectives.xe_kl(STUDENT, TEACHER, LABELS, weight=0.9, temperature=4.0)
    assert tiny == pytest.approx(float(expected), rel=1e-6)
    assert one != pytest.approx(tiny, rel=1e-4)
    assert two - one == pytest.approx(one - tiny, rel=1e-3)
    other = loss(beta=1e-12, weight=0.2, temperature=1.0)
    assert other == pytest.approx(float(objectives.xe_kl(STUDENT, TEACHER, LABELS, weight=0.2)), rel=1e-6)


@every_one
def test_of_a_second_input_the_teachers_outputs_are_imitated(name):
    given, copies = leaves(name), (normal(40, (6, 4)), normal(41, (6, 4)))
    losses = []
    for second in ((), copies):
        torch.manual_seed(0)
        made = objectives.make(objectives.OBJECTIVES[name], FEW.get(name, {}) | {"beta": 1.0}, **MADE)
        losses.append(made(*given.values(), *second).item())
    expected = 0.9 * objectives.kl(*copies, temperature=4.0)
    assert losses[1] - losses[0] == pytest.approx(float(expected), rel=1e-4)
    told = {"method": name, "lr": 0.1}
    plain = spec.Method.model_validate(told)
    second = spec.Method.model_validate(told | {"augmentation": {"transforms": ["cutmix"]}})
    assert second.needs == (*plain.needs, "student_augmented", "teacher_augmented")


@every_one
def test_gradients_reach_the_student_and_what_is_made_and_no_teacher(name):
    given = leaves(name)
    made = objectives.make(objectives.OBJECTIVES[name], FEW.get(name, {}), **MADE)
    made(*given.values()).backward()
    for need, leaf in given.items():
        for tensor in leaf if isinstance(leaf, tuple) else (leaf,):
            if "teacher" in need or need in ("labels", "indices"):
                assert tensor.grad is None, need
            elif name != "xe_kl_sp" or tensor is not given["student_maps"][0]:  # it reads the last stage
                assert tensor.grad.abs().sum() > 0, need
    for parameter in made.parameters() if isinstance(made, torch.nn.Module) else ():
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["xe_kl_at", "xe_kl_vid"])
def test_stages_are_paired_from_the_last_one_back(name):
    def loss(own, its, **settings):
        sides = {"student_channels": own, "teacher_channels": its}
        made_with = {name: tuple(one.shape[1] for one in maps) for name, maps in sides.items()}
        torch.manual_seed(0)
        made = objectives.make(objectives.OBJECTIVES[name], settings, **made_with)
        return made(STUDENT, TEACHER, LABELS, own, its).item()

    deeper = (normal(50, (6, 2, 16, 16)), *OWN)
    assert loss(deeper, ITS) == loss(OWN, ITS) != loss(deeper, (ITS[0], *ITS))
    assert loss(OWN, ITS, stages=1) == loss(OWN[1:], ITS[1:]) != loss(OWN, ITS)


# --- what is asked of networks ------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


@pytest.mark.parametrize(("name", "stages"), [("mixer", 1), ("resnet", 5)])
def test_maps_are_of_the_pass_that_logits_are_of(study, workspace, name, stages):
    classifier = workspace.frozen(study.zoo[name])
    pixels, *_ = next(iter(workspace.batches(classifier.crop).epoch(workspace.splits["evaluation"], 8)))
    with torch.no_grad():
        logits, pooled, maps = classifier.with_maps(pixels)
        expected = classifier.with_features(pixels)
    torch.testing.assert_close((logits, pooled), expected)
    assert len(maps) == stages and all(one.shape[0] == 8 and one.dim() == 4 for one in maps)
    assert classifier.channels == tuple(one.shape[1] for one in maps)
    assert not classifier.training
    torch.testing.assert_close(maps[-1].mean((2, 3)).shape, pooled.shape)


def test_a_network_without_maps_is_a_sentence(study, workspace):
    classifier = workspace.student(study.zoo["mixer"])
    classifier.network = torch.nn.Linear(1, 1)
    with pytest.raises(StudyError, match=r"zoo.mixer: timm gives no maps of 'tiny_mixer', .* choose another"):
        classifier.with_maps(torch.zeros(1, 3, 28, 28, dtype=torch.uint8))


def test_maps_are_asked_live_where_all_else_is_kept(study, workspace):
    """And the trial is that of a workspace which keeps nothing, to float16's precision."""
    maps = method(trial_of(study, "kl"), method="xe_kl_at", lr=0.01)
    kept, live = workspace, elsewhere(workspace, cached=False)
    losses = [transfer.run(maps, place).history["loss"] for place in (kept, live)]
    assert kept.cached and losses[0] == losses[1]
    needs = frozen.panel(
        kept, maps.method, View(Crop()), 2, kept.frozen(maps.student), [kept.frozen(maps.teachers[0])]
    )
    assert [one.cached for one in needs.teachers] == [False]


def test_maps_are_never_kept_in_the_count(study):
    one = trial_of(study, "kl")
    maps, pooled = (method(one, method=name, lr=0.01) for name in ("xe_kl_at", "xe_kl_pkt"))
    epochs = one.budget.epochs
    counted = [frozen.decide(study, [*trials], 100, 10) for trials in ([pooled], [pooled, maps], [maps])]
    assert (counted[0].live_passes, counted[0].cached_passes) == (epochs, 1)  # one view, shown in each
    assert (counted[2].live_passes, counted[2].cached_passes) == (epochs, epochs)
    assert counted[2].gib == 0 < counted[0].gib == counted[1].gib
    assert (counted[1].live_passes, counted[1].cached_passes) == (2 * epochs, 1 + epochs)


def test_a_study_that_keeps_outputs_cannot_read_maps(base):
    content = base | {"outputs": "cached", "methods": {"at": {"method": "xe_kl_at", "lr": 0.1}}}
    with pytest.raises(ValidationError, match=r"outputs.transfer: 'cached', but 'methods.at' .* 'auto'"):
        spec.Study.model_validate(content)
    spec.Study.model_validate(content | {"outputs": "auto"})


@pytest.mark.parametrize("name", [name for name in NAMES if name != "xe_kl_crd"])
def test_several_workers_can_share_it(name):
    """It keeps nothing of the samples that it has seen."""
    distributed.check_objective(spec.Method.model_validate({"method": name, "lr": 0.1}), "one")


@pytest.mark.parametrize("name", ["xe_kl_vid", "xe_kl_pkt"])
def test_a_trial_with_a_second_input_reads_features_of_the_first(study, workspace, name):
    plain = method(trial_of(study, "kl"), method=name, lr=0.01)
    second = method(plain, method=name, lr=0.01, augmentation={"transforms": ["cutmix"]})
    rows = [transfer.run(trial, workspace).row for trial in (plain, second)]
    assert [row["augmentation"] for row in rows] == [None, "cutmix"]
    assert rows[0]["student_weights_after"] != rows[1]["student_weights_after"]
