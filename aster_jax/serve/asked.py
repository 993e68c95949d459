"""A request's body -> what is asked, checked; nothing is rendered or computed here.

Parameters that this server cannot honour are refused, unless they stand at the value that
changes nothing: an answer made without them would be another one than was asked for.
"""

import dataclasses
import json
import sys

from aster_jax.errors import InputError
from aster_jax.rollout import sampling
from aster_jax.serve.limits import Limits
from aster_jax.serve.refusal import Refusal, bad

IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
# Known to OpenAI and not to us: the values that ask for nothing.
NEUTRAL = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "best_of": (1,),
    "echo": (False,), "suffix": ("",), "response_format": ({"type": "text"},),
    "top_logprobs": (0,), "modalities": (["text"],), "functions": ([],), "reasoning_effort": (),
    "function_call": ("none",), "audio": (), "prediction": (), "verbosity": (),
    "web_search_options": (), "min_tokens": (0,),
}  # fmt: skip
BOTH = {
    "model", "n", "temperature", "top_p", "top_k", "seed", "max_tokens", "stop", "stream",
    "stream_options", "logprobs",
}  # fmt: skip
CHAT = BOTH | {"messages", "tools", "tool_choice", "parallel_tool_calls", "max_completion_tokens"}
TEXT = BOTH | {"prompt", "return_token_ids"}


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request. `messages` with `tools`, or `prompts`, each text or ids.

    `max_tokens` None is what the context leaves. `with_calls`: whether calls are read as
    such; `one_call`: whether an answer ends with the first of them.
    """

    how: sampling.Sampling
    n: int = 1
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    with_usage: bool = False
    with_logprobs: bool = False
    messages: tuple[dict, ...] = ()
    tools: tuple[dict, ...] = ()
    with_calls: bool = False
    one_call: bool = False
    prompts: tuple[str | tuple[int, ...], ...] = ()
    with_ids: bool = False


def parse(body: bytes) -> dict:
    """The JSON object of a body; Refusal where it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise Refusal(400, f"the body is not valid JSON ({e})", "invalid_json") from e
    if not isinstance(found, dict):
        raise Refusal(400, "the body is not a JSON object", "invalid_json")
    return {key: value for key, value in found.items() if value is not None}


def chat(body: dict, limits: Limits) -> Asked:
    """What a body for /v1/chat/completions asks."""
    _check_names(body, CHAT)
    messages = body["messages"] if "messages" in body else None
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "messages must be a list of at least one message")
    if not all(isinstance(m, dict) for m in messages):
        raise bad("messages", "messages must be objects with role and content")
    tools, choice = _tools(body), body["tool_choice"] if "tool_choice" in body else "auto"
    if choice not in ("auto", "none"):
        raise bad("tool_choice", f"tool_choice={choice!r:.60}: the model decides; give 'auto' or 'none'")
    both = [name for name in ("max_tokens", "max_completion_tokens") if name in body]
    if len(both) > 1:
        raise bad("max_tokens", "give max_tokens or max_completion_tokens, not both")
    return Asked(
        messages=tuple(map(_renamed, messages)), tools=tuple(tools),
        with_calls=bool(tools) and choice == "auto",
        one_call=not _flag(body, "parallel_tool_calls", True),
        max_tokens=_whole(body, both[0], None, 1) if both else None,
        with_logprobs=_flag(body, "logprobs", False), **_both(body, limits),
    )  # fmt: skip


def text(body: dict, limits: Limits) -> Asked:
    """What a body for /v1/completions asks."""
    _check_names(body, TEXT)
    if "prompt" not in body:
        raise bad("prompt", "prompt is missing")
    if "logprobs" in body and _whole(body, "logprobs", 0, 0) > 0:
        raise bad("logprobs", "only the sampled token's log-prob is kept; give logprobs=0")
    return Asked(
        prompts=_prompts(body["prompt"], limits), max_tokens=_whole(body, "max_tokens", 16, 1),
        with_logprobs="logprobs" in body, with_ids=_flag(body, "return_token_ids", False),
        **_both(body, limits),
    )  # fmt: skip


