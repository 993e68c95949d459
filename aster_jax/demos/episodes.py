"""Episodes of a run, as its RL or its evaluation left them -> transcripts: rejection sampling.

The policy is the teacher. A turn is read from the ids that it sampled, by the run's own
tokenizer, and a tool's result is what the policy was shown of it. Answers were verified when
they were made, and the verdicts are kept. What a conversation is written in (markup,
vocabulary) is left behind: another model can be taught by them.

Only episodes of problems for training are read by default: those of the evaluation answer
held-out problems, and the rule `demos.decontaminate` drops them where the new run holds out
the same.
"""

import json
import pathlib
from collections.abc import Iterator, Sequence

from aster_jax import types, weights, workdir
from aster_jax.data import calls, chat, tokenizer
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import InputError
from aster_jax.rollout import episode, record

SOURCE = "run:"


def load(path: str, patterns: Sequence[str], min_step: int) -> list[Transcript]:
    """The episodes of the run at `path`, the newest step first.

    Args:
      patterns: of the files, below the run's directory: "rl2" stands for
        "rl2/episodes/*.jsonl", anything else is taken as it is ("eval/rl2_main_*.jsonl").
      min_step: of RL steps, the first that is read.

    Raises InputError when there are none, or the directory is no run's.
    """
    root = pathlib.Path(path)
    config = workdir.read_config(root)
    words, style = _tokenizer(root, config), config.model.style
    made = []
    for file, row, found in _records(root, patterns):
        if "step" in found and found["step"] is not None and found["step"] < min_step:
            continue
        origin = f"{file} row {row}"
        try:
            made.append(read(found, words, style, config.rollout.tool_result_tokens, origin))
        except (InputError, KeyError, TypeError) as e:
            raise InputError(f"{root / file} row {row} is no episode of this version: {e}") from e
    if not made:
        raise InputError(
            f"{root} has no episodes from step {min_step} on in {', '.join(patterns)}; let it run "
            "rl1 or rl2, or name other files with demos.episodes"
        )
    return made


def read(found: dict, words, style: str, tool_result_tokens: int, origin: str = "") -> Transcript:
    """One record of `rollout/record.py` as a transcript."""
    scored = record.from_record(found)
    t = scored.trajectory
    messages = [{"role": "user", "content": found["question"]}]
    statuses: list[str] = []
    spans = [s for s in t.spans if s.kind == "model"]
    for i, span in enumerate(spans):
        turn = chat.parse_turn(t.tokens[span.start : span.stop], words, style)
        thought = {"reasoning_content": turn.thought} if turn.thought else {}
        if turn.kind == "answer":
            messages.append({"role": "assistant", "content": turn.text, **thought})
            continue
        if turn.kind == "malformed":  # what it wrote is no call, and must not be written again
            code = {"name": calls.TOOL_NAME, "arguments": turn.reason}
            message = {"role": "assistant", "content": turn.text, "tool_calls": [code]}
        else:
            message = chat.call_message(turn.text, turn.code)
        messages.append({**message, **thought})
        if len(statuses) < len(t.calls):
            call = t.calls[len(statuses)]
            void = call.status == "malformed"
            text = chat.malformed_text(call.text) if void else call.text
            statuses.append(call.status)
        else:
            text, void = episode.NO_CALLS_LEFT, True
            statuses.append("no_calls_left")
        if i + 1 < len(spans):
            shown = chat.cut(text, words, tool_result_tokens)
            messages.append({"role": "tool", "content": shown})
    problem = types.Problem(t.problem_id, found["question"], found["gold"], found["family"])
    return Transcript(
        problem, tuple(messages), tuple(statuses), t.end == "answered" and not t.opener,
        scored.verdict, origin,
    )  # fmt: skip


def _records(root, patterns) -> Iterator[tuple[str, int, dict]]:
    """(file, row from 1, record) of every episode; files from the last name to the first."""
    for pattern in patterns:
        named = f"{pattern}/episodes/*.jsonl" if "/" not in pattern else pattern
        for path in sorted(root.glob(named), reverse=True):
            with open(path, encoding="utf-8") as lines:
                for row, line in enumerate(lines, 1):
                    try:
                        yield str(path.relative_to(root)), row, json.loads(line)
                    except ValueError as e:
                        raise InputError(f"{path} row {row} is not JSON: {e}") from e


def _tokenizer(root, config):
    """The vocabulary that the run's ids are of."""
    if config.model.source == "scratch":
        return tokenizer.load(root / "demos" / "tokenizer")
    found = weights.describe(config.model.source).tokenizer
    if found is None:
        raise InputError(f"model.source {config.model.source!r} of {root} has no tokenizer")
    return found
