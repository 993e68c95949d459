"""A workdir as a run leaves it, made of plain arithmetic: what the report's tests read."""

import base64
import json
import math
import pathlib

import numpy as np

STAGES = ["demos", "sft", "rl1", "filter", "rl2", "eval", "report"]
FAMILIES = ("prod", "lcm")
RL = {
    "normalise": "group", "overlong_share": 0.2, "turn_tokens": 48, "response_tokens": 192,
    "context_tokens": 256, "loss": "clip", "divide_by_std": True, "min_group": 0.5, "mask_void": False,
    "on_turn_budget": "keep", "on_token_budget": "keep", "on_context_budget": "keep",
    "on_call_budget": "keep", "on_malformed": "keep", "on_deadline": "drop",
}  # fmt: skip


def episode(**changed) -> dict:
    """One episode record: two calls, the second of which fails, and a right answer."""
    codes = ["a = 6 * 7\nprint(a)", "print(a / 0)"]
    record = {
        "stage": "eval",
        "step": 0,
        "checkpoint": "rl2",
        "evaluation": "main",
        "arm": "main",
        "problem_id": "prod-17",
        "family": "prod",
        "question": "What is 6 * 7?",
        "gold": "42",
        "sample": 0,
        "reward": 1.0,
        "verdict": "equal",
        "end": "answered",
        "num_calls": 2,
        "opener": "",
        "num_tokens": 120,
        "num_model_tokens": 60,
        "calls": [
            {"code": codes[0], "status": "ok", "text": "42\n", "wall_s": 0.002, "queue_s": 0.0},
            {"code": codes[1], "status": "error", "text": "ZeroDivisionError: division by zero\n",
             "wall_s": 0.001, "queue_s": 0.0},
        ],
        "spans": [
            {"kind": "prompt", "text": "<|im_start|>user\nWhat is 6 * 7?<|im_end|>\n"},
            {"kind": "model", "text": turn("I compute it.", codes[0])},
            {"kind": "tool", "text": "<tool_response>\n42\n</tool_response>"},
            {"kind": "model", "text": turn("And check it.", codes[1])},
            {"kind": "tool", "text": "<tool_response>\nZeroDivisionError\n</tool_response>"},
            {"kind": "model", "text": "The answer is \\boxed{42}.<|im_end|>"},
        ],
    }  # fmt: skip
    return {**record, **changed}


def with_tokens(record: dict) -> dict:
    """The record with ids and numbers, a token for every four characters of its spans, and a
    second for every one of those that the model wrote or the tool took."""
    spans, at, now = [], 0, 0.0
    lists = {"tokens": [], "logprobs": [], "entropies": [], "chars": []}
    for span in record["spans"]:
        text, is_model = span["text"], span["kind"] == "model"
        lengths = [len(text[i : i + 4]) for i in range(0, len(text), 4)]
        now += len(lengths) * (span["kind"] != "prompt")
        spans.append({**span, "start": at, "stop": at + len(lengths), "end_s": now})
        at += len(lengths)
        lists["tokens"] += range(len(lengths))
        lists["logprobs"] += [-0.5 * (i % 9) * is_model for i in range(len(lengths))]
        lists["entropies"] += [0.25 * (i % 9) * is_model for i in range(len(lengths))]
        lists["chars"] += lengths
    kinds = {"tokens": "<i4", "logprobs": "<f4", "entropies": "<f2", "chars": "<u2"}
    packed = {
        name: base64.b64encode(np.asarray(values, kinds[name]).tobytes()).decode()
        for name, values in lists.items()
    }
    written = sum(s["stop"] - s["start"] for s in spans if s["kind"] == "model")
    return {**record, "spans": spans, "num_tokens": at, "num_model_tokens": written, **packed}


def turn(thought: str, code: str) -> str:
    """A model's turn that calls the tool."""
    call = json.dumps({"name": "code_interpreter", "arguments": {"code": code}})
    return f"{thought}\n<tool_call>\n{call}\n</tool_call><|im_end|>"


def without_tool(**changed) -> dict:
    """An episode that answers at once, and wrongly."""
    spans = [
        {"kind": "prompt", "text": "<|im_start|>user\nWhat is 6 * 7?<|im_end|>\n"},
        {"kind": "model", "text": "It is \\boxed{41}.<|im_end|>"},
    ]
    known = {"calls": [], "num_calls": 0, "spans": spans, "reward": 0.0, "num_model_tokens": 8}
    return episode(**{**known, "verdict": "different", "num_tokens": 30, **changed})


def write(workdir: pathlib.Path, rl_steps: int = 12, problems: int = 12) -> pathlib.Path:
    """Everything a finished run of two RL stages writes, small."""
    config = {
        "name": "made", "seed": 3, "stages": STAGES, "model": {"source": "scratch"},
        "report": {"page_mib": 8.0},
        "rl": RL, "rl1": {"on_deadline": None}, "rl2": {"divide_by_std": False},
    }  # fmt: skip
    put(workdir / "config.json", json.dumps(config))
    for stage in STAGES[:-1]:
        put(workdir / stage / "DONE.json", json.dumps({"step": 1}))
    put_lines(workdir / "metrics.jsonl", _metrics(rl_steps))
    for stage in ("rl1", "rl2"):
        for step in range(1, rl_steps + 1):
            made = _episodes(stage, step, rl_steps, 8)
            put_lines(workdir / stage / "episodes" / f"step_{step:06d}.jsonl", made)
    results = []
    for i, checkpoint in enumerate(("base", "sft", "rl1", "rl2")):
        for arm in ("main", "no_tool"):
            right = (i / 3 if arm == "main" else 0.05) * 0.9
            calls = 2.9 * (i > 0) * (arm == "main")
            results.append(result(checkpoint, arm, right, calls, problems))
            episodes = _evaluated(checkpoint, arm, right, problems)
            put_lines(workdir / results[-1]["file"], episodes)
    put(workdir / "eval" / "results.json", json.dumps(results))
    put(workdir / "eval" / "asked.json", json.dumps([r["file"] for r in results]))
    put(workdir / "eval" / "differences.json", json.dumps(differences(problems)))
    return workdir


