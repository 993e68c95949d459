"""Tool-use numbers against episodes small enough to count by hand."""

import pytest

from aster_jax.report import collapse
from tests.report import made_run


def _lone_call(before: str, after: str) -> dict:
    text = made_run.turn(before, "print(1)")
    full = made_run.episode()
    spans = [full["spans"][0], {"kind": "model", "text": text}, full["spans"][2],
             {"kind": "model", "text": after}]  # fmt: skip
    return made_run.episode(spans=spans, calls=[{**full["calls"][0], "code": "print(1)"}])


def test_counts_of_three_episodes():
    rows = [collapse.measure(r) for r in (
        made_run.episode(), made_run.episode(reward=0.0), made_run.without_tool(),
    )]  # fmt: skip
    found = collapse.summarise(rows)
    assert found["episodes"] == 3
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["calls_mean"] == pytest.approx(4 / 3)
    assert (found["calls_p50"], found["calls_p90"]) == (2, 2)
    assert found["calls_mean_correct"] == 2
    assert found["calls_mean_wrong"] == 1
    assert found["calls_histogram"] == [(0, 1), (2, 2)]
    assert found["at_most_one_call_frac"] == pytest.approx(1 / 3)
    assert found["answered_without_tool_frac"] == pytest.approx(1 / 3)
    assert found["call_status"] == {"ok": 0.5, "error": 0.5}
    assert found["failed_call_frac"] == 0.5
    assert found["code_lines_per_call"] == 1.5
    assert found["turns_mean"] == pytest.approx(7 / 3)
    assert found["model_tokens_per_turn"] == pytest.approx((60 / 3 + 60 / 3 + 8) / 3)


def test_failures_of_tool_and_verifier_are_counted_and_left_out():
    failures = ({}, {"end": "infrastructure"}, {"verdict": "verifier_timeout"})
    found = collapse.summarise([collapse.measure(made_run.episode(**f)) for f in failures])
    assert (found["episodes"], found["masked"]) == (1, 2)
    assert found["end"] == {"answered": 1.0}


def test_what_the_clock_cut_stays_with_what_it_did_and_as_wrong():
    episodes = [made_run.episode(), made_run.episode(end="deadline", verdict="no_answer")]
    found = collapse.summarise([collapse.measure(r) for r in episodes])
    assert (found["episodes"], found["masked"], found["cut"]) == (2, 0, 1)
    assert (found["accuracy"], found["calls_mean"]) == (0.5, 2.0)
    assert found["end"] == {"answered": 0.5, "deadline": 0.5}


def test_nothing_gives_none_and_not_a_number():
    found = collapse.summarise([])
    assert found["calls_mean"] is None and found["failed_call_frac"] is None
    assert found["calls_histogram"] == []


def test_position_of_the_first_call_is_a_share_of_the_text():
    record = _lone_call("x" * 100, "y")
    written = "".join(s["text"] for s in record["spans"] if s["kind"] == "model")
    before = written[: written.index("print(1)")]
    assert collapse.measure(record).first_call == pytest.approx(len(before) / len(written))


def test_a_lone_late_call_only_verifies_and_an_early_or_second_one_does_not():
    assert collapse.measure(_lone_call("think " * 400, "done")).only_verifies
    assert not collapse.measure(_lone_call("", "think " * 400)).only_verifies
    assert not collapse.measure(made_run.episode()).only_verifies
    assert not collapse.measure(made_run.without_tool()).only_verifies


def test_code_is_found_as_it_stands_in_the_turn():
    code = 's = "é\\n"\nprint(s)'
    before, found, after = collapse.split_at_code(made_run.turn("hm", code), code)
    assert before.endswith('"code": "') and found and after.startswith('"')
    assert collapse.split_at_code("no call", code) == ("no call", "", "")
    assert collapse.split_at_code('an empty "" one', "")[1] == ""


MALFORMED = {"code": "", "status": "malformed", "text": "not closed", "wall_s": 0, "queue_s": 0}


def test_a_malformed_attempt_is_no_call_and_verifies_nothing():
    # Two attempts, the last in the last quarter, neither of which reached the tool.
    written = ["think " * 400, "<tool_call>", "\\boxed{1}"]
    spans = [{"kind": "model", "text": text} for text in written]
    row = collapse.measure(made_run.episode(spans=spans, calls=[MALFORMED, MALFORMED]))
    assert row.first_call is None and not row.only_verifies
    assert not collapse.measure(made_run.episode(spans=spans[:1], calls=[MALFORMED])).only_verifies
    found = collapse.summarise([row, collapse.measure(made_run.episode())])
    assert (found["calls_mean"], found["at_most_one_call_frac"]) == (1.0, 0.5)
    assert found["answered_without_tool_frac"] == 0.5
    assert found["calls_histogram"] == [(0, 1), (2, 1)]
    # Of four attempts two were malformed and one of the calls failed.
    assert (found["malformed_call_frac"], found["failed_call_frac"]) == (0.5, 0.75)
    assert found["code_lines_per_call"] == 1.5


