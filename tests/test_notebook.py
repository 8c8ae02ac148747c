"""The notebook of docs/ runs as it stands, and what it shows is what it showed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parents[1] / "docs"


def kinds(notebook) -> list[set[str]]:
    """What each cell shows: text, a table, a figure."""
    return [
        {kind for one in cell.get("outputs", []) for kind in (one.get("data") or {one["name"]: None})}
        for cell in notebook.cells
    ]


@pytest.mark.ray
def test_one_pair_runs_and_shows_what_it_showed():
    """All of it but the numbers, which depend on the machine in their last digits."""
    notebook = nbformat.read(DOCS / "one_pair.ipynb", as_version=4)
    shown = kinds(notebook)
    assert sum("image/png" in one for one in shown) == sum("text/html" in one for one in shown) == 2
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": DOCS}}).execute()
    assert kinds(notebook) == shown
    said = str(notebook)
    assert "rho_pos" in said and "kl_dp_unsupervised" in said
