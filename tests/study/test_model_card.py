"""The card of an improved model, read as a page shows it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from study import model_card

MEASURES = {"top5_accuracy": 0.99, "negative_log_likelihood": 0.4, "calibration_error": 0.02}
ROW = {"epochs": 5, "delta": 0.01, "gained": 30, "lost": 10, "p": 0.001}
TRIED = [
    {**ROW, "round": 1, "teacher": "no teacher (control)", "level": None, "kept": False},
    {**ROW, "round": 1, "teacher": "wide", "level": 0.025, "kept": True},
]

STEP = SimpleNamespace(
    teachers=[SimpleNamespace(name="wide"), SimpleNamespace(name="deep")], budget=SimpleNamespace(epochs=5)
)


def proof(delta: float):
    return SimpleNamespace(
        before=0.85,
        after=0.85 + delta,
        delta=delta,
        low=delta - 0.001,
        high=delta + 0.001,
        samples=35000,
        gained=500,
        lost=100,
        p=1e-9,
        measures_before=MEASURES,
        measures_after=MEASURES,
    )


def card(**changes) -> str:
    about = {
        "repository": "better",
        "licence": "other",
        "proof": proof(0.01),
        "changed": 0.023,
        "data": "fashion_mnist",
        "student": "small",
        "steps": [STEP],
        "control": {"what": "The same training", "proof": proof(-0.001)},
        "classes": 10,
        "own": True,
        "place": "local-dir:better",
        "tune_samples": 4000,
        "transfer_samples": 6000,
        "tried": TRIED,
        "unlabelled": False,
        "method": "xe_kl_op",
        "lr": "0.01",
        "rows": [("bag", 3500, 20, 3), ("coat", 3500, 5, 9)],
        "licences": [("small", "of your own making", "student", "open"), ("wide", "mit", "teacher", "open")],
        "terms": {"open"},
        "command": "python jobs/improve.py small",
        "data_sha256": "ab12",
        "environment": SimpleNamespace(timm_version="1", torch_version="2", python_version="3", device="cpu"),
        "precision": "float32",
    }
    return model_card.card(**(about | changes))


def tables(text: str) -> list[int]:
    """How many rows, the head included, the tables of a text have."""
    rows: list[int] = []
    for token in MarkdownIt().enable("table").parse(ModelCard(text).text):
        if token.type == "table_open":
            rows.append(0)
        rows[-1:] = [rows[-1] + 1] if token.type == "tr_open" else rows[-1:]
    return rows


def test_its_tables_are_whole():
    assert tables(card()) == [1 + 4, 1 + 2, 1 + 2, 1 + 2]
    assert tables(card(classes=5)) == [1 + 3, 1 + 2, 1 + 2, 1 + 2]
    assert tables(card(steps=[])) == [1 + 4, 1 + 2, 1 + 2]
    assert "\n\n\n" not in card() + card(steps=[], control=None, own=False, unlabelled=True)


def test_where_nothing_was_verified_it_claims_nothing():
    text = card(proof=None, tried=[], rows=[], control=None, unlabelled=True)
    assert tables(text) == [1 + 2] and "\n\n\n" not in text
    assert "Nothing was verified" in text and "whether it is better than the original is not known" in text
    assert "answers 2.30 % otherwise" in text and "From wide, then deep, 5 epochs each" in text
    assert "eval_results" not in text and "model-index" not in text and "top-1" not in text
    assert "model-index" in card()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "made better: 85.00 % → 86.00 % top-1, +1.00 points [+0.90, +1.10]"),
        ({"proof": proof(0.0005)}, "these images alone do not say so"),
        ({"steps": []}, "This is the original, unchanged"),
        ({"unlabelled": True}, "The labels of the images it learnt from were not read"),
        ({"terms": {"open", "non-commercial"}}, "A non-commercial licence is among them"),
        ({"terms": {"see its terms"}}, "read them before this model is passed on"),
    ],
)
def test_it_claims_what_was_found(changes, said):
    assert said in card(**changes)
