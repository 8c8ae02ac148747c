"""What a student learns from: each objective one function (or module), whose signature is its contract.

What stands before the star is what it reads: `student` (its logits), `teacher`, `teachers` (a tuple),
`frozen` (the original student), `labels`, `indices` (positions in the transfer set), `student_features`,
`teacher_features`, `teachers_features`, `frozen_features` (pooled, before the head), `student_maps`,
`teacher_maps` (a tuple, those of each stage), and `learning_teacher` (logits of a copy of the teacher, which
is trained with the student), and, of a second input (a copy of the batch, shown otherwise:
`spec.Augmentation`), the logits `student_augmented` and `teacher_augmented`, with a default of None where
there may be none. It is given nothing else: labels never reach what does not name them. What stands behind
the star is what a study may set. It returns the loss, a mean over samples, or the loss and measures: {name:
values of each sample}, whose means the history holds.

After "Fantastic Gains and Where to Find Them" (arXiv 2310.17653): `losses` (sections 4.1 and 5.1, appendix
B.1), `partition` (sections 4.2 and 4.3), `contrastive` (appendix A.2). Beyond it: `pool`, `beyond`,
`bidirectional`, and `features` (after arXiv 2012.02909). An objective with parameters of its own is a
`torch.nn.Module` class: behind the star of its `__init__` stand its settings, before it what it is made with
(`contract.MADE_WITH`); its `forward` names what it reads. One's own, of either kind, works by its dotted name
(CONTRIBUTING.md). What is expected of each: docs/methods.md.

Shapes everywhere: logits [batch, classes] of any float dtype, computed with in float32; labels int64 [batch],
or, where images are mixed, their shares float32 [batch, classes]; indices int64 [batch]; features [batch,
dim]; maps [batch, channels, height, width]; losses float32 scalars, in nats.
"""

from collections.abc import Callable

from study.objectives.beyond import (
    kl_of_classes,
    kl_of_experts,
    xe_kl_adaptconf,
    xe_kl_dp_calibrated,
    xe_kl_mixed,
    xe_kl_until_passed,
)
from study.objectives.bidirectional import bi_kd
from study.objectives.contract import (
    INPUTS,
    MADE_WITH,
    check,
    classes_taught,
    fitted_on_tune,
    made_with,
    make,
    needs,
    needs_of_one_input,
)
from study.objectives.contrastive import cd, crd
from study.objectives.features import xe_kl_at, xe_kl_cc, xe_kl_crd, xe_kl_pkt, xe_kl_sp, xe_kl_vid
from study.objectives.losses import (
    kl,
    kl_top_k,
    soft_xe,
    tf_kd_reg,
    xe,
    xe_hard,
    xe_kl,
    xe_kl_as_run,
    xe_kl_augmented,
    xe_kl_smoothed,
)
from study.objectives.partition import (
    best,
    kl_dp,
    kl_dp_calibrated,
    kl_dp_drop,
    kl_dp_unsupervised,
    kl_flips,
    self_distillation,
    targets,
    xe_kl_dp,
)
from study.objectives.pool import xe_kl_op, xe_kl_op_agreement, xe_kl_op_equal

OBJECTIVES: dict[str, Callable] = {
    objective.__name__: objective
    for objective in (
        *(xe, kl, xe_kl, kl_dp, kl_dp_unsupervised),
        *(xe_kl_dp, kl_flips, self_distillation),
        *(soft_xe, xe_hard, kl_top_k, xe_kl_smoothed, xe_kl_as_run, tf_kd_reg, xe_kl_augmented),
        *(cd, crd),
        *(xe_kl_op, xe_kl_op_agreement, xe_kl_op_equal),
        *(xe_kl_dp_calibrated, xe_kl_mixed, xe_kl_adaptconf, xe_kl_until_passed),
        *(kl_of_classes, kl_of_experts),
        *(kl_dp_drop, kl_dp_calibrated, bi_kd),
        *(xe_kl_at, xe_kl_sp, xe_kl_cc, xe_kl_crd, xe_kl_pkt, xe_kl_vid),
    )
}

__all__ = [
    "INPUTS",
    "MADE_WITH",
    "OBJECTIVES",
    "best",
    "check",
    "classes_taught",
    "fitted_on_tune",
    "made_with",
    "make",
    "needs",
    "needs_of_one_input",
    "targets",
]
