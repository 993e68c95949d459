"""Reading a workdir: whole, half-made, and damaged."""

import json

import pytest

from aster_jax.report import records
from tests.report import made_run


def test_a_whole_run(tmp_path):
    found = records.read(made_run.write(tmp_path), 6)
    assert found.config["name"] == "made"
    assert len(found.results) == 8
    assert len(found.eval_rows) == 8 * 12
    assert len(found.rl_rows) == 2 * 12 * 8
    assert list(found.finished) == made_run.STAGES[:-1]


def test_shown_trajectories_are_bounded_and_mixed(tmp_path):
    shown = records.read(made_run.write(tmp_path), 6).shown
    rl1 = [r for r in shown if (r["checkpoint"], r["arm"]) == ("rl1", "main")]
    assert len(rl1) == 6
    assert {r["family"] for r in rl1} == set(made_run.FAMILIES)
    assert {r["reward"] for r in rl1} == {0.0, 1.0}
    assert len([r for r in shown if r["arm"] == "no_tool"]) == 4


def test_without_an_evaluation_the_last_rl_step_is_shown(tmp_path):
    made_run.write(tmp_path)
    (tmp_path / "eval" / "episodes.jsonl").unlink()
    shown = records.read(tmp_path, 6).shown
    assert {(r["stage"], r["step"]) for r in shown} == {("rl1", 12), ("rl2", 12)}


def test_a_run_that_only_began(tmp_path):
    made_run.put(tmp_path / "config.json", json.dumps({"name": "n", "stages": ["sft"]}))
    found = records.read(tmp_path, 6)
    assert (found.metrics, found.results, found.shown, found.finished) == ([], [], [], {})


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="config.json is missing.*workdir"):
        records.read(tmp_path, 6)


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("metrics.jsonl", "{torn", "line 85: not JSON"),
        ("metrics.jsonl", '{"stage": "sft"}', r"line 85: keys \['step', 'time_s'\] are missing"),
        ("eval/episodes.jsonl", "7", "line 97: expected an object, found int"),
        ("eval/episodes.jsonl", "{}", "line 97: keys"),
        ("rl1/episodes/step_000003.jsonl", "", "line 9: not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, file, line, said):
    made_run.write(tmp_path)
    with open(tmp_path / file, "a") as f:
        f.write(line + "\n")
    with pytest.raises(ValueError, match=f"{file}, {said}"):
        records.read(tmp_path, 6)


def test_an_episode_with_broken_calls_is_named(tmp_path):
    made_run.write(tmp_path)
    made_run.put_lines(tmp_path / "eval" / "episodes.jsonl", [made_run.episode(calls=[{}])])
    with pytest.raises(ValueError, match="episodes.jsonl, line 1: not an episode record"):
        records.read(tmp_path, 6)


def test_broken_results_are_named(tmp_path):
    made_run.write(tmp_path)
    made_run.put(tmp_path / "eval" / "results.json", "[\n{]")
    with pytest.raises(ValueError, match="results.json, line 2: not JSON"):
        records.read(tmp_path, 6)
    made_run.put(tmp_path / "eval" / "results.json", '[{"arm": "main"}]')
    with pytest.raises(ValueError, match="results.json, entry 1: keys"):
        records.read(tmp_path, 6)


def test_spread_takes_in_turn():
    kinds = [[{"a": 1}, {"a": 2}, {"a": 3}], [{"b": 1}]]
    assert records.spread(kinds, 3) == [{"a": 1}, {"b": 1}, {"a": 2}]
    assert len(records.spread(kinds, 9)) == 4
