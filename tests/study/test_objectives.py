"""Losses against closed forms, who teaches which sample against a loop, and the contract of objectives."""

import functools
import importlib
import itertools
import math
import textwrap

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import BaseModel, ValidationError
from scipy.special import rel_entr
from torch import nn

from study import mistakes, objectives, spec
from study.objectives import partition
from study.objectives.contract import made_with

quick = settings(deadline=None, max_examples=25)
TEMPERATURES = [0.5, 1.0, 2.0, 7.0]
WEIGHT = 0.3
LOSSES = {
    "kl": lambda student, teacher, labels: objectives.kl(student, teacher, temperature=2.0),
    "xe": lambda student, teacher, labels: objectives.xe(student, labels),
    "xe_kl": functools.partial(objectives.xe_kl, weight=WEIGHT, temperature=2.0),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@st.composite
def logits_and_labels(draw, step=None):
    """Student's and teacher's logits, float32 [batch, classes], and labels; multiples of `step` if given."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(2, 6)))
    values = st.floats(-8, 8, width=32) if step is None else st.integers(-16, 16).map(lambda k: k * step)
    student, teacher = (
        torch.from_numpy(draw(arrays.arrays("float32", shape, elements=values))) for _ in range(2)
    )
    labels = draw(st.lists(st.integers(0, shape[1] - 1), min_size=shape[0], max_size=shape[0]))
    return student, teacher, torch.tensor(labels)


@pytest.fixture
def batch():
    """A fixed batch: student's logits, teacher's logits, labels."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 5, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(5, (6,), generator=generator)


def kl_of_torch(student, teacher, temperature):
    """`nn.KLDivLoss` in float64 on probabilities of the teacher."""
    student, teacher = student.double() / temperature, teacher.double() / temperature
    return temperature**2 * nn.KLDivLoss(reduction="batchmean")(
        student.log_softmax(dim=1), teacher.softmax(dim=1)
    )


def kl_of_scipy(student, teacher, temperature):
    """Σ p log(p / q) a sample, in float64."""
    student, teacher = ((x.double() / temperature).softmax(dim=1).numpy() for x in (student, teacher))
    return temperature**2 * rel_entr(teacher, student).sum(axis=1).mean()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kl_of_two_classes_by_hand(temperature):
    student = temperature * torch.tensor([[0.0, math.log(3)]])  # softmax(student / T) = (1/4, 3/4)
    teacher = torch.zeros(1, 2)  # (1/2, 1/2)
    by_hand = temperature**2 * (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert objectives.kl(student, teacher, temperature=temperature).item() == pytest.approx(by_hand, rel=1e-5)


def test_kl_has_temperature_one_by_default(batch):
    student, teacher, _ = batch
    assert torch.equal(objectives.kl(student, teacher), objectives.kl(student, teacher, temperature=1.0))


@pytest.mark.parametrize("reference", [kl_of_torch, kl_of_scipy])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@quick
@given(logits_and_labels())
def test_kl_equals_a_reference_in_float64(reference, temperature, example):
    student, teacher, _ = example
    expected = float(reference(student, teacher, temperature))
    assert objectives.kl(student, teacher, temperature=temperature).item() == pytest.approx(
        expected, rel=1e-4, abs=1e-4
    )


@quick
@given(logits_and_labels(step=0.25), st.sampled_from(TEMPERATURES))
def test_kl_is_zero_where_distributions_are_equal_and_positive_elsewhere(example, temperature):
    student, teacher, _ = example
    assert objectives.kl(teacher, teacher, temperature=temperature) == 0
    gaps = student - teacher
    if (gaps == gaps[:, :1]).all():  # a constant per row: the same distributions
        assert objectives.kl(student, teacher, temperature=temperature).item() == pytest.approx(0, abs=1e-5)
    else:
        assert objectives.kl(student, teacher, temperature=temperature) > 0


@quick
@given(logits_and_labels(), st.sampled_from(TEMPERATURES))
def test_kl_is_not_negative(example, temperature):
    student, teacher, _ = example
    assert objectives.kl(student, teacher, temperature=temperature) >= -1e-6 * temperature**2


@every_loss
@quick
@given(logits_and_labels(), st.floats(-50, 50), st.floats(-50, 50))
def test_constants_added_to_a_row_change_nothing(loss, example, to_student, to_teacher):
    student, teacher, labels = example
    rows = torch.arange(1.0, len(student) + 1)[:, None]  # another constant in every row
    moved = loss(student + to_student * rows, teacher + to_teacher * rows, labels)
    assert moved.item() == pytest.approx(loss(student, teacher, labels).item(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("temperature", [200.0, 800.0])
def test_gradient_at_high_temperature_is_that_of_matched_logits(batch, temperature):
    """Hinton et al., equation 4: T² ∂KL/∂z_s → (z_s − z_t) / classes for logits of mean zero."""
    student, teacher, _ = batch
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(objectives.kl(student, teacher, temperature=temperature), student)
    gaps = (student - teacher).detach()
    limit = (gaps - gaps.mean(dim=1, keepdim=True)) / student.numel()
    assert torch.allclose(gradient, limit, atol=0.02 * limit.abs().max().item())


@pytest.mark.parametrize("loss", [LOSSES["kl"], LOSSES["xe_kl"]], ids=["kl", "xe_kl"])
def test_no_gradient_reaches_the_teacher(loss, batch):
    student, teacher, labels = batch
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher, labels).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype, batch):
    student, teacher, labels = batch
    student, teacher = student.to(dtype), teacher.to(dtype)
    result = loss(student, teacher, labels)
    assert result.dtype == torch.float32
    assert result == loss(student.float(), teacher.float(), labels)


def test_low_temperature_does_not_overflow_in_half_precision():
    student = torch.tensor([[0.0, 800.0]]).half()
    assert objectives.kl(student, student.flip(1), temperature=0.01).isfinite()


@every_loss
def test_loss_is_the_mean_over_samples(loss, batch):
    whole = loss(*batch)
    alone = [loss(*(part[i : i + 1] for part in batch)) for i in range(len(batch[0]))]
    assert torch.allclose(whole, torch.stack(alone).mean())
    assert torch.allclose(whole, loss(*(torch.cat([part, part]) for part in batch)))


@quick
@given(logits_and_labels())
def test_xe_is_cross_entropy_of_logits(example):
    student, _, labels = example
    by_hand = -student.double().log_softmax(dim=1)[torch.arange(len(labels)), labels].mean()
    assert torch.equal(objectives.xe(student, labels), F.cross_entropy(student, labels))
    assert objectives.xe(student, labels).item() == pytest.approx(by_hand.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss", [LOSSES["xe"], LOSSES["xe_kl"]], ids=["xe", "xe_kl"])
def test_cross_entropy_is_not_fed_probabilities(loss):
    """The paper's softmax of a softmax leaves a perfect student of two classes a loss of 0.31."""
    student = torch.tensor([[30.0, 0.0]])
    assert loss(student, student, torch.tensor([0])) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_xe_kl_ends_at_its_two_terms(batch, temperature):
    student, teacher, labels = batch
    only_xe = objectives.xe_kl(student, teacher, labels, weight=0.0, temperature=temperature)
    only_kl = objectives.xe_kl(student, teacher, labels, weight=1.0, temperature=temperature)
    assert torch.equal(only_xe, objectives.xe(student, labels))
    assert torch.equal(only_kl, objectives.kl(student, teacher, temperature=temperature))


@quick
@given(logits_and_labels(), st.floats(0, 1), st.sampled_from(TEMPERATURES))
def test_xe_kl_is_linear_in_its_weight(example, weight, temperature):
    at_zero, at_one, between = (
        objectives.xe_kl(*example, weight=w, temperature=temperature).item() for w in (0.0, 1.0, weight)
    )
    assert between == pytest.approx(weight * at_one + (1 - weight) * at_zero, rel=1e-5, abs=1e-5)


@every_loss
def test_mixed_labels_weigh_as_their_shares(loss, batch):
    """The cross-entropy with shares of two classes is the two cross-entropies' mean by those shares."""
    student, teacher, labels = batch
    share, other = torch.linspace(0, 1, len(labels))[:, None], labels.roll(1)
    mixed = torch.lerp(F.one_hot(other, 5).float(), F.one_hot(labels, 5).float(), share)
    by_hand = [
        s * loss(student[[i]], teacher[[i]], of[[i]])
        for of, shares in ((labels, share[:, 0]), (other, 1 - share[:, 0]))
        for i, s in enumerate(shares)
    ]
    assert torch.allclose(loss(student, teacher, mixed), sum(by_hand) / len(labels))
    assert torch.allclose(loss(student, teacher, F.one_hot(labels, 5).float()), loss(*batch))


# --- data partitioning ------------------------------------------------------------------------------

RULES = {"supervised": lambda labels: labels, "unsupervised": lambda labels: None}
both_rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
FLOATS, WHOLE = st.floats(-8, 8, width=32), st.integers(-8, 8).map(float)


@st.composite
def taught_batches(draw, fewest=1, most=3, elements=FLOATS):
    """Logits of the frozen student, of teachers (a tuple), float32 [batch, classes], and labels."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(2, 6)))
    logits = arrays.arrays("float32", shape, elements=elements).map(torch.from_numpy)
    labels = draw(st.lists(st.integers(0, shape[1] - 1), min_size=shape[0], max_size=shape[0]))
    return (
        draw(logits),
        tuple(draw(logits) for _ in range(draw(st.integers(fewest, most)))),
        torch.tensor(labels),
    )


def softmax(row):
    """Probabilities of one sample's logits, in Python's floats."""
    exponentials = [math.exp(x) for x in row.tolist()]
    return [e / sum(exponentials) for e in exponentials]


def merits(sample, label):
    """What one sample's rows of logits are compared by."""
    return [max(p) if label is None else p[label] for p in map(softmax, sample)]


@both_rules
@quick
@given(taught_batches())
def test_who_teaches_equals_a_loop(rule, batch):
    frozen, teachers, labels = batch
    choice = objectives.best(frozen, teachers, rule(labels))
    assert choice.dtype == torch.int64
    assert choice.shape == (len(frozen),)
    for i, chosen in enumerate(choice.tolist()):
        said = [logits[i] for logits in (frozen, *teachers)]
        found = merits(said, None if rule(labels) is None else labels[i])
        near = [k for k, merit in enumerate(found) if math.isclose(merit, max(found), rel_tol=1e-5)]
        assert chosen in near  # float32 cannot tell those apart
        if len(near) == 1:
            assert chosen == found.index(max(found))


@quick
@given(taught_batches(most=1))
def test_one_teacher_is_chosen_as_in_the_paper(batch):
    """Equation 4 and section 4.2: strictly more of the true class's, or of any class's, probability."""
    frozen, (teacher,), labels = batch
    supervised = F.cross_entropy(teacher, labels, reduction="none") < F.cross_entropy(
        frozen, labels, reduction="none"
    )
    unsupervised = teacher.softmax(dim=1).amax(dim=1) > frozen.softmax(dim=1).amax(dim=1)
    for from_teacher, given_labels in ((supervised, labels), (unsupervised, None)):
        choice = objectives.best(frozen, [teacher], given_labels)
        assert torch.equal(choice, from_teacher.long())
        expected = torch.where(from_teacher[:, None], teacher, frozen)
        assert torch.equal(objectives.targets(choice, frozen, [teacher]), expected)


def test_rules_by_hand():
    """The first teacher is surer of sample 0 but wrong there; the second alone is right about sample 1."""
    frozen = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 3.0]])
    teachers = torch.tensor([[[5.0, 0.0], [0.0, 1.0], [0.0, 2.0]], [[0.0, 0.5], [1.0, 0.0], [0.0, 1.0]]])
    assert objectives.best(frozen, teachers, torch.tensor([1, 0, 1])).tolist() == [0, 2, 0]
    assert objectives.best(frozen, teachers).tolist() == [1, 0, 0]


