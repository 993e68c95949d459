"""Transcripts -> ids and masks for SFT: their rendering, their numbers, the file that SFT reads."""

import collections
import pathlib
from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.data import chat, rows
from aster_jax.demos import transcript as transcripts_of
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import InputError
from aster_jax.train import metrics


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
        num_calls=transcript.num_calls,
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


def save_demos(path: pathlib.Path, demos: Sequence[types.Demo]) -> None:
    """Ids and masks for SFT, one JSON object a line; whole or absent."""
    metrics.replace(path, transcripts_of.lines(demos))


def load_demos(path: pathlib.Path) -> list[types.Demo]:
    """What `save_demos` wrote. Raises InputError when it is missing, empty or damaged."""
    if not path.exists():
        raise InputError(f"{path} is missing; run the demos stage before sft")
    demos = [_read(record, f"{path} row {row}") for row, record in rows.lines(path)]
    if not demos:
        raise InputError(f"{path} holds no demonstrations; remove its folder and run demos again")
    return demos


def _read(record, where) -> types.Demo:
    try:
        ids, mask = tuple(record["tokens"]), tuple(record["loss_mask"])
        if len(ids) != len(mask):
            raise ValueError(f"{len(ids)} tokens and a mask of {len(mask)}")
        return types.Demo(**{**record, "tokens": ids, "loss_mask": mask})
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{where} is no demonstration ({e}); remove its folder and run demos again") from e
