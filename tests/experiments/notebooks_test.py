"""The notebooks run from top to bottom, and carry the outputs of a real run.

Fast: everything but the training itself, in this process, on made runs and small models; IPython
is stood in for. Slow: all of it in a kernel, on the smallest sizes (needs nbclient and
ipykernel).
"""

import ast
import json
import os
import pathlib
import re
import sys
import types

import pytest

from aster_jax import experiment, weights
from aster_jax.report import records
from aster_jax.report import run as report
from aster_jax.studies import measures, plan
from aster_jax.studies import run as studies
from tests.experiments import notebook
from tests.report import made_run
from tests.rollout import chatter

SMOKE = "experiments/smoke.py"
LARGEST = 700_000  # bytes of a notebook with its pictures


@pytest.fixture
def displayed(monkeypatch):
    """What the cells display, as (kind, argument); starts in the notebooks' own folder."""
    seen = []
    module = types.ModuleType("IPython.display")
    module.HTML = lambda text: ("html", text)
    module.Markdown = lambda text: ("text", text)
    module.Image = lambda data, width: ("image", data)
    module.display = seen.append
    package = types.ModuleType("IPython")
    package.version_info = (9, 0)  # matplotlib asks
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(notebook.FOLDER)
    before = dict(os.environ)
    yield seen
    os.environ.clear()
    os.environ.update(before)


def kinds(displayed):
    for data in (data for kind, data in displayed if kind == "image"):
        found = pathlib.Path(data).read_bytes() if isinstance(data, str) else data
        assert found.startswith(b"\x89PNG")
    return [kind for kind, _ in displayed]


def test_the_quickstart_shows_a_finished_run(displayed, tmp_path, capsys):
    report.write(made_run.write(tmp_path), 4.0)
    notebook.execute("quickstart", {"WORKDIR": str(tmp_path)}, skip=("run",))
    assert kinds(displayed) == ["image", "image", "image", "html"]
    assert displayed[-1][1].count('<details class="episode"') == 2
    assert "checkpoint" in capsys.readouterr().out


def test_a_trajectory_is_followed_to_its_advantage(displayed, tmp_path, capsys):
    made = chatter.build(tmp_path)
    model = tmp_path / "model"
    weights.export(made.params, made.cfg, made.tokenizer, model, "float32", style=chatter.STYLE)
    parameters = {"MODEL": str(model), "CHECKPOINT": "", "SAMPLES": 3, "CONTEXT": 640}
    names = notebook.execute("1_trajectory", parameters, skip=("run",))
    assert kinds(displayed) == ["html", "html", "html", "image", "html", "html"]
    one, said = names["one"], capsys.readouterr().out
    assert said.count("of its own") == 0 and said.count("tokens its own") == 3
    assert any(t.calls for t in names["made"]) and len(names["advantages"]) == 3
    # Shaded is what the model wrote, and that alone.
    mask = displayed[1][1]
    assert mask.count("<span") == len(one.tokens)
    assert mask.count(",0.55)") == sum(one.loss_mask)


def test_the_sandbox_shows_every_kind_of_end(displayed, capsys):
    parameters = {"LIBRARIES": ("math",), "WALL_S": 0.3, "CALLS": 20}
    notebook.execute("2_sandbox", parameters)
    said = capsys.readouterr().out
    assert kinds(displayed) == ["image"]
    ends = ("ok", "error", "timeout", "memory_limit", "exited", "output_limit", "crashed", "denied")
    assert [status for status in ends if f" {status} " not in said] == []
    assert "36893488147419103232" in said and "< |im_end|>" in said and "its own" in said


def test_collapse_reads_a_finished_study(displayed, tmp_path, capsys):
    c = experiment.read("experiments/studies/cold_start.py:small")
    made = {}
    members = [m for m in plan.members(c) if m.variant in ("quarter", "dense")]
    for member in members:
        path = made_run.write(tmp_path / member.path, rl_steps=3, problems=4)
        demos = {"trained_tokens_mean": 90.0, "demos": 8, "calls_mean": 5.0}
        made_run.put(path / "demos" / "DONE.json", json.dumps(demos))
        made[member] = vars(measures.measure(records.read(path)))
    studies.write(c, tmp_path, members, made, {})
    notebook.execute("3_collapse", {"WORKDIR": str(tmp_path)}, skip=("run",))
    assert kinds(displayed) == ["text", "image", "image", "image", "html"]
    assert displayed[0][1].startswith("# cold_start-small") and "![" not in displayed[0][1]
    said = capsys.readouterr().out
    assert said.count("state_reuse_frac") == 2 and said.count("calls stay between") == 2


