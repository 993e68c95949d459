"""Runs side by side: every number in the column of its run."""

import json

import pytest

from aster_jax.report import compare, gather, records
from tests.report import made_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    paths = [made_run.write(tmp_path_factory.mktemp(name), rl_steps=2) for name in ("a", "b")]
    config = json.loads((paths[1] / "config.json").read_text())
    made_run.put(paths[1] / "config.json", json.dumps({**config, "seed": 4}))
    made_run.put(paths[1] / "eval" / "asked.json", "[]")
    return {name: records.read(path) for name, path in zip("ab", paths, strict=True)}


def test_a_column_for_every_run(runs):
    accuracy, calls, _, newest, differing = compare.all_tables(runs)
    assert accuracy.columns == ("checkpoint", "arm", "evaluation", "a", "b")
    row = next(r for r in accuracy.rows if r[:2] == ("rl2", "with the tool"))
    assert row[3:] == ("90.0 [84.0, 96.0]", "–")
    assert newest.rows[0] == ("step", "rl2 2", "rl2 2")
    assert differing.rows == (("seed", "3", "4"),)


def test_the_sheet_has_both_configs_and_figures(runs):
    sheet, numbers = compare.sheet(runs)
    assert sheet.title == "a | b" and list(sheet.configs) == ["a", "b"]
    assert all(figure.png for figure in sheet.figures)
    assert numbers["b"]["seed"] == 4 and numbers["a"]["results"]


def test_names_are_as_long_as_they_have_to_be(tmp_path):
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    assert gather.names(paths) == ["x/run", "y/run"]
    assert gather.names(paths[:1]) == ["run"]
    assert gather.names([tmp_path, tmp_path]) == [f"{n} ({i})" for i in (1, 2)
                                                  for n in [str(tmp_path).lstrip("/")]]  # fmt: skip
