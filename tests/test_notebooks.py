"""The notebooks of examples/, executed from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


def test_all_three_are_there():
    assert NOTEBOOKS == [
        "denoise_a_photograph.ipynb",
        "scores_and_samples.ipynb",
        "view_a_data_set.ipynb",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.filterwarnings("ignore")  # Jupyter's own, about its settings and event loops
def test_it_runs_and_shows_pictures(name, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the command line sets it in its process
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises at the first cell that does
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    said = "".join(output["text"] for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in said.replace("TqdmWarning", ""), said  # tqdm misses its widgets
