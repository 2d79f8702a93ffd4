"""The chapters of the tutorial run, and each notebook is what its script gives."""

import os
import re
import subprocess
import sys

import jupytext
import nbformat
import pytest
from support.paths import ROOT

TUTORIAL = ROOT / "examples" / "tutorial"
SCRIPTS = sorted(TUTORIAL.glob("[0-9]*.py"))
# Runs a script; where it shows figures, their axes have to say what they are.
WATCHED = """
import runpy, sys
import matplotlib
matplotlib.use("agg")
from matplotlib import pyplot as plt

def show():
    drawn = [axes for number in plt.get_fignums() for axes in plt.figure(number).axes]
    assert drawn
    for axes in drawn:
        if axes.axison:
            across = axes.get_shared_x_axes().get_siblings(axes)
            along = axes.get_shared_y_axes().get_siblings(axes)
            assert any(other.get_xlabel() for other in across), axes
            assert any(other.get_ylabel() for other in along), axes
    plt.close("all")

plt.show = show
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_runs(script, tmp_path, compiled_for_speed):
    result = subprocess.run(
        [sys.executable, "-c", WATCHED, str(script)],
        capture_output=True,
        text=True,
        timeout=1200,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr


def test_every_script_has_a_notebook_and_a_line():
    assert [path.stem for path in sorted(TUTORIAL.glob("*.ipynb"))] == [
        path.stem for path in SCRIPTS
    ]
    text = (TUTORIAL / "README.md").read_text()
    assert re.findall(r"\((.*)\.ipynb\)", text) == [path.stem for path in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_is_what_the_script_gives(script):
    path = script.with_suffix(".ipynb")
    notebook = nbformat.read(path, as_version=4)
    sources = jupytext.read(script, fmt="py:percent").cells
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in sources
    ], "run examples/tutorial/build.py"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error", output
        assert output.get("name") != "stderr", output
    for cell in code:
        shown = any("image/png" in output.get("data", {}) for output in cell.outputs)
        assert shown == ("plt.show()" in cell.source), cell.source
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(script):
    prose = re.findall(r"^# .*", script.read_text(), re.M)
    for link in re.findall(r"\]\(([^)#:]+)(?:#\S*)?\)", "\n".join(prose)):
        assert (TUTORIAL / link).exists(), link
