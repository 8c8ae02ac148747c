"""The task for timm's own trainer, against the laboratory's objective on the same tensors."""

from __future__ import annotations

import ast
import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from study.models.timm_import import timm
from study.objectives import partition

# isort: split
from timm.optim import create_optimizer_v2
from timm.task import resume_task_checkpoint
from timm.utils import CheckpointSaver

from contrib.kl_dp_task import PartitionedDistillationTask  # after study's, which makes torchvision load

FILE = Path(__file__).parents[2] / "contrib" / "kl_dp_task.py"


def model(seed: int, name: str = "test_resnet", **kwargs) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=5, **kwargs)


def batch(samples: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(9)
    return torch.randn(samples, 3, 64, 64), torch.arange(samples) % 5


@pytest.fixture
def task() -> PartitionedDistillationTask:
    return PartitionedDistillationTask(model(0), model(1, "test_vit", img_size=64), verbose=False).train()


def logits(task, images) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the teacher, by its own normalisation, and of the original student."""
    with torch.no_grad():
        std, mean = (task.teacher.std_kd, task.teacher.mean_kd)
        pixels = images * task.student_std + task.student_mean
        return task.teacher.model((pixels - mean) / std), task.frozen(images)


@pytest.mark.parametrize(("which", "objective"), [("label", "kl_dp"), ("confidence", "kl_dp_unsupervised")])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_and_its_gradients_are_the_laboratorys(task, which, objective, temperature):
    images, labels = batch()
    task.partition, task.temperature = which, temperature
    task.teacher.model.pretrained_cfg = dict(task.teacher.model.pretrained_cfg)
    task.teacher.mean_kd.fill_(0.4)  # another normalisation than the student's
    result = task(images, labels)
    teacher, frozen = logits(task, images)
    student = result["output"].detach().requires_grad_()
    given = (student, (teacher,), frozen, *([labels] if which == "label" else []))
    expected, measures = getattr(partition, objective)(*given, temperature=temperature)
    torch.testing.assert_close(result["loss"], expected)
    assert 0 < float(result["teacher_share"]) == float(measures["teacher_share"].float().mean()) < 1
    (own,) = torch.autograd.grad(result["loss"], result["output"])
    (its,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(own, its)


def test_cross_entropy_can_stand_beside_it_and_images_may_be_mixed(task):
    images, labels = batch()
    soft = F.one_hot(labels, 5).float()
    beside = PartitionedDistillationTask(
        task.trainable_module,
        task.teacher,
        distill_loss_weight=0.7,
        task_loss_weight=0.3,
        verbose=False,
    ).train()
    hard = beside(images, labels)
    expected = 0.7 * hard["kd_loss"] + 0.3 * F.cross_entropy(hard["output"], labels)
    torch.testing.assert_close(hard["loss"], expected)
    beside.trainable_module.eval()  # no statistics move between the two
    once, again = beside(images, labels), beside(images, soft)
    torch.testing.assert_close(once["loss"], again["loss"])
    assert torch.equal(once["teacher_share"], again["teacher_share"])


def test_a_step_moves_the_student_alone(task):
    images, labels = batch()
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts(task).items()}
    optimizer = create_optimizer_v2(task.get_trainable_module(), "sgd", lr=0.1)
    losses = []
    for _ in range(3):
        result = task(images, labels)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        losses.append(float(result["loss"].detach()))
    assert losses[-1] < losses[0]
    for name, part in parts(task).items():
        same = all(torch.equal(tensor, part.state_dict()[key]) for key, tensor in before[name].items())
        assert same == (name != "student")
    assert not task.frozen.training and not task.teacher.training and task.trainable_module.training
    assert all(parameter.grad is None for parameter in task.frozen.parameters())
    assert task.get_eval_model() is task.trainable_module


def parts(task) -> dict[str, torch.nn.Module]:
    return {"student": task.trainable_module, "teacher": task.teacher.model, "frozen": task.frozen}


def test_a_resumed_run_goes_on_with_the_same_original_student(task, tmp_path):
    images, labels = batch()
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.1)
    task(images, labels)["loss"].backward()
    optimizer.step()
    places = {"checkpoint_dir": tmp_path, "recovery_dir": tmp_path}
    saver = CheckpointSaver(task.get_trainable_module(), optimizer, task=task, **places)
    saver.save_checkpoint(0, metric=1.0)
    fresh = PartitionedDistillationTask(model(7), task.teacher, verbose=False).train()
    assert resume_task_checkpoint(fresh, str(tmp_path / "last.pth.tar"), log_info=False) == 1
    torch.testing.assert_close(fresh(images, labels)["loss"], task(images, labels)["loss"])


def test_an_unknown_partition_is_refused():
    with pytest.raises(ValueError, match="Unknown partition 'logits', should be 'label' or 'confidence'"):
        PartitionedDistillationTask(model(0), model(1), partition="logits", verbose=False)


def test_the_file_needs_torch_and_timm_alone():
    """So that it can be sent to timm as it is."""
    tree = list(ast.walk(ast.parse(FILE.read_text())))
    found = {node.module for node in tree if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    assert {name.partition(".")[0] for name in found} == {"copy", "typing", "torch", "timm"}


def test_compiled_and_distributed_it_computes_the_same(task, tmp_path):
    images, labels = batch()
    expected = {name: value.detach() for name, value in task(images, labels).items()}
    names = task.get_checkpoint_state()["task_state"]["frozen"].keys()
    task.compile(backend="eager")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        task.prepare_distributed()
        got = task(images, labels)
        got["loss"].backward()
    finally:
        torch.distributed.destroy_process_group()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)
    assert task.get_checkpoint_state()["task_state"]["frozen"].keys() == names
    assert not any("_orig_mod" in name or name.startswith("module.") for name in names)
    gradients = [parameter.grad for parameter in task.get_trainable_module().parameters()]
    assert all(gradient is not None for gradient in gradients)
