"""What an installation has: the command, the experiments, and a recipe that runs far from here."""

import os
import subprocess
import sys

import pytest

from aster_jax import experiment
from tests import source_tree

ROOT = source_tree.ROOT


def run(arguments, at, **environment):
    known = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        arguments, cwd=at, env={**known, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What would be installed, as a folder for PYTHONPATH."""
    pytest.importorskip("setuptools", reason="setuptools is not here; pip install setuptools")
    made = tmp_path_factory.mktemp("built")
    # From a copy: building leaves folders beside setup.py.
    copy = made / "checkout"
    for path in source_tree.tracked():
        if path.parts[0] in ("aster_jax", "experiments") or len(path.parts) == 1:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_bytes((ROOT / path).read_bytes())
    ended = run([sys.executable, "setup.py", "-q", "build_py", "--build-lib", made / "lib"], copy)
    assert ended.returncode == 0, ended.stderr
    return made / "lib"


def test_every_module_experiment_and_page_comes_along(built):
    there = {p.relative_to(built).as_posix() for p in built.rglob("*") if p.is_file()}
    wanted = set()
    for path in source_tree.tracked():
        name = path.as_posix()
        if path.parts[0] == "aster_jax" and path.suffix in (".py", ".js", ".css", ".md", ".html"):
            wanted.add(name)
        is_config = path.parts[:2] == ("experiments", "studies") or len(path.parts) == 2
        if path.parts[0] == "experiments" and is_config:
            wanted.add(f"aster_jax/{name}")
    assert there == wanted


def test_an_installed_command_finds_its_experiments_from_anywhere(built, tmp_path):
    ended = run([sys.executable, "-m", "aster_jax.command", "--help"], tmp_path, PYTHONPATH=str(built))
    assert ended.returncode == 0, ended.stderr
    assert "studies/quickstart_direct" in ended.stdout and str(built) in ended.stdout
    names = "aster_1p7b", "experiments/smoke.py", "studies/quickstart_direct", "aster_4b:16"
    script = f"from aster_jax import experiment\nfor n in {names}: print(experiment.read(n).name)"
    ended = run([sys.executable, "-c", script], tmp_path, PYTHONPATH=str(built))
    assert ended.stdout.split() == ["aster_1p7b", "smoke", "quickstart_direct", "aster_4b"], ended.stderr
    script = "from aster_jax import experiment\nfor n in experiment.names(): experiment.read(n); print(n)"
    ended = run([sys.executable, "-c", script], tmp_path, PYTHONPATH=str(built))
    assert ended.stdout.split() == experiment.names(), ended.stderr


@pytest.mark.slow
def test_a_wheel_in_an_environment_of_its_own_runs_the_recipe(tmp_path):
    """Needs a registry for what builds the wheel; everything else is taken from this environment."""
    wheels, venv = tmp_path / "wheels", tmp_path / "venv"
    ended = run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ROOT], tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    (wheel,) = wheels.glob("aster_jax-*.whl")
    assert run([sys.executable, "-m", "venv", venv], tmp_path).returncode == 0
    (site,) = (venv / "lib").glob("python3*/site-packages")
    others = [p for p in sys.path if p.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others))
    ended = run([venv / "bin" / "pip", "install", "-q", "--no-deps", wheel], tmp_path)
    assert ended.returncode == 0, ended.stderr
    aster = venv / "bin" / "aster"
    ended = run([aster, "--help"], tmp_path)
    assert ended.returncode == 0 and "quickstart" in ended.stdout, ended.stderr
    ended = run([aster, "--config", "smoke", "--config.stages=('demos',)"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.glob("runs/smoke*/demos/DONE.json"))
    ended = run([aster, "tools", "doctor"], tmp_path)
    assert "tier" in ended.stdout, ended.stderr
    where = run([aster, "--config", "absent"], tmp_path)
    assert where.returncode == 1 and "there is no experiment" in where.stderr


def test_the_extras_and_the_bounds_are_those_of_the_pins(monkeypatch):
    setuptools = pytest.importorskip("setuptools", reason="setuptools is not here")
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **words: given.update(words))
    monkeypatch.chdir(ROOT)
    exec(compile((ROOT / "setup.py").read_text("utf-8"), "setup.py", "exec"), {})
    extras = given["extras_require"]
    assert {"gpu", "tpu", "hub", "serve", "wandb", "trackio", "plan", "peers", "test", "dev"} <= set(extras)
    pins = dict(
        line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and line[0] != "#"
    )  # fmt: skip
    bounds = dict(line.split(">=") for line in [*given["install_requires"], *extras["test"]])
    assert bounds == pins  # nothing the package needs is left out, and what was tested is asked for