@both_rules
@quick
@given(taught_batches(elements=WHOLE), st.integers(-9, 9))
def test_ties_go_to_the_frozen_student_and_then_to_the_first_teacher(rule, batch, constant):
    frozen, teachers, labels = batch
    labels = rule(labels)
    assert not objectives.best(frozen, [frozen + constant, frozen], labels).any()
    one, two = (objectives.best(frozen, several, labels) for several in (teachers, teachers + teachers))
    assert torch.equal(one, two)


@both_rules
@quick
@given(taught_batches(fewest=2), st.randoms(use_true_random=False))
def test_the_order_of_teachers_matters_at_ties_alone(rule, batch, random):
    frozen, teachers, labels = batch
    labels = rule(labels)
    order = random.sample(range(len(teachers)), len(teachers))
    mixed = tuple(teachers[k] for k in order)
    first, second = (objectives.best(frozen, several, labels) for several in (teachers, mixed))
    places = torch.tensor([0, *(order[k] + 1 for k in range(len(order)))])
    different = first != places[second]
    for i in different.nonzero()[:, 0].tolist():
        said = [logits[i] for logits in (frozen, *teachers)]
        found = merits(said, None if labels is None else labels[i])
        assert math.isclose(found[first[i]], found[places[second[i]]], rel_tol=1e-5)
    if not different.any():
        taught = objectives.targets(first, frozen, teachers)
        assert torch.equal(taught, objectives.targets(second, frozen, mixed))


