"""The two commands: the person's interpreter and the host's probe table."""

import pathlib
import subprocess
import sys

import pytest

from aster_jax.tools import doctor, repl

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("row, whole", [
    ("x = 1", True), ("for i in x:", False), ("1 +", True), ("", True), ("f(", False),
])
def test_whole_first_lines(row, whole):
    assert repl.is_whole(row) == whole


def test_a_person_gets_what_the_model_gets():
    done = subprocess.run(
        [sys.executable, "-m", "aster_jax.tools", "repl"], text=True, capture_output=True,
        input="x = 20\nfor i in range(2):\n    print(x + i)\n\n1 / 0\n", cwd=ROOT, check=True,
    )
    assert "20\n21\n" in done.stdout and "ZeroDivisionError" in done.stdout
    assert "(error, state kept" in done.stdout and done.stdout.startswith("tier ")


def test_an_unknown_command_is_told_the_known_ones():
    done = subprocess.run(
        [sys.executable, "-m", "aster_jax.tools", "heal"], text=True, capture_output=True,
        cwd=ROOT, check=False,
    )
    assert done.returncode == 2 and "doctor | repl" in done.stderr


def test_every_tier_and_layer_gets_a_row():
    found = dict(doctor.probe_layers())
    assert {"system", "landlock", "user namespace", "PID namespace"} <= set(found)
    assert all(found.values())
    rows = doctor.probe_tiers()
    assert [tier for tier, _, _ in rows] == ["A1", "A2", "B1", "B2", "C", "D"]
    assert all(problem == "" or len(problem) > 10 for _, problem, _ in rows)
    assert "" in [problem for _, problem, _ in rows]
