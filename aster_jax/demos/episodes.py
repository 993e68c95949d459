"""Episodes of a run, as its RL or its evaluation left them -> transcripts: rejection sampling.

The policy is the teacher. A turn is read from the ids that it sampled, by the run's own
tokenizer, and a tool's result is what the policy was shown of it. Answers were verified when
they were made, and the verdicts are kept. What a conversation is written in (markup,
vocabulary) is left behind: another model can be taught by them.

Only episodes of problems for training are read by default: those of the evaluation answer
held-out problems, and the rule `demos.decontaminate` drops them where the new run holds out
the same.
"""

import pathlib
from collections.abc import Iterator, Sequence

from aster_jax import types, weights, workdir
from aster_jax.data import calls, chat, rows, tokenizer
from aster_jax.demos import transcript
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
        origin = f"{file} row {row}"
        try:
            if _is_before(found, min_step):
                continue
            made.append(read(found, words, style, config.rollout.tool_result_tokens, origin))
            if reason := transcript.fault(made[-1]):
                raise InputError(reason)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as e:
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


def _is_before(found, min_step) -> bool:
    """Whether a record is of an earlier step of RL; an evaluation's are of none."""
    if not isinstance(found, dict):
        raise TypeError(f"it is {found!r:.40}, not an object")
    step = found["step"] if "step" in found else None
    if not isinstance(step, int | None):
        raise TypeError(f"its step is {step!r:.40}, not a number")
    return step is not None and step < min_step


def _records(root, patterns) -> Iterator[tuple[str, int, object]]:
    """(file, row from 1, record) of every episode; files from the last name to the first, each
    once whatever names it."""
    seen = set()
    for pattern in patterns:
        for path in sorted(_files(root, pattern), reverse=True):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if not path.is_file():
                raise InputError(f"{path} is no file; name those in it with demos.episodes, such as "
                                 "'rl2/episodes/*.jsonl'")  # fmt: skip
            for row, found in rows.lines(path):
                yield str(path.relative_to(root)), row, found


def _files(root, pattern) -> list[pathlib.Path]:
    """What a pattern of `demos.episodes` names below a run's directory."""
    try:
        parts = pathlib.PurePath(pattern)
        if not parts.parts or parts.is_absolute():
            raise ValueError("it is empty or absolute")
        return list(root.glob(pattern if "/" in pattern else f"{pattern}/episodes/*.jsonl"))
    except (ValueError, TypeError) as e:
        raise InputError(
            f"demos.episodes has {pattern!r}, which is no stage, and no pattern of files below "
            f"{root} ({e}); give such as 'rl2' or 'eval/rl2_main_*.jsonl'"
        ) from e


def _tokenizer(root, config):
    """The vocabulary that the run's ids are of."""
    if config.model.source == "scratch":
        return tokenizer.load(root / "demos" / "tokenizer")
    found = weights.describe(config.model.source).tokenizer
    if found is None:
        raise InputError(f"model.source {config.model.source!r} of {root} has no tokenizer")
    return found