def test_the_first_call_stands_after_the_malformed_attempt_before_it():
    full = made_run.episode()
    written = ["x" * 60, made_run.turn("", "print(1)"), "y" * 40]
    spans = [{"kind": "model", "text": text} for text in written]
    calls = [MALFORMED, {**full["calls"][0], "code": "print(1)"}]
    row = collapse.measure(made_run.episode(spans=spans, calls=calls))
    before = 60 + written[1].index("print(1)")
    assert row.first_call == pytest.approx(before / sum(map(len, written)))


def _session(*cells):
    """An episode of (code, status) calls, then an answer."""
    calls = [{"code": c, "status": s, "text": "", "wall_s": 0, "queue_s": 0} for c, s in cells]
    spans = [{"kind": "model", "text": made_run.turn("so", c)} for c, _ in cells]
    spans.append({"kind": "model", "text": "\\boxed{42}<|im_end|>"})
    return made_run.episode(calls=calls, spans=spans)


def test_what_calls_do_with_each_other_by_hand():
    worked = _session(("a = 1", "ok"), ("print(a / 0)", "error"), ("print(a)", "ok"), ("print(a)", "ok"))
    stuck = _session(("b = 1", "ok"), ("c", "error"))
    found = collapse.summarise([collapse.measure(r) for r in (worked, stuck)])
    assert found["repeated_call_frac"] == pytest.approx(1 / 6)
    assert found["state_reuse_frac"] == pytest.approx(3 / 4)
    assert found["recovered_frac"] == pytest.approx(1 / 2)


def test_accuracy_given_that_the_calls_succeeded():
    good, bad = _session(("1", "ok")), _session(("1", "ok"), ("2", "error"))
    rows = [good, {**good, "reward": 0.0}, bad, {**bad, "reward": 0.0}, {**bad, "reward": 0.0},
            made_run.without_tool()]  # fmt: skip
    found = collapse.summarise([collapse.measure(r) for r in rows])
    assert (found["accuracy_calls_ok"], found["accuracy_call_failed"]) == (0.5, pytest.approx(1 / 3))


def test_broken_turns_by_hand():
    text = ["<tool_call><|im_end|>", "so </tool_call> so", "It is \\boxed{1}.<|im_end|>"]
    spans = [{"kind": "model", "text": t} for t in text]
    broken = made_run.episode(spans=spans, calls=[MALFORMED, MALFORMED])
    found = collapse.summarise([collapse.measure(r) for r in (broken, made_run.without_tool())])
    assert found["void_turn_frac"] == found["turn_state"]["answer"] == 0.5
    assert found["turn_state"] == {"collapsed": 0.25, "polluted": 0.25, "answer": 0.5}
    assert found["void_trajectory_frac"] == 0.5
    assert found["stray_tag_turn_frac"] == 0.25


def test_signals_are_means_over_tokens_and_absent_in_old_records():
    known = made_run.episode(openings=[[-1.0, 0.5], [-3.0, 0.5]], endings=[[-0.5, 0.25]])
    more = made_run.episode(openings=[[-2.0, 2.0]], endings=[])
    found = collapse.summarise([collapse.measure(r) for r in (known, more, made_run.episode())])
    assert (found["opening_logprob"], found["opening_entropy"]) == (-2.0, 1.0)
    assert (found["ending_logprob"], found["ending_entropy"]) == (-0.5, 0.25)
    assert collapse.summarise([collapse.measure(made_run.episode())])["opening_logprob"] is None


def test_metrics_are_numbers_only():
    found = collapse.metrics(collapse.summarise([collapse.measure(made_run.episode())]))
    assert found["tool/state_reuse_frac"] == 1.0 and found["tool/recovered_frac"] == 0.0
    assert found["tool/turn_call_frac"] == pytest.approx(2 / 3)
    assert found["tool/turn_collapsed_frac"] == 0.0
    assert "tool/opening_logprob" not in found
    assert all(isinstance(x, float) for x in found.values())
    assert collapse.metrics(collapse.summarise([])) == {}


def test_groups_keep_the_order_of_first_appearance():
    rows = [collapse.measure(made_run.episode(checkpoint=c)) for c in ("sft", "base", "sft")]
    assert [(k, len(v)) for k, v in collapse.group(rows, "checkpoint").items()] == [
        (("sft",), 2), (("base",), 1),
    ]  # fmt: skip
