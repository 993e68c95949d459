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


def test_groups_keep_the_order_of_first_appearance():
    rows = [collapse.measure(made_run.episode(checkpoint=c)) for c in ("sft", "base", "sft")]
    assert [(k, len(v)) for k, v in collapse.group(rows, "checkpoint").items()] == [
        (("sft",), 2), (("base",), 1),
    ]  # fmt: skip
