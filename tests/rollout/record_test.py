"""Episode records and phase metrics, by hand."""

import dataclasses
import json

import pytest

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
        "p", 1, tuple(tokens), tuple(mask), (0.0,) * n, (0.0,) * n, spans, tuple(calls), end, "x"
    )


def call(status):
    return types.CallRecord("print(1)", status, "1", 0.1234567, 0.0)


def test_a_record_holds_the_text_of_every_span(talker):
    question = types.Problem("p", "What is 3*7?", "21", "prod")
    prompt = talker.prompt(question.question)
    body = chat.assistant_ids(
        {"role": "assistant", "content": "The answer is 21."}, talker.tokenizer, chatter.STYLE
    )
    t = trajectory((*prompt, *body), [0] * len(prompt) + [1] * len(body), [call("ok")])
    spans = (types.Span("prompt", 0, len(prompt)), types.Span("model", len(prompt), len(t.tokens)))
    t = dataclasses.replace(t, spans=spans)
    where = {"stage": "rl1", "step": 3, "checkpoint": "rl1", "arm": "main"}
    got = record.to_record(types.Scored(t, 1.0, "equal"), question, talker.tokenizer, where)
    assert json.loads(json.dumps(got)) == got
    assert got["spans"][1] == {"kind": "model", "text": "The answer is 21.<|im_end|>"}
    assert got["spans"][0]["text"].startswith("<|im_start|>user\nWhat is 3*7?<|im_end|>")
    assert (got["stage"], got["step"], got["sample"], got["gold"]) == ("rl1", 3, 1, "21")
    assert (got["num_calls"], got["num_tokens"]) == (1, len(t.tokens))
    assert got["num_model_tokens"] == len(body)
    assert got["calls"] == [
        {"code": "print(1)", "status": "ok", "text": "1", "wall_s": 0.123457, "queue_s": 0.0}
    ]


STATS = {
    "sampled_tokens": 30, "phase_s": 2.0, "row_steps": 60, "tool_exposed_s": 0.5,
    "tool_under_way_s": 1.5, "decode_s": 1.5, "prefill_tokens": 100, "prefill_s": 0.25,
    "rows_asked": 6, "slots_offered": 8, "pages_peak": 3, "pool_pages": 12,
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


def test_where_nothing_counts_there_is_no_mean_and_no_nan():
    lost = types.Scored(trajectory(end="infrastructure", calls=[call("infra_lost")]), 0.0, "wrong")
    got = record.summary([lost, lost], STATS)
    assert (got["masked_frac"], got["end_infrastructure_frac"]) == (1.0, 1.0)
    assert not {"reward_mean", "calls_mean", "at_most_one_call_frac", "tokens_mean"} & set(got)
    json.dumps(got, allow_nan=False)
