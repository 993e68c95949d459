"""Episode records and phase metrics, by hand."""

import base64
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax import types
from aster_jax.data import chat
from aster_jax.rollout import record
from tests.rollout import chatter


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    return chatter.build(tmp_path_factory.mktemp("words"))


def trajectory(tokens=(1, 2, 3, 4), mask=(0, 0, 1, 1), calls=(), end="answered"):
    n = len(tokens)
    spans = (types.Span("prompt", 0, 2), types.Span("model", 2, n))
    return types.Trajectory(
        "p", 1, tuple(tokens), tuple(mask), (0.0,) * n, tuple(0.5 * m for m in mask), spans,
        tuple(calls), end, "x",
    )  # fmt: skip


def call(status):
    return types.CallRecord("print(1)", status, "1", 0.1234567, 0.0)


def test_a_record_holds_the_text_of_every_span(talker):
    question = types.Problem("p", "What is 3*7?", "21", "prod")
    prompt = talker.prompt(question.question)
    body = chat.assistant_ids(
        {"role": "assistant", "content": "The answer is 21."}, talker.tokenizer, chatter.STYLE
    )
    t = trajectory((*prompt, *body), [0] * len(prompt) + [1] * len(body), [call("ok")])
    spans = (types.Span("prompt", 0, len(prompt)), types.Span("model", len(prompt), len(t.tokens), 2.5))
    t = dataclasses.replace(t, spans=spans)
    where = {"stage": "rl1", "step": 3, "checkpoint": "rl1", "arm": "main"}
    got = record.to_record(types.Scored(t, 1.0, "equal"), question, talker.tokenizer, where)
    assert json.loads(json.dumps(got)) == got
    assert got["spans"][1] == {
        "kind": "model", "start": len(prompt), "stop": len(t.tokens), "end_s": 2.5,
        "text": "The answer is 21.<|im_end|>",
    }  # fmt: skip
    assert got["spans"][0]["text"].startswith("<|im_start|>user\nWhat is 3*7?<|im_end|>")
    assert (got["stage"], got["step"], got["sample"], got["gold"]) == ("rl1", 3, 1, "21")
    assert (got["num_calls"], got["num_tokens"]) == (1, len(t.tokens))
    assert got["num_model_tokens"] == len(body)
    chars = np.frombuffer(base64.b64decode(got["chars"]), "<u2")
    assert len(chars) == len(t.tokens)
    assert chars[: len(prompt)].sum() == len(got["spans"][0]["text"])
    assert chars[-1] == len("<|im_end|>")
    assert got["calls"] == [
        {"code": "print(1)", "status": "ok", "text": "1", "wall_s": 0.1234567, "queue_s": 0.0}
    ]


FLOATS = st.floats(-100, 0, width=32)


