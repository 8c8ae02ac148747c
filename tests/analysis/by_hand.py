"""Rows of `trials` by hand: what `results.load` guarantees of them, and no other column."""

from __future__ import annotations

from collections.abc import Mapping


def trial(
    method: str,
    student: str,
    teacher: str | None,
    gained: int,
    lost: int,
    seed: int = 0,
    *,
    samples: int,
    differences: Mapping[str, float],
    **fields,
) -> dict:
    """A finished trial.

    Args:
        method, student, teacher, seed: what it is.
        gained, lost: samples of the evaluation.
        samples: that it has.
        differences: Delta_acc by the teacher's name.
        fields: other columns, or other values of these.
    """
    return {
        "trial": f"{method}-{student}-{teacher}-{seed}",
        "study": "demo",
        "status": "ok",
        "reason": None,
        "method": method,
        "student": student,
        "teacher": teacher,
        "combine": None,
        "order": None,
        "seed": seed,
        "evaluation_samples": samples,
        "accuracy_difference": differences[teacher] if teacher else None,
        "transfer_delta": (gained - lost) / samples,
        "knowledge_gain": gained / samples,
        "knowledge_loss": lost / samples,
        "transfer_rate": 0.25 if teacher else None,
    } | fields


def failed(row: dict, reason: str) -> dict:
    """The trial if it had failed: its measures are null."""
    measures = ["accuracy_difference", "transfer_delta", "knowledge_gain", "knowledge_loss", "transfer_rate"]
    nothing = dict.fromkeys([*measures, "evaluation_samples"])
    return row | nothing | {"status": "failed", "reason": reason}
