"""Tables: what the cells say, and that they line up on a terminal."""

import json

from aster_jax.report import collapse, tables
from tests.report import made_run


def _results(tmp_path):
    return json.loads((made_run.write(tmp_path) / "eval" / "results.json").read_text())


def test_headline_has_accuracy_with_interval_and_size(tmp_path):
    table = tables.headline(_results(tmp_path))
    rl2 = next(r for r in table.rows if r[0] == "rl2" and r[1] == "with the tool")
    assert dict(zip(table.columns, rl2)) == {
        "checkpoint": "rl2", "arm": "with the tool", "accuracy % [95 %]": "90.0 [84.0, 96.0]",
        "problems x k": "12 x 1", "cut": "0", "lost": "0", "calls [95 %]": "2.90 [2.75, 3.04]",
        "tokens": "240", "answered %": "96.0",
    }  # fmt: skip
    assert "temperature 1 and top-p 1" in table.note and "8 tool calls" in table.note
    assert "lower bound" not in table.note


def _column(table, name):
    return [row[table.columns.index(name)] for row in table.rows]


def test_what_was_cut_or_lost_gives_an_upper_bound_beside_the_accuracy(tmp_path):
    results = _results(tmp_path)
    results[-2] |= {"cut": 2, "avg_at_k": 0.25, "avg_upper": 1.0}
    results[-1] |= {"masked": 7, "avg_upper": 0.5, "complete": False}
    table = tables.headline(results)
    assert _column(table, "cut") == ["0"] * 6 + ["2", "0"]
    assert _column(table, "lost") == ["0"] * 7 + ["7"]
    assert _column(table, "at most %") == [tables.NOTHING] * 6 + ["100.0", "50.0"]
    assert "the accuracy is a lower bound" in table.note and "asked again" in table.note


def test_an_arm_of_which_all_was_lost_has_no_calls(tmp_path):
    nothing = {"calls_mean": None, "calls_low": None, "calls_high": None, "tokens_mean": None}
    nothing |= {"masked": 12, "end": {"infrastructure": 1.0}}
    results = [r | nothing for r in _results(tmp_path)]
    table = tables.headline(results)
    assert _column(table, "calls [95 %]") == _column(table, "tokens") == [tables.NOTHING] * 8
    assert len(tables.conclusions(results)) == 2  # nothing about calls


def test_pass_and_majority_are_shown_when_they_say_something(tmp_path):
    results = [{**_results(tmp_path)[0], "k": 4, "pass_at_k": 0.5, "maj_at_k": 0.25}]
    table = tables.headline(results)
    assert _column(table, "pass@k %")[0].startswith("50.0 [")
    assert _column(table, "maj@k %") == ["25.0"]
    table = tables.headline([*results, _results(tmp_path)[1]])
    assert (_column(table, "pass@k %")[1], _column(table, "maj@k %")[1]) == (tables.NOTHING,) * 2


def test_several_evaluations_are_told_apart(tmp_path):
    results = _results(tmp_path)
    cool = {"evaluation": "cool", "temperature": 0.6, "heldout": "aime.jsonl", "k": 16}
    both = results + [r | cool for r in results]
    table = tables.headline(both)
    assert _column(table, "evaluation") == ["main"] * 8 + ["cool"] * 8
    assert "main: Generated problems, avg@1 at temperature 1 " in table.note
    assert "cool: Aime.jsonl" not in table.note and "cool: aime.jsonl, avg@16" in table.note
    assert tables.families(both).columns[:3] == ("checkpoint", "arm", "evaluation")
    said = tables.conclusions(both)
    assert said[3].startswith("cool: RL moved accuracy")


def test_conclusions_follow_from_the_numbers(tmp_path):
    said = tables.conclusions(_results(tmp_path))
    assert said[0] == "RL moved accuracy from 30.0 % after SFT to 90.0 %: +60.0 points."
    paired = tables.conclusions(_results(tmp_path), made_run.differences(12))
    assert paired[0].endswith("to 90.0 %: +60.0 points [52.0, 68.0].")
    assert "from 2.90 to 2.90: 100 % of" in said[1]
    assert "solves 4.5 %" in said[2]
    assert tables.conclusions([]) == []


def test_a_fall_is_said_as_plainly_as_a_rise(tmp_path):
    results = [r for r in _results(tmp_path) if r["checkpoint"] in ("sft", "rl1")]
    results[2]["avg_at_k"] = 0.1
    assert tables.conclusions(results)[0].endswith("-20.0 points.")


def test_conclusions_say_when_a_number_is_only_a_bound(tmp_path):
    results = _results(tmp_path)
    results[2] |= {"cut": 3, "avg_upper": 0.55}
    results[6] |= {"masked": 1, "avg_upper": 0.98}
    results[7] |= {"cut": 5, "avg_upper": 0.46, "avg_at_k": 0.05}
    said = tables.conclusions(results)
    assert said[0].endswith(
        "Both are lower bounds: 4 trajectories were cut or lost and count as wrong "
        "(at most 55.0 % and 98.0 %)."
    )
    assert said[2].endswith(
        "solves 5.0 %. This is a lower bound: 5 trajectories were cut or lost and count as wrong "
        "(at most 46.0 %)."
    )


def test_thinking_without_the_tool_is_an_arm_of_its_own(tmp_path):
    results = _results(tmp_path)
    results += [made_run.result(c, "think", 0.2 * i, 0.0, 12) for i, c in enumerate(("sft", "rl2"))]
    assert tables.conclusions(results)[-1] == (
        "Thinking at any length without the tool, the best checkpoint (rl2) solves 20.0 %."
    )
    assert _column(tables.headline(results), "arm")[-1] == "think without it"


def test_changes_are_from_each_checkpoint_to_the_next():
    order = ("base", "sft", "rl1", "rl2")
    table = tables.changes(made_run.differences(12), order)
    assert table.rows == tuple(
        (f"{a} to {b}", "with the tool", "main", "+30.0 [22.0, 38.0]", "12")
        for a, b in zip(order, order[1:])
    )
    # Where a checkpoint was not evaluated, the next one stands after the one before it.
    assert [r[0] for r in tables.changes(made_run.differences(12), ("sft", "rl2")).rows] == [
        "sft to rl2"
    ]


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