@st.composite
def made(draw):
    """Any scored trajectory: its spans, then numbers for them."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=7))
    kinds = ["prompt", *(("model", "tool")[i % 2] for i in range(len(lengths) - 1))]
    ends = np.cumsum(lengths).tolist()
    spans = tuple(
        types.Span(k, stop - n, stop, n / 8) for k, n, stop in zip(kinds, lengths, ends, strict=True)
    )
    mask = [int(k == "model") for k, n in zip(kinds, lengths, strict=True) for _ in range(n)]
    n = len(mask)
    text = st.text(max_size=8)
    a_call = st.builds(types.CallRecord, text, text, text, st.floats(0, 99), st.floats(0, 99))
    return types.Scored(
        types.Trajectory(
            draw(text), draw(st.integers(0, 99)),
            tuple(draw(st.lists(st.integers(0, 2**31 - 1), min_size=n, max_size=n))), tuple(mask),
            tuple(m * x for m, x in zip(mask, draw(st.lists(FLOATS, min_size=n, max_size=n)))),
            tuple(m * draw(st.floats(0, 12, width=32)) for m in mask), spans,
            tuple(draw(st.lists(a_call, max_size=3))),
            draw(st.sampled_from(types.EndReason.__args__)), draw(text), draw(text),
        ),
        draw(st.sampled_from([0.0, 1.0])), draw(text),
    )  # fmt: skip


class Ids:
    """A tokenizer that shows ids as numbers."""

    control = {"<tool_call>": 7}

    def decode(self, ids):
        return " ".join(map(str, ids))


@settings(max_examples=150, deadline=None)
@given(made())
def test_a_record_gives_the_trajectory_back(scored):
    problem = types.Problem(scored.trajectory.problem_id, "q", "1", "f")
    got = json.loads(json.dumps(record.to_record(scored, problem, Ids(), {"step": 1})))
    back = record.from_record(got)
    kept = tuple(np.float16(scored.trajectory.entropies).tolist())
    assert back.trajectory == dataclasses.replace(scored.trajectory, entropies=kept)
    assert (back.reward, back.verdict) == (scored.reward, scored.verdict)
    # What a killed run had kept is written once more by the next one.
    assert json.loads(json.dumps(record.to_record(back, problem, Ids(), {"step": 1}))) == got
    assert [s.end_s for s in back.trajectory.spans] == [
        s.end_s for s in scored.trajectory.spans
    ]  # which equality does not look at


def test_what_opens_calls_and_ends_turns_by_hand():
    """A call of two ids after one of thought, its result, and an answer of two ids."""
    spans = (types.Span("prompt", 0, 2), types.Span("model", 2, 5), types.Span("tool", 5, 6),
             types.Span("model", 6, 8))  # fmt: skip
    mask = (0, 0, 1, 1, 1, 0, 1, 1)
    t = dataclasses.replace(
        trajectory((1, 2, 3, 7, 4, 5, 6, 9), mask, [call("ok")]),
        logprobs=tuple(-0.125 * i * m for i, m in enumerate(mask)),
        entropies=tuple(0.25 * i * m for i, m in enumerate(mask)), spans=spans,
    )  # fmt: skip

    def signals(**changed):
        made = dataclasses.replace(t, **changed)
        problem = types.Problem("p", "q", "1", "f")
        got = record.to_record(types.Scored(made, 0.0, "wrong"), problem, Ids(), {})
        return got["openings"], got["endings"]

    assert signals() == ([[-0.375, 0.75]], [[-0.5, 1.0], [-0.875, 1.75]])
    assert signals(end="turn_budget") == ([[-0.375, 0.75]], [[-0.5, 1.0]])
    # Both turns are whole calls, and the second one's result had no room.
    both = signals(end="context_budget", calls=(call("ok"), call("ok")))
    assert both == signals()


def test_packed_by_hand():
    t = dataclasses.replace(
        trajectory(), logprobs=(0.0, 0.0, -0.5, -2.0), entropies=(0.0, 0.0, 1.0, 3.14159265)
    )
    got = record.to_record(
        types.Scored(t, 1.0, "equal"), types.Problem("p", "q", "1", "f"), Ids(), {}
    )
    assert base64.b64decode(got["tokens"]) == b"\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0"
    assert base64.b64decode(got["logprobs"])[8:] == b"\0\0\0\xbf\0\0\0\xc0"
    back = record.from_record(got).trajectory
    assert back.entropies == (0.0, 0.0, 1.0, 3.140625)  # ten bits after the leading one
    assert dataclasses.replace(back, entropies=t.entropies) == t


@pytest.mark.parametrize(
    "damage, match",
    [
        (lambda r: r.pop("tokens"), "sample 1, has no tokens: it was written before"),
        (lambda r: r.update(logprobs="AAAA"), "has damaged logprobs"),
        (lambda r: r.update(logprobs="A"), "has damaged logprobs"),
        (lambda r: r.update(tokens="AAAAAA=="), "lists and spans of different lengths"),
        (lambda r: r["spans"].pop(), "lists and spans of different lengths"),
        (lambda r: r["spans"].pop(0), "lists and spans of different lengths"),
    ],
)
def test_a_damaged_record_is_told_apart(damage, match):
    got = record.to_record(
        types.Scored(trajectory(), 1.0, "equal"), types.Problem("p", "q", "1", "f"), Ids(), {}
    )
    damage(got)
    with pytest.raises(ValueError, match=match):
        record.from_record(got)


STATS = {
    "sampled_tokens": 30, "phase_s": 2.0, "row_steps": 60, "tool_exposed_s": 0.5,
    "tool_under_way_s": 1.5, "decode_s": 1.5, "prefill_tokens": 100, "prefill_s": 0.25,
    "rows_asked": 6, "slots_offered": 8, "pages_peak": 3, "pool_pages": 12,
    "asked_again": 3,
}  # fmt: skip


def test_summary_by_hand():
    scored = [
        types.Scored(trajectory(calls=[call("ok"), call("error"), call("ok")]), 1.0, "equal"),
        types.Scored(
            trajectory(end="token_budget", calls=[call("timeout"), call("malformed")]),
            0.0, "no_answer",
        ),
        types.Scored(trajectory((1, 2, 3), (0, 0, 1)), 0.0, "verifier_timeout"),
        types.Scored(trajectory(), 1.0, "equal"),
    ]
    got = record.summary(scored, STATS)
    expected = {
        "masked_frac": 0.25,
        "reward_mean": 2 / 3,
        "calls_mean": 4 / 3,
        "at_most_one_call_frac": 2 / 3,
        "model_tokens_mean": 2.0,
        "tokens_mean": 4.0,
        "tokens_per_s": 15.0,
        "decode_tokens_per_s": 20.0,
        "prefill_tokens_per_s": 400.0,
        "occupancy": 0.75,
        "wasted_step_frac": 0.5,
        "pages_peak_frac": 0.25,
        "tool_hidden_s": 1.0,
        "tool_exposed_s": 0.5,
        "entropy_mean": 0.5,
        "asked_again": 3,
        "end_answered_frac": 0.75,
        "end_token_budget_frac": 0.25,
        "call_ok_frac": 0.4,
        "call_error_frac": 0.2,
        "call_timeout_frac": 0.2,
        "call_malformed_frac": 0.2,
        "answer_too_costly_frac": 0.0,
        "verifier_timeout_frac": 0.25,
        "verifier_error_frac": 0.0,
    }
    assert {k: got[k] for k in expected} == pytest.approx(expected)


def test_calls_of_what_the_clock_cut_are_calls():
    """Two that called twice, and two that called four times until the clock cut them."""
    short = types.Scored(trajectory(calls=[call("ok")] * 2), 1.0, "equal")
    long = types.Scored(trajectory(end="deadline", calls=[call("ok")] * 4), 0.0, "no_answer")
    got = record.summary([short, long, short, long], STATS)
    assert (got["calls_mean"], got["reward_mean"], got["masked_frac"]) == (3.0, 1.0, 0.5)


def test_where_nothing_counts_there_is_no_mean_and_no_nan():
    lost = types.Scored(trajectory(end="infrastructure", calls=[call("infra_lost")]), 0.0, "wrong")
    got = record.summary([lost, lost], STATS)
    assert (got["masked_frac"], got["end_infrastructure_frac"]) == (1.0, 1.0)
    assert not {"reward_mean", "calls_mean", "at_most_one_call_frac", "tokens_mean"} & set(got)
    json.dumps(got, allow_nan=False)


@pytest.mark.parametrize("end", ["infrastructure", "deadline"])
def test_our_failures_are_masked_but_their_tokens_have_an_entropy(end):
    """Two tokens of entropy 0.5 and four of 2: what was cut short counts per token as well."""
    long = dataclasses.replace(
        trajectory((1, 2, 3, 4, 5, 6), (0, 0, 1, 1, 1, 1), end=end), entropies=(0, 0, 2, 2, 2, 2)
    )
    scored = [types.Scored(trajectory(), 1.0, "equal"), types.Scored(long, 0.0, "no_answer")]
    got = record.summary(scored, STATS)
    assert (got["masked_frac"], got[f"end_{end}_frac"], got["reward_mean"]) == (0.5, 0.5, 1.0)
    assert got["entropy_mean"] == pytest.approx(1.5)
    nothing = types.Scored(trajectory((1, 2), (0, 0), end=end), 0.0, "no_answer")
    assert "entropy_mean" not in record.summary([nothing], STATS)
