"""Tables: what the cells say, and that they line up on a terminal."""

import json

from aster_jax.report import collapse, tables
from tests.report import made_run


def _results(tmp_path):
    return json.loads((made_run.write(tmp_path) / "eval" / "results.json").read_text())


def test_headline_has_accuracy_with_interval_and_size(tmp_path):
    table = tables.headline(_results(tmp_path))
    rl2 = next(r for r in table.rows if r[0] == "rl2" and r[1] == "with the tool")
    assert rl2[2] == "90.0 [84.0, 96.0]"
    assert rl2[3] == tables.NOTHING  # pass@1 is avg@1
    assert rl2[4] == "12 x 1"
    assert rl2[6] == "2.90 [2.75, 3.04]"
    assert rl2[8] == "96.0"
    assert "temperature 1" in table.note and "8 tool calls" in table.note


def test_headline_shows_how_many_trajectories_no_number_counts(tmp_path):
    results = _results(tmp_path)
    results[-1]["masked"] = 7  # of the arm without the tool, which has no table of its own
    table = tables.headline(results)
    left_out = [row[table.columns.index("left out")] for row in table.rows]
    assert left_out == ["0"] * 7 + ["7"]
    assert "deadline" in table.note


def test_pass_at_k_is_shown_when_it_says_something(tmp_path):
    results = [{**_results(tmp_path)[0], "k": 4, "pass_at_k": 0.5}]
    assert tables.headline(results).rows[0][3].startswith("50.0 [")


def test_conclusions_follow_from_the_numbers(tmp_path):
    said = tables.conclusions(_results(tmp_path))
    assert said[0] == "RL moved accuracy from 30.0 % after SFT to 90.0 %: +60.0 points."
    assert "from 2.90 to 2.90: 100 % of" in said[1]
    assert "solves 4.5 %" in said[2]
    assert tables.conclusions([]) == []


def test_a_fall_is_said_as_plainly_as_a_rise(tmp_path):
    results = [r for r in _results(tmp_path) if r["checkpoint"] in ("sft", "rl1")]
    results[2]["avg_at_k"] = 0.1
    assert tables.conclusions(results)[0].endswith("-20.0 points.")


def test_tool_use_shows_dashes_where_there_was_no_call():
    rows = {"base": [made_run.without_tool()], "rl2": [made_run.episode()]}
    summaries = {n: collapse.summarise([collapse.measure(r) for r in rs]) for n, rs in rows.items()}
    table = tables.tool_use(summaries)
    by_label = {r[0].strip(): r[1:] for r in table.rows}
    assert table.columns == ("", "base", "rl2")
    assert by_label["calls per trajectory, mean"] == ("0.00", "2.00")
    assert by_label["attempts at a call that failed, %"] == (tables.NOTHING, "50.0")
    assert by_label["attempts: error, %"] == (tables.NOTHING, "50.0")
    assert by_label["ended: answered, %"] == ("100.0", "100.0")
    assert tables.tool_use({}).rows == ()


def test_families_have_a_column_each(tmp_path):
    table = tables.families(_results(tmp_path))
    assert table.columns == ("checkpoint", "arm", "lcm", "prod")
    assert table.rows[0][2] == "0.0 (n=6)"


def test_stages_tell_finished_from_begun_and_missing():
    sft = {"stage": "sft", "step": 4, "time_s": 200.0}
    metrics = [sft, {"stage": "rl1", "step": 1, "time_s": 3.0}]
    config = {"stages": ["demos", "sft", "rl1", "eval", "report"]}
    demos = {"kept": 48, "calls": 3.14159, "dropped": {"a": 1}}
    left = {"demos": demos, "sft": {"probe": float("nan")}}
    rows = tables.stages(config, metrics, left).rows
    assert rows == (
        ("demos", "finished", "–", "–", "kept 48, calls 3.14"),
        ("sft", "finished", "4", "3 min 20 s", "–"),
        ("rl1", "under way", "1", "3 s", "–"),
        ("eval", "not run", "–", "–", "–"),
    )


def test_time_in_steps_adds_up_over_resumes():
    # Killed after 50 s, resumed and killed after 30 s, resumed: 50 + 30 + 7.
    times = (20.0, 50.0, 10.0, 30.0, 3.0, 7.0)
    metrics = [{"stage": "sft", "step": i + 1, "time_s": t} for i, t in enumerate(times)]
    rows = tables.stages({"stages": ["sft"]}, metrics, {}).rows
    assert rows == (("sft", "under way", "6", "1 min 27 s", "–"),)


def test_text_is_aligned():
    table = tables.Table("T", ("a", "long column"), (("wide cell", "1"), ("x", "22")))
    assert tables.to_text(table).splitlines() == [
        "T",
        "a          long column",
        "----------------------",
        "wide cell  1",
        "x          22",
    ]
    assert tables.to_text(tables.Table("T", ("a",), ())) == "T: not run\n"


def test_durations():
    assert [tables.duration(s) for s in (0.4, 59, 61, 3600 + 125)] == [
        "0 s", "59 s", "1 min 01 s", "1 h 02 min",
    ]  # fmt: skip
