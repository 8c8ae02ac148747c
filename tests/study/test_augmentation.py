"""The second input: what it is and depends on, and what a trial with one learns and records."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from study import distributed, frozen, learner, objectives, schemes, spec, transfer
from study.augmentation import SecondInput, as_evaluated
from study.errors import StudyError
from study.images.batches import Crop
from study.store.checkpoints import Checkpoint
from study.transforms import parse
from study.views import Augmented, View
from tests.study.trials import Interrupted, assert_same, budget, elsewhere, method, trial_of, until

SCHEMES = {
    "identity": [],
    "flip": ["flip"],
    "flip and shift": [{"shift": 2}, "flip"],
    "cutout": [{"cutout": 7}],
    "autoaugment": ["autoaugment"],
    "mixup": [{"mixup": 1}],
    "cutmix": [{"cutmix": {"sides": "even"}}],
    "shifted cutmix": [{"shift": 2}, "cutmix"],
}
every = pytest.mark.parametrize("names", SCHEMES.values(), ids=SCHEMES)


@pytest.fixture
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


def view_of(names=("flip",), seed=3) -> View:
    return View(Crop(), tuple(map(parse, names)), seed)


def copies(workspace, names, order, size, *, epoch=1, numbers=1, alike=False, base=("flip",)):
    """Pixels, indices and copies of all batches of an epoch, in batches of a size."""
    view, transforms = view_of(base), tuple(map(parse, names))
    shown = workspace.shown(view, "transfer")
    loader = Augmented(shown, tuple(view.copy(transforms, k) for k in range(numbers)), alike)
    batches = list(loader.epoch(order, size, "cpu", epoch))
    assert [len(batch.augmented) for batch in batches] == [numbers * len(b.indices) for b in batches]
    parts = [torch.cat([getattr(batch, name) for batch in batches]) for name in ("pixels", "indices")]
    kinds = zip(*(batch.augmented.split(len(batch.indices)) for batch in batches), strict=True)
    return *parts, *map(torch.cat, kinds)


# --- views of views -----------------------------------------------------------------------------


@every
def test_copies_do_not_depend_on_batch_or_order(workspace, names):
    order = workspace.splits["transfer"]
    pixels, indices, *whole = copies(workspace, names, order, 64, numbers=2)
    shuffled = np.random.default_rng(0).permutation(len(order))
    other_pixels, other, *others = copies(workspace, names, order[shuffled], 7, numbers=2)
    assert torch.equal(other, indices[shuffled]) and torch.equal(other_pixels, pixels[shuffled])
    for mine, theirs in zip(whole, others, strict=True):
        assert torch.equal(theirs, mine[shuffled])
    if names:
        assert not torch.equal(*whole)  # two candidates are two draws
        assert not torch.equal(whole[0], copies(workspace, names, order, 64, epoch=2)[2])
    else:
        assert torch.equal(whole[0], pixels)


@every
def test_a_view_of_a_view_shows_the_same_wherever_it_is_loaded(workspace, names):
    """For what frozen models are asked, and for the student."""
    order = workspace.splits["transfer"]
    view = view_of().copy(tuple(map(parse, names)))
    shown = torch.cat([b.pixels for b in workspace.shown(view, "transfer").epoch(order, 50, "cpu", 1)])
    assert torch.equal(shown, copies(workspace, names, order, 32)[2])


def test_copies_of_other_views_are_kept_in_other_files(study, workspace, tmp_path):
    """Whether in epochs or in variants; those of what is shown as it is are a view like any other."""
    place, model = elsewhere(workspace, tmp_path), workspace.frozen(study.zoo["resnet"])

    def files(base, names, **which):
        view = view_of(base).copy(tuple(map(parse, names)))
        place.outputs(model, "transfer", view, **which)
        return len(place.store.entries())

    assert files(["flip"], ["cutmix"], epoch=1) == 1
    assert files(["flip"], ["cutmix"], epoch=2) == 2
    assert files([], ["cutmix"], epoch=1) == 3
    assert files([{"shift": 1}], ["cutmix"], epoch=1) == 4
    assert files(["flip"], ["cutmix"], epoch=1) == 4
    assert files(["flip"], ["grayscale"], variant=1) == 5
    assert files([], ["grayscale"], variant=1) == 6


@pytest.mark.parametrize("names", [["flip"], [{"shift": 1}, "flip"], ["grayscale"]], ids=str)
def test_variants_of_a_view_of_a_view_are_what_it_shows(workspace, names):
    order = workspace.splits["transfer"]
    view = view_of().copy(tuple(map(parse, names)))
    assert view.variants == 2 * np.prod([parse(name).variants for name in names])
    _, indices, copy = copies(workspace, names, order, 50)
    numbers = view.variant(indices, 1)
    for number in numbers.unique().tolist():
        shown = workspace.shown(view, "transfer", number).epoch(order, 50, "cpu")
        of_all = torch.cat([batch.pixels for batch in shown])
        assert torch.equal(of_all[numbers == number], copy[numbers == number])


def test_a_copy_that_is_mirrored_is_mirrored_by_draws_of_its_own(workspace):
    view = view_of()
    copy = view.copy(view.transforms)
    indices = torch.arange(4000)
    first, second = (one.drawn(parse("flip"), 1, indices).double() for one in (view, copy))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    third = view.copy(view.transforms, 1).drawn(parse("flip"), 1, indices).double()
    assert abs(np.corrcoef(third, second)[0, 1]) < 0.06
    assert view.copy(()) is view


def test_partners_are_others_as_the_student_sees_them(workspace):
    order = workspace.splits["transfer"]
    pixels, indices, copy = copies(workspace, [{"mixup": 1}], order, 30)
    view = view_of().copy((parse({"mixup": 1}),))
    shares = view.drawn(view.mix, 1, indices)[:, None, None, None]
    partners = view.partners(order, 1, order)
    assert (partners != order).all()
    others = pixels[np.searchsorted(order, partners)].float()
    blend = shares * pixels.float() + (1 - shares) * others
    assert (copy.float() - blend).abs().max() <= 0.51


@pytest.mark.parametrize("names", [["flip"], ["autoaugment"], [{"cutout": 9}], ["cutmix"]], ids=str)
def test_draws_of_a_batch_are_all_samples_draws(workspace, names):
    """One decision for all, which another order or size changes; partners are a rotation of the batch."""
    order = workspace.splits["transfer"][:48]
    pixels, _, copy = copies(workspace, names, order, 16, alike=True)
    view = view_of().copy(tuple(map(parse, names)))
    (transform,) = view.transforms
    for start in (0, 16, 32):
        part, seen = pixels[start : start + 16], copy[start : start + 16]
        drawn = view.drawn(transform, 1, torch.full((16,), int(order[start])))
        if view.mix is None:
            assert torch.equal(seen, transform.show(part, drawn))
        else:
            rotations = [transform.mix(part, part.roll(k, 0), drawn)[0] for k in range(1, 16)]
            assert sum(torch.equal(seen, one) for one in rotations) >= 1
    other = copies(workspace, names, np.roll(order, 5), 16, alike=True)[2].roll(-5, 0)
    assert not torch.equal(other, copy)


# --- what is picked ---------------------------------------------------------------------------------


def test_scoring_moves_nothing_of_a_student(study, workspace):
    student = workspace.student(study.zoo["resnet"]).train()
    student.head.eval()
    before = {name: tensor.clone() for name, tensor in learner.tensors(student).items()}
    with as_evaluated(student), torch.no_grad():
        student(torch.randint(256, (8, 3, 28, 28), dtype=torch.uint8))
        assert not any(part.training for part in student.modules())
    assert student.training and not student.head.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.tensors(student).items())


@pytest.mark.parametrize("pick", ["teacher_entropy", "student_entropy", "kl"])
def test_the_candidates_with_the_largest_scores_are_kept(study, workspace, pick):
    models = {name: workspace.frozen(study.zoo[name]) for name in ("mixer", "resnet")}
    content = {"transforms": ["cutmix"], "pick": pick, "pool": 3}
    second = SecondInput(workspace, spec.Augmentation.model_validate(content), view_of(), 2, models["resnet"])
    loader = second.loader(workspace.shown(view_of(), "transfer"))
    ask, sizes = second.epoch(0, models["mixer"]), []
    for batch in distributed.parts(loader, workspace.splits["transfer"], 32, torch.device("cpu"), 0):
        said = ask(batch, torch.zeros(len(batch.indices), 10))
        with torch.no_grad():
            log_t, log_s = (models[name](batch.augmented).log_softmax(1) for name in ("resnet", "mixer"))
            softer = [(one / 4).log_softmax(1) for one in (log_t, log_s)]
        scores = {
            "teacher_entropy": -(log_t.exp() * log_t).sum(1),
            "student_entropy": -(log_s.exp() * log_s).sum(1),
            "kl": (softer[0].exp() * (softer[0] - softer[1])).sum(1),
        }[pick]
        count = len(batch.indices)
        rows = {pixels.numpy().tobytes() for pixels in batch.augmented[scores.topk(count).indices]}
        kept = {pixels.numpy().tobytes() for pixels in said["augmented"]}
        assert len(rows - kept) <= 1  # outputs are looked up in float16: next to the edge one may be another
        torch.testing.assert_close(
            said["teacher_augmented"].log_softmax(1),
            models["resnet"](said["augmented"]).log_softmax(1).detach(),
            atol=5e-3,
            rtol=5e-3,
        )
        sizes.append(len(said["augmented"]))
    assert sizes == [32, 32, 32, 4]


# --- a trial ----------------------------------------------------------------------------------------


def augmented(study, names=("cutmix",), student="resnet", epochs=3, **more) -> spec.Trial:
    """A trial of the small study with a second input."""
    content = {"transforms": list(names), **more}
    trial = method(trial_of(study, "kl", student), method="xe_kl_augmented", lr=1e-2, augmentation=content)
    return budget(trial, epochs=epochs, batch_size=10, transforms=["flip"])


MEASURES = [
    *("teacher_stddev", "teacher_stddev_error", "teacher_stddev_windows", "teacher_stddev_samples"),
    *("teacher_stddev_augmented", "teacher_covariance"),
    *("teacher_entropy", "teacher_entropy_augmented", "teacher_entropy_stddev"),
]


@pytest.mark.parametrize(
    ("names", "more"),
    [([], {}), (["autoaugment"], {}), (["cutmix"], {}), (["cutmix"], {"pick": "teacher_entropy"})],
    ids=str,
)
def test_a_trial_learns_the_same_from_what_is_kept_and_live(study, workspace, tmp_path, names, more):
    trial = augmented(study, names, "mixer", **more)
    kept = transfer.run(trial, elsewhere(workspace, tmp_path))
    live = transfer.run(trial, elsewhere(workspace, cached=False))
    rtol = 1e-4 if not more else 0.05  # another one may be picked
    np.testing.assert_allclose(live.history["loss"], kept.history["loss"], rtol=rtol)
    for name in MEASURES:
        assert live.row[name] == pytest.approx(kept.row[name], rel=1e-3 if not more else 0.05), name


@pytest.mark.parametrize(
    "more",
    [{}, {"draw": "batch"}, {"pick": "teacher_entropy"}, {"pick": "student_entropy"}, {"pick": "kl"}],
    ids=str,
)
def test_a_trial_is_the_same_interrupted_or_not(study, workspace, tmp_path, more):
    """Windows too: of 10 batches an epoch, of which an interruption must lose none."""
    trial = augmented(study, **more)
    trial = budget(trial, batch_size=14)  # eight batches an epoch, so that windows go over its end
    whole = transfer.run(trial, workspace)
    assert whole.row["teacher_stddev_windows"] == 4
    location = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        transfer.run(trial, workspace, until(2), Checkpoint(location, trial.id))
    assert location.exists()
    assert_same(transfer.run(trial, workspace, checkpoint=Checkpoint(location, trial.id)), whole)


def test_a_trial_says_what_its_second_input_was(study, workspace):
    row = transfer.run(augmented(study, [{"shift": 2}, "cutmix"], pick="kl"), workspace).row
    assert [row[f"augmentation{part}"] for part in ("", "_pick", "_draw")] == [
        "shift, cutmix",
        "kl",
        "sample",
    ]
    assert row["student_source"] == "trained"
    assert row["teacher_stddev_windows"] == 6 and row["teacher_stddev_samples"] == 100
    assert all(row[name] > 0 for name in MEASURES if name != "teacher_covariance")
    again = transfer.run(augmented(study, []), workspace).row
    assert again["augmentation"] == "identity" and again["augmentation_pick"] is None
    assert again["teacher_stddev"] == pytest.approx(again["teacher_stddev_augmented"])
    assert again["teacher_covariance"] > 0
    plain = transfer.run(trial_of(study, "kl"), workspace).row
    assert all(plain.get(name) is None for name in (*MEASURES, "augmentation", "augmentation_draw"))


def test_windows_are_those_of_the_job_before_any_training(study, workspace):
    trial = augmented(study, ["cutmix"], "mixer", pick="teacher_entropy")
    row = transfer.run(trial, workspace).row
    view = View(workspace.frozen(trial.student).crop, trial.budget.transforms, trial.budget.view_seed)
    found = schemes.measured(
        workspace,
        trial.method.augmentation,
        view,
        workspace.frozen(trial.teachers[0]),
        batch_size=10,
        epochs=3,
        seed=trial.seed,
    )
    assert found == {name: row[name] for name in MEASURES}


def test_the_loss_is_that_of_two_passes_by_hand(study, workspace):
    """The first step of a trial, with batch norm of each input by itself."""
    trial = budget(augmented(study, ["cutmix"]), epochs=1, batch_size=100)
    student = workspace.student(trial.student).train()
    teacher = workspace.frozen(trial.teachers[0])
    view = View(student.crop, trial.budget.transforms, trial.budget.view_seed)
    order = np.random.default_rng((trial.seed, 0)).permutation(workspace.splits["transfer"])
    shown = workspace.shown(view, "transfer")
    (batch,) = Augmented(shown, trial.method.augmentation.views(view)).epoch(order, 100, "cpu", 0)
    with torch.no_grad():
        expected = objectives.OBJECTIVES["xe_kl_augmented"](
            student(batch.pixels),
            teacher(batch.pixels),
            batch.targets,
            student(batch.augmented),
            teacher(batch.augmented),
        )
    found = transfer.run(trial, workspace).history["loss"][0]
    assert found == pytest.approx(float(expected), rel=2e-3)


def test_copies_are_counted_among_what_is_kept(study):
    trial = augmented(study, ["cutmix"], epochs=4)
    both = frozen.decide(study, [trial, trial.model_copy(update={"seed": 1})], 100, 10)
    assert (both.live_passes, both.cached_passes) == (2 * (4 + 4), 2 + 4)
    assert both.transfer == "cached"
    picked = frozen.decide(study, [augmented(study, ["cutmix"], epochs=4, pick="kl")], 100, 10)
    assert (picked.live_passes, picked.cached_passes) == (4 + 8, 2 + 8)
    identity = frozen.decide(study, [augmented(study, [], epochs=4)], 100, 10)
    assert (identity.live_passes, identity.cached_passes) == (4 + 4, 2)
    alike = frozen.decide(study, [augmented(study, ["cutmix"], epochs=4, draw="batch")], 100, 10)
    assert (alike.live_passes, alike.cached_passes) == (4 + 4, 2 + 4)


# --- mistakes ---------------------------------------------------------------------------------------


def with_method(base, **content) -> dict:
    own = {"method": "xe_kl_augmented", "lr": 0.01, **content}
    return base | {"methods": {"own": own}}


@pytest.mark.parametrize(
    ("content", "changes", "said"),
    [
        ({"augmentation": {"transforms": ["cutmx"]}}, {}, "did you mean 'cutmix'?"),
        ({"augmentation": {"pick": "entropy"}}, {}, "input should be 'teacher_entropy'"),
        ({"augmentation": {"pick": "kl", "pool": 1}}, {}, "of one candidate there is none to pick"),
        ({"augmentation": {"pool": 3}}, {}, "candidates are for 'pick'"),
        ({"augmentation": {"draw": "batch"}}, {"outputs": "cached"}, "set outputs to 'live' or 'auto'"),
        ({}, {}, "'xe_kl_augmented' reads a second input; say what happens to it"),
        ({"method": "kl", "augmentation": {}}, {}, "'kl' reads no second input; leave it out"),
        (
            {"augmentation": {}},
            {"budget": {"epochs": 1, "batch_size": 8, "transforms": ["flip", "mixup"]}},
            "copies are of whole images; leave 'mixup' out of budget.transforms",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_told(base, write_study, content, changes, said):
    with pytest.raises(StudyError, match=r"methods\.own") as error:
        spec.load(write_study(with_method(base, **content) | changes))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_several_workers_have_no_draws_of_one_batch(base):
    content = with_method(base, augmentation={"draw": "batch"}) | {"resources": {"workers": 2}}
    with pytest.raises(StudyError, match=r"methods\.own\.augmentation\.draw: several workers"):
        distributed.check(spec.Study.model_validate(content))


def test_the_list_of_transforms_is_not_searched(base):
    content = with_method(base, augmentation={"transforms": ["flip", "cutmix"]}, weight=[0.5, 0.9])
    content |= {"search": {}, "data": base["data"] | {"splits": {"zoo": 0.5, "transfer": 50, "tune": 50}}}
    found = spec.Study.model_validate(content).methods
    assert sorted(found) == ["own-weight0.5", "own-weight0.9"]
    assert all(one.augmentation.name == "flip, cutmix" for one in found.values())


def test_a_trial_with_a_second_input_survives_json(study):
    trial = augmented(study, [{"shift": 2}, "cutmix"], pick="kl")
    assert spec.Trial.model_validate_json(trial.model_dump_json()).id == trial.id
    assert augmented(study, [{"shift": 2}, "cutmix"], pick="kl", pool=3).id != trial.id
    with pytest.raises(ValidationError):
        spec.Augmentation(transforms=["cutmix", "flip"])
