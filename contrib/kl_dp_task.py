"""KL with data partitioning (KL+DP) as a training task of timm's: transfer between pretrained models that forgets
little.

"Fantastic Gains and Where to Find Them" (arXiv 2310.17653, Eqs. 4 and 5): each sample is taught by whichever gives its
label more probability, the teacher or the student as it was before training. So a pretrained student keeps what it
knows where the teacher knows less, and a weaker teacher does little harm. The student has to be pretrained: from
scratch there is nothing to keep, and `LogitDistillationTask` is the right task.

Needs timm >= 1.0.31 and nothing else. In timm's train.py it stands in for the task made for `--kd-distill-type logit`:

    from kl_dp_task import PartitionedDistillationTask
    task = PartitionedDistillationTask(model, args.kd_model_name, temperature=args.kd_temperature, device=device,
                                       dtype=model_dtype)
"""
import copy
from typing import Any, Dict, Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F

from timm.task.distillation import DistillationTeacher, LogitDistillationTask
from timm.utils import unwrap_model


class PartitionedDistillationTask(LogitDistillationTask):
    """Distillation from the teacher where it is better than the original student, and from that elsewhere.

    The original student is a frozen copy of `student_model`, made here: load its weights before. It is part of the
    task's checkpoint state, so that a resumed run goes on with the same one.

    Args:
        student_model: Pretrained student model to train
        teacher_model: Teacher model - can be a model name string, nn.Module, or DistillationTeacher
        partition: Who teaches a sample: 'label' (who gives its label more probability; ties are the student's) or
            'confidence' (who is surer of its top class; labels are not read)
        distill_loss_weight: Weight of the distillation loss
        task_loss_weight: Weight of the criterion beside it (0: none, as in the paper)
        temperature: Softmax temperature for distillation
        **kwargs: As of LogitDistillationTask

    Examples:

        ```python
        student = timm.create_model('resnet50.a1_in1k', pretrained=True)
        task = PartitionedDistillationTask(student, 'convnext_tiny.fb_in1k', device=torch.device('cuda'))
        result = task(input, target)
        result['loss'].backward()
        ```
    """

    def __init__(
            self,
            student_model: nn.Module,
            teacher_model: Union[str, nn.Module, DistillationTeacher],
            partition: str = 'label',
            distill_loss_weight: float = 1.0,
            task_loss_weight: float = 0.0,
            temperature: float = 1.0,
            **kwargs,
    ):
        super().__init__(
            student_model,
            teacher_model,
            distill_loss_weight=distill_loss_weight,
            task_loss_weight=task_loss_weight,
            temperature=temperature,
            **kwargs,
        )
        if partition not in ('label', 'confidence'):
            raise ValueError(f"Unknown partition '{partition}', should be 'label' or 'confidence'.")
        self.partition = partition
        self.frozen = copy.deepcopy(unwrap_model(student_model)).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> 'PartitionedDistillationTask':
        """Set task training mode while keeping the teacher and the original student in evaluation mode."""
        super().train(mode)
        if hasattr(self, 'frozen'):
            self.frozen.eval()
        return self

    def compile(self, backend: str = 'inductor', mode: Optional[str] = None, **compile_kwargs) -> nn.Module:
        """Compile student, teacher and original student."""
        self.frozen.compile(backend=backend, mode=mode, **compile_kwargs)  # in place, so its state keeps its names
        return super().compile(backend=backend, mode=mode, **compile_kwargs)

    def get_task_state(self, module: Optional[nn.Module] = None, ema: bool = False) -> Dict[str, Any]:
        return {} if ema else {'frozen': self.frozen.state_dict()}

    def load_task_state(
            self,
            state: Optional[Dict[str, Any]],
            strict: bool = True,
            module: Optional[nn.Module] = None,
            ema: bool = False,
    ) -> None:
        if state and not ema:
            self.frozen.load_state_dict(state['frozen'], strict=strict)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Forward pass with partitioned distillation.

        Args:
            input: Input tensor [B, C, H, W]
            target: Target labels [B], or class probabilities [B, num_classes]

        Returns:
            Dictionary containing:
                - 'loss': Combined training loss
                - 'output': Student logits (for metrics)
                - 'task_loss': Classification loss component
                - 'kd_loss': Distillation loss component
                - 'teacher_share': Share of samples taught by the teacher
        """
        output = self.trainable_module(input)
        task_loss = self.criterion(output, target)

        with torch.no_grad():
            input_kd = self.teacher.normalize_input(input, self.student_mean, self.student_std)
            teacher = self.teacher(input_kd).float()
            frozen = self.frozen(input).float()
            if self.partition == 'label':
                doubts = (F.cross_entropy(logits, target, reduction='none') for logits in (teacher, frozen))
            else:
                doubts = (-logits.softmax(dim=-1).amax(dim=-1) for logits in (teacher, frozen))
            taught = torch.lt(*doubts)
            log_target = F.log_softmax(torch.where(taught[:, None], teacher, frozen) / self.temperature, dim=-1)

        log_student = F.log_softmax(output.float() / self.temperature, dim=-1)
        kd_loss = F.kl_div(log_student, log_target, reduction='batchmean', log_target=True) * self.temperature ** 2
        return {
            'loss': self.task_loss_weight * task_loss + self.distill_loss_weight * kd_loss,
            'output': output,
            'task_loss': task_loss,
            'kd_loss': kd_loss,
            'teacher_share': taught.float().mean(),
        }
