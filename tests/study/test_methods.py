"""Every method on exactly what it says it needs, and its hyper-parameters."""

import typing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from study import methods, objectives, partition

LR = 1e-2
WEIGHT, TEMPERATURE = 0.7, 2.0
STUDENT, TEACHER, FROZEN = 2 * torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 5
OUTPUTS = {"teacher": TEACHER, "frozen": FROZEN, "labels": LABELS}


def taught(from_teacher):
    """The loss and mask of distillation from a partition."""
    target = torch.where(from_teacher[:, None], TEACHER, FROZEN)
    return objectives.kl(STUDENT, target, TEMPERATURE), from_teacher


# a method of each kind, and the loss and mask it should have
EXAMPLES = {
    methods.XE(lr=LR): (objectives.xe(STUDENT, LABELS), None),
    methods.KL(lr=LR, temperature=TEMPERATURE): (objectives.kl(STUDENT, TEACHER, TEMPERATURE), None),
    methods.XEKL(lr=LR, temperature=TEMPERATURE, weight=WEIGHT): (
        objectives.xe_kl(STUDENT, TEACHER, LABELS, WEIGHT, TEMPERATURE),
        None,
    ),
    methods.XEKLMCL(lr=LR, temperature=TEMPERATURE, weight=WEIGHT, tau=0.9): (
        objectives.xe_kl(STUDENT, TEACHER, LABELS, WEIGHT, TEMPERATURE),
        None,
    ),
    methods.KLDP(lr=LR, temperature=TEMPERATURE): taught(partition.supervised(TEACHER, FROZEN, LABELS)),
    methods.KLDPUnsupervised(lr=LR, temperature=TEMPERATURE): taught(partition.unsupervised(TEACHER, FROZEN)),
}
NEEDS = {
    "xe": {"labels"},
    "kl": {"teacher"},
    "xe_kl": {"teacher", "labels"},
    "xe_kl_mcl": {"teacher", "labels"},
    "kl_dp": {"teacher", "frozen", "labels"},
    "kl_dp_unsupervised": {"teacher", "frozen"},
}
every_example = pytest.mark.parametrize("method", EXAMPLES, ids=lambda method: method.method)


def outputs(needs):
    """Outputs with what a method needs and nothing else."""
    return methods.Outputs(student=STUDENT, **{need: OUTPUTS[need] for need in needs})


def test_every_method_has_an_example():
    assert {type(method) for method in EXAMPLES} == set(methods.METHODS)


@every_example
def test_needs_are_the_papers(method):
    assert method.needs == NEEDS[method.method]


@every_example
def test_loss_is_composed_of_objectives_on_what_the_method_needs(method):
    loss, from_teacher = method.loss(outputs(method.needs))
    expected, mask = EXAMPLES[method]
    assert loss.isfinite()
    assert loss.shape == ()
    assert torch.equal(loss, expected)
    assert (from_teacher is None) == (mask is None)
    if mask is not None:
        assert torch.equal(from_teacher, mask)
        assert 0 < mask.sum() < len(mask)  # the example tells teacher and frozen student apart


@pytest.mark.parametrize(
    ("method", "need"),
    [(method, need) for method in EXAMPLES for need in sorted(method.needs)],
    ids=lambda value: getattr(value, "method", value),
)
def test_method_asks_for_nothing_it_could_do_without(method, need):
    with pytest.raises((TypeError, AttributeError)):
        method.loss(outputs(method.needs - {need}))


@every_example
def test_gradient_reaches_the_student_alone(method):
    given_outputs = {name: value.clone() for name, value in OUTPUTS.items() if name in method.needs}
    student = STUDENT.clone().requires_grad_()
    for name in {"teacher", "frozen"} & method.needs:
        given_outputs[name].requires_grad_()
    loss, _ = method.loss(methods.Outputs(student=student, **given_outputs))
    loss.backward()
    assert student.grad.abs().sum() > 0
    assert all(value.grad is None for value in given_outputs.values())


def test_names_are_unique_and_choose_the_class():
    names = [kind.model_fields["method"].default for kind in methods.METHODS]
    assert len(set(names)) == len(names)
    for name, kind in zip(names, methods.METHODS, strict=True):
        assert typing.get_args(kind.model_fields["method"].annotation) == (name,)


@every_example
def test_method_survives_json(method):
    chosen = TypeAdapter(methods.AnyMethod).validate_json(method.model_dump_json())
    assert type(chosen) is type(method)
    assert chosen == method


@pytest.mark.parametrize("kind", methods.METHODS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("field", "value"), [("lr", 0), ("lr", -1e-3), ("lr", None), ("lr", float("nan")), ("momentum", 0.9)]
)
def test_bad_learning_rate_and_unknown_hyper_parameter_are_refused(kind, field, value):
    fields = {"lr": LR, "weight": WEIGHT, "tau": 0.9} | {field: value}
    known = {name: fields[name] for name in fields if name in kind.model_fields or name == field}
    with pytest.raises(ValidationError) as refused:
        kind(**known)
    assert [error["loc"] for error in refused.value.errors()] == [(field,)]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (methods.KL, {"temperature": 0}),
        (methods.KL, {"weight": 0.5}),
        (methods.XE, {"temperature": 1}),
        (methods.XEKL, {}),  # no weight
        (methods.XEKL, {"weight": -0.1}),
        (methods.XEKL, {"weight": 1.1}),
        (methods.XEKLMCL, {"weight": 0.7, "tau": 1}),
        (methods.XEKLMCL, {"weight": 0.7, "tau": -0.1}),
        (methods.XEKLMCL, {"weight": 0.7, "half_life": 0}),
        (methods.XEKLMCL, {"weight": 0.7, "tau": 0.9, "every": 0}),
        (methods.XEKLMCL, {"weight": 0.7, "tau": 0.9, "half_life": 0.2}),
        (methods.XEKLMCL, {"weight": 0.7}),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(kind, fields):
    with pytest.raises(ValidationError):
        kind(lr=LR, **fields)


def test_hyper_parameters_cannot_be_changed():
    method = methods.KL(lr=LR)
    with pytest.raises(ValidationError):
        method.lr = 1.0


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.9999])
@pytest.mark.parametrize("steps", [1, 1000])
def test_slow_decay_is_the_given_tau(tau, steps):
    assert methods.XEKLMCL(lr=LR, weight=WEIGHT, tau=tau).slow_decay(steps) == tau


@settings(deadline=None)
@given(st.floats(0.05, 2), st.integers(1, 50), st.integers(1, 100_000))
def test_half_of_the_original_student_is_left_after_a_half_life(half_life, every, steps):
    tau = methods.XEKLMCL(lr=LR, weight=WEIGHT, half_life=half_life, every=every).slow_decay(steps)
    updates = max(1, steps // every)
    assert 0 <= tau < 1
    assert tau ** (half_life * updates) == pytest.approx(0.5, abs=1e-9)