@both_rules
def test_the_smallest_advantage_is_enough(rule):
    frozen, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    advantage = 1e-5 * torch.eye(2)
    assert objectives.best(frozen, [frozen + advantage], rule(labels)).tolist() == [1, 1]
    assert objectives.best(frozen, [frozen - advantage], rule(labels)).tolist() == [0, 0]


@both_rules
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(rule, dtype):
    """Both probabilities of class 0 round to 1 in half precision; they differ in float32."""
    teacher, frozen = (torch.tensor([[x, 0.0]], dtype=dtype) for x in (11.0, 10.0))
    labels = rule(torch.tensor([0]))
    assert objectives.best(frozen, [teacher], labels).all()
    for frozen_logits, same in ((frozen, frozen.float()), (frozen.float(), frozen)):
        assert not objectives.best(frozen_logits, [same], labels).any()


@both_rules
@quick
@given(taught_batches(), st.randoms(use_true_random=False))
def test_who_teaches_does_not_depend_on_the_batch_around_a_sample(rule, batch, random):
    frozen, teachers, labels = batch
    whole = objectives.best(frozen, teachers, rule(labels))
    order = random.sample(range(len(whole)), len(whole))
    for part in (order, slice(0, (len(whole) + 1) // 2)):
        cut = objectives.best(frozen[part], [logits[part] for logits in teachers], rule(labels[part]))
        assert torch.equal(cut, whole[part])


@quick
@given(taught_batches(), st.randoms(use_true_random=False))
def test_targets_picks_rows(batch, random):
    frozen, teachers, _ = batch
    choice = [random.randrange(len(teachers) + 1) for _ in frozen]
    picked = objectives.targets(torch.tensor(choice), frozen, teachers)
    assert picked.shape == frozen.shape
    for i, chosen in enumerate(choice):
        assert torch.equal(picked[i], (frozen, *teachers)[chosen][i])


def test_a_mixed_image_is_taught_by_who_is_best_on_both_its_classes():
    """Half of each of two classes: to be sure of one alone is worse than to give both something."""
    frozen, teacher = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert objectives.best(frozen, [teacher], torch.tensor([0])).tolist() == [0]
    assert objectives.best(frozen, [teacher], torch.tensor([[0.5, 0.5, 0.0]])).tolist() == [1]


# --- every objective on what it reads ---------------------------------------------------------------

TEMPERATURE = 2.0
STUDENT, TEACHER, OTHER, FROZEN = 2 * torch.randn(4, 40, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 5
READ = {"teacher": TEACHER, "teachers": (TEACHER, OTHER), "frozen": FROZEN, "labels": LABELS}
DISTILLED = {"temperature": TEMPERATURE}


def taught(labels):
    """The loss of distillation from a partition between two teachers, and who teaches."""
    choice = objectives.best(FROZEN, (TEACHER, OTHER), labels)
    target = torch.stack([FROZEN, TEACHER, OTHER])[choice, torch.arange(40)]
    return objectives.kl(STUDENT, target, **DISTILLED), choice


KL = objectives.kl(STUDENT, TEACHER, **DISTILLED)
KNOWN, UNKNOWN = partition.flips(FROZEN, TEACHER, LABELS)
FEATURES = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(1))
READ |= {"student_features": FEATURES[0], "teacher_features": FEATURES[1], "indices": torch.arange(40)}


def by_flips():
    """KL+DP by flips with its defaults, and who teaches."""
    target = torch.where(KNOWN[:, None], TEACHER, FROZEN)
    return objectives.kl(STUDENT, target, **DISTILLED), KNOWN.long()


# of each objective: what it reads, its settings, the loss it should have, and who teaches
EXAMPLES = {
    "xe": (("student", "labels"), {}, (F.cross_entropy(STUDENT, LABELS), None)),
    "kl": (("student", "teacher"), DISTILLED, (KL, None)),
    "xe_kl": (
        ("student", "teacher", "labels"),
        {"weight": 0.7, **DISTILLED},
        (objectives.xe_kl(STUDENT, TEACHER, LABELS, weight=0.7, **DISTILLED), None),
    ),
    "kl_dp": (("student", "teachers", "frozen", "labels"), DISTILLED, taught(LABELS)),
    "kl_dp_unsupervised": (("student", "teachers", "frozen"), DISTILLED, taught(None)),
    "xe_kl_dp": (("student", "teachers", "frozen", "labels"), {"weight": 1, **DISTILLED}, taught(LABELS)),
    "kl_flips": (("student", "teacher", "frozen", "labels"), DISTILLED, by_flips()),
    "self_distillation": (
        ("student", "frozen"),
        DISTILLED,
        (objectives.kl(STUDENT, FROZEN, **DISTILLED), None),
    ),
}
every_example = pytest.mark.parametrize("name", EXAMPLES)


def test_what_objectives_ask_for_is_there():
    for name, objective in objectives.OBJECTIVES.items():
        objectives.check(objective, name)


@every_example
def test_needs_are_the_papers(name):
    """No label reaches what does not name them."""
    needs, settings_given, _ = EXAMPLES[name]
    method = spec.Method(method=name, lr=0.1, **settings_given)
    assert method.needs == needs
    assert method.teachers == {"xe": 0, "self_distillation": 0, "kl": 1, "xe_kl": 1, "kl_flips": 1}.get(name)


@every_example
def test_loss_and_measures_on_what_is_needed(name):
    needs, settings_given, (expected, choice) = EXAMPLES[name]
    known = {"student": STUDENT, **READ}
    said = objectives.make(objectives.OBJECTIVES[name], settings_given)(*[known[need] for need in needs])
    loss, measures = said if isinstance(said, tuple) else (said, {})
    assert loss.shape == ()
    assert torch.allclose(loss, expected, rtol=1e-6)
    if choice is None:
        assert measures == {}
        return
    if "teachers" not in needs:
        assert torch.equal(measures.pop("teacher_share").long(), choice)
        assert not measures
        return
    assert list(measures) == ["teacher_share", "teacher_1_share", "teacher_2_share"]
    for measure, members in zip(measures.values(), ({1, 2}, {1}, {2}), strict=True):
        assert measure.tolist() == [k in members for k in choice.tolist()]
        assert 0 < measure.sum() < len(measure)  # the example tells all three apart
    shares = [measure.float().mean() for measure in measures.values()]
    frozens = (choice == 0).float().mean()
    assert sum(shares[1:]) + frozens == pytest.approx(1)
    assert shares[0] == pytest.approx(1 - frozens)


def test_of_one_teacher_there_is_one_share():
    _, measures = objectives.kl_dp(STUDENT, (TEACHER,), FROZEN, LABELS)
    assert list(measures) == ["teacher_share"]
    assert torch.equal(measures["teacher_share"], objectives.best(FROZEN, (TEACHER,), LABELS) == 1)


@every_example
def test_gradient_reaches_the_student_alone(name):
    needs, settings_given, _ = EXAMPLES[name]
    leaves = {key: READ[key].clone().requires_grad_() for key in ("teacher", "frozen")}
    leaves["other"] = OTHER.clone().requires_grad_()
    student = STUDENT.clone().requires_grad_()
    known = {
        **leaves,
        "student": student,
        "teachers": (leaves["teacher"], leaves["other"]),
        "labels": LABELS,
    }
    said = objectives.make(objectives.OBJECTIVES[name], settings_given)(*[known[need] for need in needs])
    (said[0] if isinstance(said, tuple) else said).backward()
    assert student.grad.abs().sum() > 0
    assert all(leaf.grad is None for leaf in leaves.values())


@pytest.mark.parametrize("name", ["kl_dp", "xe", "xe_kl"])
def test_mixed_labels_are_taken(name):
    needs, settings_given, _ = EXAMPLES[name]
    objective = objectives.make(objectives.OBJECTIVES[name], settings_given)
    whole, mixed = (
        objective(*[({"student": STUDENT} | READ | {"labels": labels})[need] for need in needs])
        for labels in (LABELS, F.one_hot(LABELS, 5).float())
    )
    losses = [said[0] if isinstance(said, tuple) else said for said in (whole, mixed)]
    assert torch.allclose(*losses)


# --- methods: an objective, its settings, and at what rate ------------------------------------------

_numbers = itertools.count()


class Chosen(BaseModel):
    """Methods as a study has them."""

    methods: dict[str, spec.Method]


def complaint(**fields):
    """Where a mistake in a method is found, and what is said of it."""
    with pytest.raises(ValidationError) as told:
        Chosen.model_validate({"methods": {"m": {"method": "kl", "lr": 0.1, **fields}}})
    return mistakes.path_and_text(told.value, Chosen)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A function that writes a module of one's own, anew or again, and gives its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str, name: str | None = None) -> str:
        name = name or f"own_objective_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text("import torch\n" + textwrap.dedent(text))
        importlib.invalidate_caches()
        return name

    return write


FUNCTION = """
    def mine(student, indices, teachers_features, *, power: float = 2.0):
        return student.abs().pow(power).mean(), {"index": indices}
    """
MODULE = """
    class Mine(torch.nn.Module):
        def __init__(self, student_dim, samples, *, width: int = 3):
            super().__init__()
            self.map = torch.nn.Linear(student_dim, width)
            self.memory = torch.nn.Parameter(torch.zeros(samples))

        def forward(self, student_features, teacher, labels):
            return self.map(student_features).mean()
    """


def test_settings_of_a_method_are_those_of_its_objective():
    method = spec.Method(method="xe_kl", lr=0.1, weight=1)
    assert method.function is objectives.xe_kl
    assert method.settings == {"weight": 1.0, "temperature": 1.0}
    assert (method.lr, method.slow, method.code) == (0.1, None, None)
    assert method.model_dump(mode="json") == {"method": "xe_kl", "lr": 0.1, "weight": 1.0, "temperature": 1.0}


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "xe"},
        {"method": "kl", "temperature": 3},
        {"method": "xe_kl", "weight": 0.5, "slow": {"tau": 0.9}},
        {"method": "kl_dp", "slow": {"half_life": 0.2, "reset": "epoch"}},
    ],
    ids=str,
)
def test_a_method_survives_json(fields):
    method = spec.Method(lr=0.1, **fields)
    assert spec.Method.model_validate_json(method.model_dump_json()) == method


