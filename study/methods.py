"""The methods of transfer: each one a small class of hyper-parameters and the loss they make.

A method's fields are what a study's YAML may set under its name; its `loss` is put together from
`study.objectives` and `study.partition`. A method says in `needs` which outputs it reads, and gets
no others: labels never reach a method that does not ask for them. To add one, write a class here
and name it in `METHODS`; `CONTRIBUTING.md` walks through it.

After arXiv 2310.17653, section 4 (KL, XE-KL, XE-KL+MCL, KL+DP supervised and unsupervised); `xe` is
the control, plain fine-tuning on the transfer set, since part of any gain may come from that alone.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from study import objectives, partition

Need = Literal["teacher", "frozen", "labels"]


@dataclass(frozen=True)
class Outputs:
    """What the models said of one batch; logits [batch, classes], labels int64 [batch].

    `teacher`, `frozen` and `labels` are None unless the method needs them.
    """

    student: Tensor
    teacher: Tensor | None = None
    frozen: Tensor | None = None
    labels: Tensor | None = None


class Method(BaseModel):
    """Hyper-parameters of one method, and its loss."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    needs: ClassVar[frozenset[Need]]
    lr: float = Field(gt=0, description="peak learning rate")

    def slow_decay(self, steps: int) -> float | None:
        """τ of the slow weights for a run of `steps` optimiser steps; None: the fast weights count."""
        return None

    @abstractmethod
    def loss(self, out: Outputs) -> tuple[Tensor, Tensor | None]:
        """The scalar loss, and the bool mask [batch] of samples the teacher taught (or None).

        The loss is a mean over samples: several workers average those of their parts of a batch.
        """


class XE(Method):
    """Control: cross-entropy with the labels; no teacher."""

    needs = frozenset({"labels"})
    method: Literal["xe"] = "xe"

    def loss(self, out: Outputs) -> tuple[Tensor, Tensor | None]:
        return objectives.xe(out.student, out.labels), None


class KL(Method):
    """Plain distillation from the teacher (equation 2)."""

    needs = frozenset({"teacher"})
    method: Literal["kl"] = "kl"
    temperature: float = Field(default=1.0, gt=0)

    def loss(self, out: Outputs) -> tuple[Tensor, Tensor | None]:
        return objectives.kl(out.student, out.teacher, self.temperature), None


class XEKL(Method):
    """Distillation and cross-entropy, λ on the former."""

    needs = frozenset({"teacher", "labels"})
    method: Literal["xe_kl"] = "xe_kl"
    temperature: float = Field(default=1.0, gt=0)
    weight: float = Field(ge=0, le=1, description="lambda, the weight on KL")

    def loss(self, out: Outputs) -> tuple[Tensor, Tensor | None]:
        return objectives.xe_kl(out.student, out.teacher, out.labels, self.weight, self.temperature), None


class XEKLMCL(XEKL):
    """XE-KL whose result is the slow weights θ_slow ← τ·θ_slow + (1−τ)·θ_fast, every N steps.

    Give `tau` as a number, or `half_life` as the share of the run after which half of the original
    student is forgotten; a τ made for long runs leaves the student of a short one where it was.
    BatchNorm statistics are averaged like the weights, as in the paper's runs.
    """

    method: Literal["xe_kl_mcl"] = "xe_kl_mcl"
    tau: float | None = Field(default=None, ge=0, lt=1)
    half_life: float | None = Field(default=None, gt=0)
    every: int = Field(default=2, ge=1, description="steps between two updates of the slow weights")

    @model_validator(mode="after")
    def _one_of_tau_and_half_life(self):
        if (self.tau is None) == (self.half_life is None):
            raise ValueError("give exactly one of 'tau' and 'half_life'")
        return self

    def slow_decay(self, steps: int) -> float:
        """τ for a run of `steps` optimiser steps: given, or such that τ^(half_life · updates) = ½."""
        if self.tau is not None:
            return self.tau
        return 0.5 ** (1 / (self.half_life * max(1, steps // self.every)))


class KLDP(Method):
    """KL+DP: per sample from the teacher or the frozen student, by the true class's probability."""

    needs = frozenset({"teacher", "frozen", "labels"})
    method: Literal["kl_dp"] = "kl_dp"
    temperature: float = Field(default=1.0, gt=0)

    def partition(self, out: Outputs) -> Tensor:
        return partition.supervised(out.teacher, out.frozen, out.labels)

    def loss(self, out: Outputs) -> tuple[Tensor, Tensor | None]:
        from_teacher = self.partition(out)
        target = partition.targets(from_teacher, out.teacher, out.frozen)
        return objectives.kl(out.student, target, self.temperature), from_teacher


class KLDPUnsupervised(KLDP):
    """KL+DP by confidence: no label is read."""

    needs = frozenset({"teacher", "frozen"})
    method: Literal["kl_dp_unsupervised"] = "kl_dp_unsupervised"

    def partition(self, out: Outputs) -> Tensor:
        return partition.unsupervised(out.teacher, out.frozen)


METHODS = (XE, KL, XEKL, XEKLMCL, KLDP, KLDPUnsupervised)

# A study's YAML chooses the class by the name in `method`.
AnyMethod = Annotated[Union[METHODS], Field(discriminator="method")]  # noqa: UP007 - built from the tuple
