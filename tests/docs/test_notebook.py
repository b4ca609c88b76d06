"""The notebook runs from top to bottom, and stands in git without outputs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.docs.blocks import ROOT

NOTEBOOK = ROOT / "notebooks" / "method.ipynb"
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: it comes with the extra `docs`")


def cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_committed_without_outputs() -> None:
    """They would be another set of pictures with every version and machine."""
    for cell in cells(nbformat.read(NOTEBOOK, as_version=4)):
        assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.slow
def test_it_runs_and_shows_what_it_says() -> None:
    client = pytest.importorskip("nbclient", reason="nbclient is not installed: it comes with the extra `docs`")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: it comes with the extra `docs`")
    pytest.importorskip("matplotlib")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    done = client.NotebookClient(
        notebook, timeout=280, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    outputs = [output for cell in cells(done) for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "policy = reference: loss 0.6931" in printed
    assert "kept: the weights after epoch" in printed and "after: pass@1" in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
