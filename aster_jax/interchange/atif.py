"""An episode's record -> a trajectory in the Agent Trajectory Interchange Format (ATIF v1.8).

The schema is Harbor's (rfcs/0001-trajectory-format.md; pydantic models in the package
`atif`). A turn of the model with the result of its call is one step of the agent; ids and
log-probs of what it sampled travel in the step's metrics.
"""

import json

from aster_jax import types
from aster_jax.errors import InputError
from aster_jax.interchange import conversation
from aster_jax.rollout import record as records

VERSION = "ATIF-v1.8"
ABOUT = (
    "stage", "step", "checkpoint", "evaluation", "arm", "family", "gold", "sample", "reward",
    "verdict", "end", "final_text",
)  # fmt: skip


def to_trajectory(record: dict, model_name: str, version: str) -> dict:
    """The document of one episode, of a model by that name and this package's version.

    Raises InputError for a record whose packed lists are damaged; one without any gives
    steps without ids.
    """
    messages = conversation.to_messages(record)
    made = records.from_record(record).trajectory if "tokens" in record else None
    spans = iter([s for s in record["spans"] if s["kind"] == "model"])
    calls, steps = iter(record["calls"]), []
    for message in messages:
        if message["role"] == "tool":
            steps[-1]["observation"] = {"results": [_result(message, calls, len(steps))]}
        elif message["role"] == "assistant":
            steps.append(_agent_step(message, next(spans), made))
        else:
            steps.append({"source": message["role"], "message": message["content"]})
    for i, step in enumerate(steps, start=1):
        step["step_id"] = i
    agent = {"name": "aster_jax", "version": version, "model_name": model_name}
    if tools := conversation.tools(record):
        agent["tool_definitions"] = tools
    return {
        "schema_version": VERSION,
        "session_id": f"{record['problem_id']}/{record['sample']}",
        "trajectory_id": f"{record['problem_id']}/{record['sample']}",
        "agent": agent,
        "steps": steps,
        "final_metrics": {
            "total_completion_tokens": record["num_model_tokens"],
            "total_prompt_tokens": _prompt_tokens(steps),
            "total_steps": len(steps),
            "extra": {"num_calls": record["num_calls"], "num_tokens": record["num_tokens"]},
        },
        "extra": {"problem_id": record["problem_id"]}
        | {name: record[name] for name in ABOUT if name in record},
    }


def _agent_step(message: dict, span: dict, made: types.Trajectory | None) -> dict:
    step = {"source": "agent", "message": message["content"], "llm_call_count": 1}
    if "reasoning_content" in message:
        step["reasoning_content"] = message["reasoning_content"]
    if "tool_calls" in message:
        step["tool_calls"] = [
            {
                "tool_call_id": call["id"],
                "function_name": call["function"]["name"],
                "arguments": json.loads(call["function"]["arguments"]),
            }
            for call in message["tool_calls"]
        ]
    if made is not None:
        start, stop = span["start"], span["stop"]
        step["metrics"] = {
            "prompt_tokens": start,
            "completion_tokens": stop - start,
            "completion_token_ids": list(made.tokens[start:stop]),
            "logprobs": list(made.logprobs[start:stop]),
        }
    return step


def _result(message, calls, steps) -> dict:
    """The result of a step; what only tells that no calls are left has no record of a call."""
    found = {"content": message["content"]}
    if "tool_call_id" in message:
        found["source_call_id"] = message["tool_call_id"]
    call = next(calls, None)
    if call is not None:
        found["extra"] = {k: call[k] for k in ("status", "wall_s", "queue_s")}
    if not steps:
        raise InputError("an episode begins with a tool's result; it is damaged")
    return found


def _prompt_tokens(steps) -> int:
    return sum(s["metrics"]["prompt_tokens"] for s in steps if "metrics" in s)
