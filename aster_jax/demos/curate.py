"""Which demonstrations are kept, what they look like, and how they lie on disk.

    transcripts (demos/collect.py or demos/sharegpt.py) -> keep -> render -> types.Demo

The filters are the paper's (section 0.1): the answer is right, there are at least so many
tool calls and, if asked, every call succeeded. The paper's set has the last one, which is
why it never shows a recovery; ours may keep demonstrations that do.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.data import chat
from aster_jax.errors import InputError
from aster_jax.train import metrics


@dataclasses.dataclass(frozen=True)
class Transcript:
    """One demonstration as messages, as it happened.

    `statuses` has the tool's status of every call, in order. `finished` is False when the
    teacher gave up or the tool was unavailable; then there is no final answer.
    """

    problem: types.Problem
    messages: tuple[dict, ...]
    statuses: tuple[str, ...]
    finished: bool = True

    @property
    def final_text(self) -> str:
        """The last assistant turn, which holds the answer; "" when unfinished."""
        return self.messages[-1]["content"] if self.finished else ""


def keep(
    transcripts: Sequence[Transcript],
    verdicts: Sequence[str],
    min_calls: int,
    keep_errors: bool,
) -> tuple[list[Transcript], dict[str, int]]:
    """Those that pass every filter, and how many each reason dropped.

    Args:
      verdicts: of `reward.verify.Verifier.score` for each transcript.
      min_calls: tool calls a kept one has at least.
      keep_errors: keep those with a failed call in the middle.
    """
    kept, dropped = [], collections.Counter()
    for transcript, verdict in zip(transcripts, verdicts, strict=True):
        if not transcript.finished:
            dropped["unfinished"] += 1
        elif verdict not in ("exact", "equivalent"):
            dropped[verdict] += 1
        elif len(transcript.statuses) < min_calls:
            dropped["too_few_calls"] += 1
        elif not keep_errors and any(status != "ok" for status in transcript.statuses):
            dropped["failed_call"] += 1
        else:
            kept.append(transcript)
    return kept, dict(dropped)


def render(
    transcript: Transcript, tokenizer, style: str, schemas, tool_result_tokens: int
) -> types.Demo:
    """The ids and mask that a rollout of the same conversation would have.

    Tool results are cut to `tool_result_tokens` as they are during rollouts.
    """
    messages = [
        {**m, "content": chat.cut(m["content"], tokenizer, tool_result_tokens)}
        if m["role"] == "tool"
        else m
        for m in transcript.messages
    ]
    tokens, mask = chat.render(messages, schemas, tokenizer, style)
    return types.Demo(
        problem_id=transcript.problem.id,
        family=transcript.problem.family,
        tokens=tuple(tokens),
        loss_mask=tuple(mask),
        num_calls=len(transcript.statuses),
    )


def vocabulary_texts(transcripts: Sequence[Transcript], style: str, schemas) -> list[str]:
    """What a vocabulary is learned from: the ordinary text between control tokens."""
    return [run for t in transcripts for run in chat.text_runs(t.messages, schemas, style)]


def statistics(transcripts: Sequence[Transcript], demos: Sequence[types.Demo]) -> dict:
    """Numbers for the log and the report: calls, errors, lengths in tokens.

    `calls_histogram` maps a number of calls to how many demonstrations have it.
    """
    lengths = np.array([len(d.tokens) for d in demos])
    trained = np.array([sum(d.loss_mask) for d in demos])
    calls = collections.Counter(d.num_calls for d in demos)
    return {
        "demos": len(demos),
        "families": dict(sorted(collections.Counter(d.family for d in demos).items())),
        "calls_mean": float(np.mean([d.num_calls for d in demos])),
        "calls_histogram": {str(n): calls[n] for n in sorted(calls)},
        "with_error_frac": float(
            np.mean([any(s != "ok" for s in t.statuses) for t in transcripts])
        ),
        "tokens_mean": float(lengths.mean()),
        "tokens_p95": float(np.percentile(lengths, 95)),
        "tokens_max": int(lengths.max()),
        "trained_tokens_mean": float(trained.mean()),
    }


def save_transcripts(path: pathlib.Path, transcripts: Sequence[Transcript]) -> None:
    """One JSON object a line, readable without this package; whole or absent."""
    metrics.replace(path, _lines(transcripts))


def load_transcripts(path: pathlib.Path) -> list[Transcript]:
    """What `save_transcripts` wrote."""
    return [
        Transcript(
            problem=types.Problem(**r["problem"]),
            messages=tuple(r["messages"]),
            statuses=tuple(r["statuses"]),
            finished=r["finished"],
        )
        for r in _records(path)
    ]


def save_demos(path: pathlib.Path, demos: Sequence[types.Demo]) -> None:
    """Ids and masks for SFT, one JSON object a line; whole or absent."""
    metrics.replace(path, _lines(demos))


def load_demos(path: pathlib.Path) -> list[types.Demo]:
    """What `save_demos` wrote. Raises ValueError when the file is missing or empty."""
    if not path.exists():
        raise InputError(f"{path} is missing; run the demos stage before sft")
    demos = [
        types.Demo(**{**r, "tokens": tuple(r["tokens"]), "loss_mask": tuple(r["loss_mask"])})
        for r in _records(path)
    ]
    if not demos:
        raise InputError(f"{path} holds no demonstrations; remove its folder and run demos again")
    return demos


def _lines(values) -> str:
    return "".join(
        json.dumps(dataclasses.asdict(v), ensure_ascii=False) + "\n" for v in values
    )


def _records(path: pathlib.Path) -> list[dict]:
    # Split at "\n" only: tool output may hold other characters that count as line ends.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]
