"""The notebook of docs/ runs as it stands, and what it shows is what it showed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.ray
def test_one_pair_runs_and_shows_what_it_showed():
    """All of it but the numbers, which depend on the machine in their last digits."""
    notebook = nbformat.read(DOCS / "one_pair.ipynb", as_version=4)
    kinds = [[one.output_type for one in cell.get("outputs", [])] for cell in notebook.cells]
    assert sum(map(len, kinds)) >= 8
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": DOCS}}).execute()
    assert [[one.output_type for one in cell.get("outputs", [])] for cell in notebook.cells] == kinds
    said = str(notebook)
    assert "rho_pos" in said and "kl_dp_unsupervised" in said
