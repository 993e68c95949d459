"""Scored trajectories to the batch of the policy loss: advantages, weights, packed rows."""

import numpy as np

from aster_jax import types
from aster_jax.data import packing
from aster_jax.rl import grpo


FEWEST = 2  # members of a group that can be compared with each other


def is_counted(scored: types.Scored) -> bool:
    """Whether a trajectory says something about the policy, so that others of its group are
    compared with it: the tool, the verifier or the clock did not lose it."""
    return not types.says_nothing(scored.trajectory.end, scored.verdict)


def is_trained(scored: types.Scored, truncated: str) -> bool:
    """Whether a trajectory's tokens take part in the update.

    Those that count do; with `truncated` = "mask", not those cut by a budget of tokens.
    """
    cut = scored.trajectory.end in ("turn_budget", "token_budget", "context_budget")
    return is_counted(scored) and not (cut and truncated == "mask")


def token_weights(scored: list[types.Scored], group_ids: np.ndarray, normalise: str) -> np.ndarray:
    """One weight per trajectory: what each of its policy tokens counts in the loss.

    "group": 1 / (groups x policy tokens of its group), the paper's mean over prompts of
    the token mean inside a prompt's group. "batch": 1 / all policy tokens.
    """
    lengths = np.array([sum(s.trajectory.loss_mask) for s in scored], np.float64)
    if normalise == "batch":
        return np.full(len(scored), 1.0 / lengths.sum())
    groups = np.unique(group_ids)
    per_group = {g: lengths[group_ids == g].sum() for g in groups}
    return np.array([1.0 / (len(groups) * per_group[g]) for g in group_ids])


def build(
    scored: list[types.Scored],
    advantages: np.ndarray,
    weights: np.ndarray,
    row_tokens: int,
    micro_rows: int,
    max_micro: int,
) -> tuple[types.RlBatch, int]:
    """Packed rows [max_micro, micro_rows, row_tokens] and the number of microbatches used.

    Trajectories without advantage carry no gradient and are left out of the rows; the
    weights were computed with them, so leaving them out changes nothing but the cost.
    `old_logprobs` start as the engine's; the caller replaces them with the trainer's.
    """
    kept = [i for i in range(len(scored)) if advantages[i] != 0]
    sequences = [
        _sequence(scored[i].trajectory, float(advantages[i]), float(weights[i])) for i in kept
    ]
    if not sequences:
        sequences = [_sequence(scored[0].trajectory, 0.0, 0.0)]
    lengths = [len(s["tokens"]) for s in sequences]
    rows = packing.layout(sequences, packing.pack(lengths, row_tokens), row_tokens)
    arrays, used = packing.microbatches(rows, micro_rows, max_micro)
    batch = types.RlBatch(
        tokens_BT=arrays["tokens"],
        positions_BT=arrays["positions"],
        segments_BT=arrays["segments"],
        weights_BT=arrays["weights"],
        advantages_BT=arrays["advantages"],
        old_logprobs_BT=arrays["logprobs"],
        rollout_logprobs_BT=arrays["logprobs"],
    )
    return batch, used


def _sequence(trajectory: types.Trajectory, advantage: float, weight: float) -> dict:
    mask = np.asarray(trajectory.loss_mask, np.float32)
    return {
        "tokens": trajectory.tokens,
        "weights": mask * weight,
        "advantages": mask * advantage,
        "logprobs": trajectory.logprobs,
    }


def short_groups(
    scored: list[types.Scored], group_ids: np.ndarray, min_group: float
) -> list[int]:
    """Groups of which too few members count: less than two, or than this share of them."""
    counted = np.array([is_counted(s) for s in scored], bool)
    short = []
    for group in np.unique(group_ids):
        members = counted[group_ids == group]
        if members.sum() < max(FEWEST, min_group * len(members)):
            short.append(int(group))
    return short


def prepare(
    scored: list[types.Scored],
    group_ids: np.ndarray,
    divide_by_std: bool,
    truncated: str,
    min_group: float = 0.5,
) -> tuple[list[types.Scored], np.ndarray, np.ndarray]:
    """(trained trajectories, their group ids, advantages); nothing where none can be trained.

    Advantages compare a trajectory with the members of its group that count, also with
    those whose own tokens are left out because a budget cut them: else a policy would be
    judged by its short answers only. A short group is left out whole: what is left of it
    is no sample of the policy, and its mean no baseline.
    """
    short = short_groups(scored, group_ids, min_group)
    counted = np.array([is_counted(s) for s in scored], bool) & ~np.isin(group_ids, short)
    rewards = np.array([s.reward for s in scored], np.float64)
    advantages = np.zeros(len(scored))
    advantages[counted] = grpo.advantages(rewards[counted], group_ids[counted], divide_by_std)
    keep = [i for i, s in enumerate(scored) if counted[i] and is_trained(s, truncated)]
    return [scored[i] for i in keep], group_ids[keep], advantages[keep]