def test_a_plan_says_what_fits(displayed, capsys):
    """The paper's run by arithmetic; the smoke run by the compiler that is always here."""
    parameters = {"EXPERIMENT": SMOKE, "TOPOLOGIES": ("v5e:2x4",), "ASKED": "cpu:8",
                  "PROGRAM": "adopt"}  # fmt: skip
    names = notebook.execute("4_plan", parameters)
    assert kinds(displayed) == ["image"]
    assert set(names["plan"]["programs"]) == {"adopt weights"}
    said = capsys.readouterr().out
    assert "v5e:2x4, 8 x TPU v5e of 15.8 GiB" in said and "yes: --config.mesh.data=1" in said
    assert "compiles: adopt weights" in said


SMALLEST = {
    "quickstart": {"EXPERIMENT": SMOKE},
    "1_trajectory": {"EXPERIMENT": SMOKE},
    "2_sandbox": {},
    "3_collapse": {"STUDY": "experiments/studies/cold_start.py:smoke"},
    "4_plan": {"EXPERIMENT": SMOKE, "TOPOLOGIES": ("v5e:2x4",), "ASKED": "cpu:8",
               "PROGRAM": "adopt"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", notebook.NAMES)
def test_the_whole_notebook_in_a_kernel(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # not the tests' own devices
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason="pip install nbclient ipykernel")
    workdir = {"WORKDIR": str(tmp_path / "run")} if "WORKDIR" in _parameters(name) else {}
    model = {"MODEL": str(tmp_path / "run")} if name == "1_trajectory" else {}
    book = notebook.in_kernel(name, SMALLEST[name] | workdir | model)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    # Silent are the set-up, the parameters and those that took their place.
    assert sum(not cell.outputs for cell in code) <= 3 and code[-1].outputs


def _parameters(name):
    (found,) = [c for c in notebook.cells(name) if "parameters" in notebook.tags(c)]
    names = {}
    exec("".join(found["source"]), names)
    return names


@pytest.mark.parametrize("name", notebook.NAMES)
def test_notebooks_hold_no_logic(name):
    made = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.While, ast.Try)
    for cell in notebook.cells(name):
        tree = ast.parse("".join(cell["source"]))
        assert [n for n in ast.walk(tree) if isinstance(n, made)] == []
    first = [notebook.tags(cell) for cell in notebook.cells(name)].index(["setup"])
    assert first == 0


@pytest.mark.parametrize("name", notebook.NAMES)
def test_notebooks_carry_the_outputs_of_a_run(name):
    text = (notebook.FOLDER / f"{name}.ipynb").read_text("utf-8")
    assert len(text) < LARGEST
    counts = [cell["execution_count"] for cell in notebook.cells(name)]
    assert counts == list(range(1, len(counts) + 1)), "not run from top to bottom in one go"
    outputs = [o for cell in notebook.cells(name) for o in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    shown = json.dumps([{k: v for k, v in o.items() if k != "data"} for o in outputs])
    shown += json.dumps([v for o in outputs for k, v in o.get("data", {}).items() if k != "image/png"])
    # Places on the machine that ran it; the tool's own neutral ones are no such thing.
    assert re.findall(r"/(?:home|root|Users|mnt|venv)/|\w/site-packages", shown) == []


def test_every_notebook_has_its_place_in_the_order():
    assert {p.stem for p in notebook.FOLDER.glob("*.ipynb")} == set(notebook.NAMES)
    first = json.loads((notebook.FOLDER / "quickstart.ipynb").read_text("utf-8"))["cells"][0]
    assert [n for n in notebook.NAMES[1:] if f"`{n}`" not in "".join(first["source"])] == []


def test_what_they_run_exists():
    for name in notebook.NAMES:
        for key in {"EXPERIMENT", "STUDY"} & set(_parameters(name)):
            assert experiment.read(_parameters(name)[key])
