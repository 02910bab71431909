"""docs/quickstart.ipynb runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(
        output.get("data", {}).get("text/plain", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "SmolLM2" in shown
