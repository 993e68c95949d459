"""The notebook runs from top to bottom; IPython is stood in for where it is not installed.

Fast: everything but the training itself, on a made workdir. Slow: all of it, on the smoke
experiment.
"""

import ast
import json
import pathlib
import sys
import types

import pytest

from aster_jax.report import run as report
from tests.report import made_run

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = ROOT / "experiments" / "colabs" / "quickstart.ipynb"
CELLS = [c for c in json.loads(PATH.read_text())["cells"] if c["cell_type"] == "code"]


def _tags(cell):
    return cell["metadata"]["tags"] if "tags" in cell["metadata"] else []


@pytest.fixture
def displayed(monkeypatch):
    """What the cells display, as (kind, argument); starts in the notebook's own folder."""
    seen = []
    module = types.ModuleType("IPython.display")
    module.HTML = lambda text: ("html", text)
    module.Image = lambda path: ("image", path)
    module.display = seen.append
    package = types.ModuleType("IPython")
    package.version_info = (9, 0)  # matplotlib asks
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(PATH.parent)
    return seen


def _execute(cells, parameters):
    """Run cells one after the other in one namespace, as a kernel would."""
    names = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), str(PATH), "exec"), names)
        if "parameters" in _tags(cell):
            names.update(parameters)


def _check(displayed):
    kinds = [kind for kind, _ in displayed]
    assert kinds == ["image", "image", "image", "html"]
    for path in (path for kind, path in displayed if kind == "image"):
        assert pathlib.Path(path).read_bytes().startswith(b"\x89PNG")
    assert displayed[-1][1].count('<details class="episode"') == 2


def test_cells_show_a_finished_run(displayed, tmp_path, capsys):
    report.write(made_run.write(tmp_path), 4.0)
    cells = [c for c in CELLS if "run" not in _tags(c)]
    assert len(cells) == len(CELLS) - 1
    _execute(cells, {"WORKDIR": str(tmp_path)})
    _check(displayed)
    assert "checkpoint" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_notebook_on_the_smoke_experiment(displayed, tmp_path):
    _execute(CELLS, {"EXPERIMENT": "experiments/smoke.py", "WORKDIR": str(tmp_path / "run")})
    _check(displayed)


def test_the_notebook_holds_no_logic_and_no_output():
    for cell in CELLS:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        tree = ast.parse("".join(cell["source"]))
        made = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.While)
        assert [n for n in ast.walk(tree) if isinstance(n, made)] == []


def test_the_experiment_it_names_exists():
    (parameters,) = [c for c in CELLS if "parameters" in _tags(c)]
    names = {}
    exec("".join(parameters["source"]), names)
    assert (ROOT / names["EXPERIMENT"]).exists()