def put(path: pathlib.Path, text: str) -> None:
    """A file with its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def put_lines(path: pathlib.Path, records: list[dict]) -> None:
    """A JSON-lines file."""
    put(path, "".join(json.dumps(r) + "\n" for r in records))


def _metrics(rl_steps):
    lines = []
    for step in range(1, 61):
        line = {"stage": "sft", "step": step, "time_s": 0.5 * step}
        line["sft/loss"] = 3 * math.exp(-step / 15) + 0.1 * math.sin(step)**2
        if step % 20 == 0:
            line["sft/probe_accuracy"] = step / 120
        lines.append(line)
    for number, stage in enumerate(("rl1", "rl2")):
        for step in range(1, rl_steps + 1):
            at = number * rl_steps + step
            lines.append({
                "stage": stage, "step": step, "time_s": 2.0 * step,
                "rollout/reward_mean": 0.5 + 0.4 * at / (2 * rl_steps) + 0.05 * math.sin(3 * at),
                "rollout/calls_mean": 2.9 + 0.1 * math.sin(at),
                "rollout/model_tokens_mean": 150 - at,
                "rollout/entropy_mean": 0.3 * math.exp(-at / 20),
                "rl/clip_frac": 0.002 + 0.001 * math.sin(at)**2,
                "rl/informative_frac": 0.7 - 0.01 * at,
                "rl/logp_diff_mean": 1e-6 * at, "rl/logp_diff_max": 1e-5 * at,
                "rollout/at_most_one_call_frac": 0.6 if at == 5 else 0.1,
                "rollout/tokens_per_s": 900.0 + at, "rollout/phase_s": 1.5,
                "rollout/tool_exposed_s": 0.3, "rollout/call_ok_frac": 0.75,
                "rollout/call_error_frac": 0.25, "rollout/end_token_budget_frac": 0.05,
                "time/rollout_s": 1.5, "time/update_s": 0.4,
            })  # fmt: skip
    return lines


def _episodes(stage, step, rl_steps, count):
    made = []
    for i in range(count):
        kind = without_tool if (i + step) % 5 == 0 else episode
        reward = float((i * 7 + step) % (2 * rl_steps) < rl_steps + step)
        made.append(with_tokens(
            kind(stage=stage, step=step, checkpoint=stage, sample=i, reward=reward)
        ))  # fmt: skip
    return made


def _evaluated(checkpoint, arm, right, problems):
    made = []
    for i in range(problems):
        kind = without_tool if arm == "no_tool" or checkpoint == "base" else episode
        made.append(kind(
            checkpoint=checkpoint, arm=arm, problem_id=f"p-{i}", family=FAMILIES[i % 2],
            reward=float(i < right * problems),
        ))  # fmt: skip
    return made


def differences(problems: int) -> list[dict]:
    """What eval/differences.json holds: 30 points from each checkpoint to the next."""
    order = ("base", "sft", "rl1", "rl2")
    return [
        {"evaluation": "main", "arm": "main", "before": a, "after": b, "delta": 0.3 * (j - i),
         "low": 0.3 * (j - i) - 0.08, "high": 0.3 * (j - i) + 0.08, "n": problems}
        for i, a in enumerate(order) for j, b in enumerate(order) if i < j
    ]  # fmt: skip


def result(checkpoint: str, arm: str, right: float, calls: float, problems: int) -> dict:
    """An entry of eval/results.json."""
    low, high = max(right - 0.06, 0), min(right + 0.06, 1)
    return {
        "checkpoint": checkpoint, "step": 1, "evaluation": "main", "arm": arm,
        "heldout": "generated", "tokens": 384, "turn_tokens": 64, "context_tokens": 512,
        "max_calls": 8 * (arm == "main"), "temperature": 1.0, "top_p": 1.0,
        "file": f"eval/{checkpoint}_main_{arm}_00000000.jsonl", "samples": 1, "complete": True,
        "n_problems": problems, "k": 1, "masked": 0, "cut": 0,
        "avg_at_k": right, "avg_low": low, "avg_high": high, "avg_upper": right,
        "pass_at_k": right, "pass_low": low, "pass_high": high,
        "pass_curve": [[1, right, low, high]], "maj_at_k": right,
        "calls_mean": calls, "calls_low": calls * 0.95, "calls_high": calls * 1.05,
        "by_family": {f: {"avg_at_k": right, "n": problems // 2} for f in FAMILIES},
        "end": {"answered": 0.96, "turn_budget": 0.04}, "call_status": {"ok": 0.5, "error": 0.5},
        "tokens_mean": 240.0,
    }  # fmt: skip