def test_a_method_cannot_be_changed():
    method = spec.Method(method="kl", lr=0.1)
    for field in ("lr", "temperature"):
        with pytest.raises(ValidationError):
            setattr(method, field, 1.0)


@pytest.mark.parametrize(
    ("fields", "path", "said"),
    [
        ({"method": "kll"}, "method", "did you mean 'kl'?"),
        ({"method": "hinton"}, "method", "known are xe, kl, xe_kl, kl_dp, kl_dp_unsupervised, xe_kl_dp, "),
        ({"temprature": 2}, "temprature", "unknown key; did you mean 'temperature'?"),
        ({"l": 2}, "l", "did you mean 'lr'?"),
        ({"slwo": {"tau": 0.9}}, "slwo", "did you mean 'slow'?"),
        ({"weight": 0.7}, "weight", "unknown key"),
        ({"method": "xe", "temperature": 1}, "temperature", "unknown key"),
        ({"temperature": 0}, "temperature", "greater than 0 (it says 0)"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"method": "xe_kl"}, "weight", "is missing"),
        ({"method": "xe_kl", "weight": 1.1}, "weight", "less than or equal to 1"),
        ({"method": "xe_kl", "weight": -0.1}, "weight", "greater than or equal to 0"),
        ({"lr": 0}, "lr", "greater than 0"),
        ({"lr": None}, "lr", "valid number"),
        ({"lr": float("nan")}, "lr", "finite number"),
        ({"slow": {"tau": 1}}, "slow.tau", "less than 1"),
        ({"slow": {"tau": -0.1}}, "slow.tau", "greater than or equal to 0"),
        ({"slow": {"half_life": 0}}, "slow.half_life", "greater than 0"),
        ({"slow": {"tau": 0.9, "every": 0}}, "slow.every", "greater than or equal to 1"),
        ({"slow": {"tau": 0.9, "reset": "always"}}, "slow.reset", "'never' or 'epoch'"),
        ({"slow": {"tau": 0.9, "half_life": 0.2}}, "slow", "exactly one of 'tau' and 'half_life'"),
        ({"slow": {}}, "slow", "exactly one of 'tau' and 'half_life'"),
        ({"slow": {"taw": 0.9}}, "slow.taw", "did you mean 'tau'?"),
        ({"slow": 0.9}, "slow", "should be a mapping"),
        ({"method": "no_such_module_here.f"}, "method", "cannot be imported"),
        ({"method": "math.nothing"}, "method", "has no 'nothing'"),
        ({"method": "torch.nn.functional.kl_div"}, "", "asks for 'input', but is given student, teacher,"),
        ({"method": "torch.nn.Identity"}, "", "asks for 'input'"),
        ({"method": "fractions.Fraction"}, "", "without 'forward'"),
    ],
    ids=str,
)
def test_a_mistake_in_a_method_is_told_where_it_lies(fields, path, said):
    where, text = complaint(**fields)
    assert where == f"methods.m.{path}".rstrip(".")
    assert said in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def mine(labels, teacher): ...", "does not read the student"),
        ("def mine(student, label): ...", "asks for 'label', but is given student,"),
        ("class mine(torch.nn.Module): ...", "does not read the student"),
        (
            "class mine(torch.nn.Module):\n def __init__(self, dim): ...\n def forward(self, student): ...",
            "asks for 'dim', but is given student_dim, teacher_dim, student_channels,",
        ),
    ],
    ids=["no student", "unknown", "no forward", "unknown size"],
)
def test_an_objective_that_asks_for_what_none_is_given_is_refused(own, text, said):
    where, told = complaint(method=f"{own(text)}.mine")
    assert where == "methods.m"
    assert said in told


