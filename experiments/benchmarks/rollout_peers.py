"""The peers of the rollout benchmark: transformers `generate` and google-tunix's sampler.

Each runs in its own interpreter, as a script beside this file, on the same weights and the
same forced tokens as our engine; this module starts the scripts and reads their JSON.

    python3 -m venv VENV_TORCH && VENV_TORCH/bin/pip install torch==2.13.0 transformers numpy safetensors
    python3 -m venv VENV_TUNIX && VENV_TUNIX/bin/pip install google-tunix

(torch for CPU suffices.) The workload is an .npz file:

    prompt_ids      int32 [R, P]     prompts, padded on the right
    prompt_lengths  int32 [R]        tokens of each prompt, at most P
    forced_ids      int32 [R, T, N]  what the model "samples", by row and turn
    forced_lengths  int32 [R, T]     tokens of each turn, at most N
    result_ids      int32 [R, T, M]  what the tool answers after a turn; after the last unused
    result_lengths  int32 [R, T]     tokens of each result, at most M

Forced tokens must not hold the model's end token: peers stop there.
"""

import json
import os
import pathlib
import subprocess

import numpy as np

NAMES = (
    "prompt_ids", "prompt_lengths", "forced_ids", "forced_lengths", "result_ids", "result_lengths",
)  # fmt: skip


def transformers_generate(
    python, model_dir, workload, batch: int, new_tokens: int, threads: int, repeats: int
) -> dict:
    """Single-turn sampling with transformers `generate`: prompts, then turn 0's forced tokens.

    Args:
      python: interpreter of an environment with torch and transformers.
      model_dir: a directory that `weights.export` wrote, float32.
      workload: path of the .npz; needs `batch` rows and `new_tokens` forced tokens in turn 0.
      batch: rows per call. new_tokens: tokens sampled per row. threads: of torch.
      repeats: timed calls after one warm-up call.

    Returns:
      {"tokens_per_s": [sampled tokens per second of each repeat], "seconds": [...],
      "versions": {name: version}, "notes": what was run, "load": [1, 5, 15 min before, after]}.

    Raises:
      ValueError: no such interpreter, a package is missing in it, or a bad workload.
      RuntimeError: the script failed; carries the end of what it said.
    """
    raise ValueError("being written")


def tunix_turns(python, model_dir, workload, rollouts: int, turns: int, repeats: int) -> dict:
    """Multi-turn rollouts with google-tunix's vanilla sampler: a batch-1 call per turn.

    Args:
      python: interpreter of an environment with google-tunix.
      model_dir, workload: as above; needs `turns` turns.
      rollouts: how many rows (from the first) are timed, one after the other.
      turns: sampler calls per rollout.
      repeats: timed passes over those rollouts, with everything compiled.

    Returns:
      {"steady_s": [seconds per rollout in each repeat], "first_s": seconds of the very first
      rollout with its compiles, "compiles": programs that rollout compiled, "turn_s": [steady
      seconds of each turn, medians], "versions", "notes", "load"}. Calls are serial, so R rollouts
      take R times as long.

    Raises: as `transformers_generate`.
    """
    raise ValueError("being written")