def _both(body, limits) -> dict:
    n = _whole(body, "n", 1, 1)
    if n > limits.choices:
        raise bad("n", f"n={n} is more than the {limits.choices} that this server gives")
    stream = _flag(body, "stream", False)
    options = body["stream_options"] if "stream_options" in body else {}
    if not isinstance(options, dict) or (options and not stream):
        raise bad("stream_options", "stream_options is an object, and goes with stream=true")
    seed = _whole(body, "seed", None, -(2**63))
    heat, top_k = _number(body, "temperature", 1.0), _whole(body, "top_k", 0, 0)
    if not 0 <= heat <= 2:
        raise bad("temperature", f"temperature={heat} must be between 0 and 2")
    try:
        made = sampling.Sampling(heat, _number(body, "top_p", 1.0), min(top_k, 2**31 - 1))
    except InputError as e:
        raise bad("temperature", str(e)) from e
    return {
        "how": made, "n": n, "seed": seed, "stop": _stops(body, limits), "stream": stream,
        "with_usage": _flag(options, "include_usage", False),
    }  # fmt: skip


def _check_names(body, known):
    for name, value in body.items():
        if name in NEUTRAL and name not in known:
            if value not in NEUTRAL[name]:
                raise bad(name, f"{name}={value!r:.60} is not supported", "unsupported_parameter")
        elif name not in known and name not in IGNORED:
            raise bad(name, f"unknown parameter {name!r:.60}", "unknown_parameter")


def _renamed(message) -> dict:
    """OpenAI calls the system's role "developer" where newer models are meant."""
    role = message["role"] if "role" in message else None
    return {**message, "role": "system"} if role == "developer" else message


def _tools(body) -> list[dict]:
    tools = body["tools"] if "tools" in body else []
    if not isinstance(tools, list):
        raise bad("tools", "tools must be a list")
    for i, tool in enumerate(tools):
        function = tool["function"] if isinstance(tool, dict) and "function" in tool else None
        named = isinstance(function, dict) and isinstance(function.get("name"), str)
        if not named or tool.get("type") != "function":
            raise bad("tools", f'tool {i} is not {{"type": "function", "function": {{"name": ...}}}}')
    return tools


def _prompts(prompt, limits) -> tuple:
    """One or several prompts: a text, ids, or a list of either."""
    several = prompt if isinstance(prompt, list) else [prompt]
    if several is prompt and several and all(_is_id(i) for i in several):
        several = [several]
    if not 0 < len(several) <= limits.choices:
        raise bad("prompt", f"prompt must be 1 to {limits.choices} prompts, got {len(several)}")
    made = []
    for one in several:
        if isinstance(one, list) and all(_is_id(i) for i in one):
            one = tuple(one)
        if not isinstance(one, (str, tuple)) or not one:
            raise bad("prompt", "a prompt must be text or token ids, and not empty")
        made.append(one)
    return tuple(made)


def _is_id(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _stops(body, limits) -> tuple[str, ...]:
    stop = body["stop"] if "stop" in body else []
    stops = [stop] if isinstance(stop, str) else stop
    good = isinstance(stops, list) and len(stops) <= limits.stops
    if not good or not all(isinstance(s, str) and 0 < len(s) <= limits.stop_chars for s in stops):
        raise bad("stop", f"stop must be at most {limits.stops} texts of 1 to {limits.stop_chars} "
                  "characters")  # fmt: skip
    return tuple(stops)


def _whole(body, name, default, least):
    value = body[name] if name in body else default
    if name in body and not (_is_id(value) and least <= value < 2**63):
        raise bad(name, f"{name}={value!r:.60} must be a whole number of at least {least}")
    return value


def _number(body, name, default) -> float:
    value = body[name] if name in body else default
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Neither "not a number" nor a whole number beyond all floats, which `math.isfinite` raises at.
    if not (is_number and abs(value) <= sys.float_info.max):
        raise bad(name, f"{name}={value!r:.60} must be a number")
    return float(value)


def _flag(body, name, default) -> bool:
    value = body[name] if name in body else default
    if not isinstance(value, bool):
        raise bad(name, f"{name}={value!r:.60} must be true or false")
    return value