def test_a_function_of_ones_own(own):
    method = spec.Method(method=f"{own(FUNCTION)}.mine", lr=0.1, power=3)
    assert method.needs == ("student", "indices", "teachers_features")
    assert method.teachers is None
    assert method.settings == {"power": 3.0}
    assert made_with(method.function) == ()
    loss, measures = objectives.make(method.function, method.settings)(-2 * torch.ones(4), LABELS, ())
    assert (loss, measures) == (8, {"index": LABELS})


def test_a_module_of_ones_own(own):
    method = spec.Method(method=f"{own(MODULE)}.Mine", lr=0.1)
    assert method.needs == ("student_features", "teacher", "labels")
    assert method.teachers == 1
    assert method.settings == {"width": 3}
    assert made_with(method.function) == ("student_dim", "samples")
    sizes = {"student_dim": 4, "teacher_dim": None, "classes": 5, "samples": 7}
    made = objectives.make(method.function, method.settings, **sizes)
    assert made.map.weight.shape == (3, 4)
    assert made.memory.shape == (7,)
    assert made(torch.ones(2, 4), None, None).shape == ()


def test_ones_own_settings_are_checked(own):
    name = own(FUNCTION)
    assert complaint(method=f"{name}.mine", powr=3) == (
        "methods.m.powr",
        "unknown key; did you mean 'power'?",
    )
    where, said = complaint(method=f"{name}.mine", power="two")
    assert (where, "valid number" in said) == ("methods.m.power", True)


def test_results_do_not_outlive_the_code_that_made_them(own):
    name = own(FUNCTION)
    first = spec.Method(method=f"{name}.mine", lr=0.1)
    own(FUNCTION + "    # changed\n", name)
    second = spec.Method(method=f"{name}.mine", lr=0.1)
    assert first.code != second.code
    assert "code" not in spec.Method(method="kl", lr=0.1).model_dump()


# --- slow weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.9999])
@pytest.mark.parametrize("steps", [1, 1000])
def test_slow_decay_is_the_given_tau(tau, steps):
    assert spec.Slow(tau=tau).decay(steps) == tau


@quick
@given(st.floats(0.05, 2), st.integers(1, 50), st.integers(1, 100_000))
def test_half_of_the_original_student_is_left_after_a_half_life(half_life, every, steps):
    tau = spec.Slow(half_life=half_life, every=every).decay(steps)
    updates = max(1, steps // every)
    assert 0 <= tau < 1
    assert tau ** (half_life * updates) == pytest.approx(0.5, abs=1e-9)
