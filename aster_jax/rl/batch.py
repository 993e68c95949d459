"""Scored trajectories to the batch of the policy loss: advantages, weights, packed rows."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from aster_jax import types
from aster_jax.data import packing, prefixes
from aster_jax.errors import InputError
from aster_jax.rl import grpo


FEWEST = 2  # members of a group that can be compared with each other
NORMALISERS = ("group", "batch", "sequence", "constant")
TREATMENTS = ("keep", "mask", "soft", "drop")


@dataclasses.dataclass(frozen=True)
class Rules:
    """Who takes part in an update, and with which reward and weight.

    divide_by_std: advantages over the group's standard deviation. normalise, longest: see
    `token_weights`. min_group: share of a group that must count. mask_void: leave out the
    tokens of trajectories with a void turn (`types.void_turns`; SimpleTIR, arXiv 2509.02479).

    ends: what becomes of trajectories by the reason they ended for; one that is not named is
    kept, "infrastructure" is always dropped.

        keep  as it is: rewarded by its answer, compared, trained on
        mask  compared with the others of its group, but its own tokens are left out
        soft  kept, and whoever comes near that budget has less reward (`overlong`)
        drop  as if it were not there

    What is masked or dropped counts in no normaliser either: weights are of what is trained on.

    budgets: the tokens of the budgets whose end is "soft", by the end's name; overlong_share:
    of such a budget, from its end, over which the reward falls.
    """

    divide_by_std: bool = True
    normalise: str = "group"
    longest: int = 0
    min_group: float = 0.5
    mask_void: bool = False
    ends: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"deadline": "drop"})
    budgets: Mapping[str, int] = dataclasses.field(default_factory=dict)
    overlong_share: float = 0.2

    def __post_init__(self):
        for end, treatment in self.ends.items():
            soft = end in ("turn_budget", "token_budget", "context_budget")
            known = TREATMENTS if soft else [t for t in TREATMENTS if t != "soft"]
            if treatment not in known:
                raise InputError(f"on_{end}={treatment!r}; choose one of {', '.join(known)}")

    def treatment(self, end: str) -> str:
        """What becomes of a trajectory that ended so."""
        if end == "infrastructure":
            return "drop"
        return self.ends[end] if end in self.ends else "keep"


def rules(keys: Mapping) -> Rules:
    """The rules of one RL stage, of its keys (`config.rl_stage`). KeyError where one is missing,
    as in a config of an older version."""
    ends = {
        "turn_budget": keys["on_turn_budget"],
        "token_budget": keys["on_token_budget"],
        "context_budget": keys["on_context_budget"],
        "call_budget": keys["on_call_budget"],
        "malformed": keys["on_malformed"],
        "deadline": keys["on_deadline"],
    }
    budgets = {
        "turn_budget": keys["turn_tokens"],
        "token_budget": keys["response_tokens"],
        "context_budget": keys["context_tokens"],
    }
    own = {"gspo": "sequence", "dr_grpo": "constant"}
    return Rules(
        divide_by_std=keys["divide_by_std"] and keys["loss"] != "dr_grpo",
        normalise=own[keys["loss"]] if keys["loss"] in own else keys["normalise"],
        longest=keys["response_tokens"],
        min_group=keys["min_group"],
        mask_void=keys["mask_void"],
        ends=ends,
        budgets={end: most for end, most in budgets.items() if ends[end] == "soft"},
        overlong_share=keys["overlong_share"],
    )


def is_counted(scored: types.Scored, rules: Rules) -> bool:
    """Whether a trajectory says something about the policy, so that others of its group are
    compared with it: neither tool nor verifier lost it, and its end is not to be dropped."""
    lost = scored.verdict.startswith("verifier_")
    return not lost and rules.treatment(scored.trajectory.end) != "drop"


def is_trained(scored: types.Scored, rules: Rules) -> bool:
    """Whether a trajectory's tokens take part in the update: those that count do, but for what
    is masked by its end or for a void turn."""
    if not is_counted(scored, rules) or rules.treatment(scored.trajectory.end) == "mask":
        return False
    return not (rules.mask_void and has_void_turn(scored))


def has_void_turn(scored: types.Scored) -> bool:
    """Whether some turn of it is neither a complete call nor an answer."""
    t = scored.trajectory
    turns = sum(s.kind == "model" for s in t.spans)
    return types.void_turns([c.status for c in t.calls], turns, t.end, scored.verdict) > 0


def overlong(trajectory: types.Trajectory, rules: Rules) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, eq. 13), from 0 down to -1, to add to a reward.

    Of a budget of L tokens it is 0 up to L - c, then falls linearly to -1 at L, with
    c = overlong_share L (there 4,096 of 20,480). Of several budgets the strictest counts. How
    the trajectory ended does not matter, nor whether its answer is right.
    """
    written = sum(trajectory.loss_mask)
    turns = [s.stop - s.start for s in trajectory.spans if s.kind == "model"]
    used = {
        "turn_budget": max(turns, default=0),
        "token_budget": written,
        "context_budget": len(trajectory.tokens),
    }
    worst = 0.0
    for end, most in rules.budgets.items():
        cache = rules.overlong_share * most
        over = used[end] - (most - cache)
        if over > 0:
            worst = min(worst, -min(over / cache, 1.0) if cache else -1.0)
    return worst


def token_weights(
    scored: list[types.Scored], group_ids: np.ndarray, rules: Rules
) -> np.ndarray:
    """One weight per trajectory: what each of its policy tokens counts in the loss.

    "group": 1 / (groups x policy tokens of its group), the paper's mean over prompts of
    the token mean inside a prompt's group. "batch": 1 / all policy tokens. "sequence":
    1 / (trajectories x its own policy tokens), all trajectories alike. "constant":
    1 / (trajectories x `longest`), the tokens that one may write.
    """
    lengths = np.array([sum(s.trajectory.loss_mask) for s in scored], np.float64)
    if rules.normalise == "batch":
        return np.full(len(scored), 1.0 / max(lengths.sum(), 1))
    if rules.normalise == "sequence":
        return 1.0 / (len(scored) * np.maximum(lengths, 1))
    if rules.normalise == "constant":
        return np.full(len(scored), 1.0 / (len(scored) * rules.longest))
    groups = np.unique(group_ids)
    per_group = {g: lengths[group_ids == g].sum() for g in groups}
    return np.array([1.0 / (len(groups) * max(per_group[g], 1)) for g in group_ids])


def build(
    scored: list[types.Scored],
    advantages: np.ndarray,
    weights: np.ndarray,
    row_tokens: int,
    micro_rows: int,
    max_micro: int,
    everyone: bool = False,
    share: bool = False,
) -> tuple[types.RlBatch, int]:
    """Packed rows [max_micro, micro_rows, row_tokens] and the number of microbatches used.

    Trajectories without advantage carry no gradient and are left out of the rows; the
    weights were computed with them, so leaving them out changes nothing but the cost. With
    `everyone` they stay, for terms of the loss that need no advantage. With `share` what
    trajectories begin with in common is in a row once (`data/prefixes.py`).
    `old_logprobs` start as the engine's; the caller replaces them with the trainer's.
    """
    kept = [i for i in range(len(scored)) if everyone or advantages[i] != 0]
    sequences = [
        _sequence(scored[i].trajectory, float(advantages[i]), float(weights[i])) for i in kept
    ]
    if not sequences:
        sequences = [_sequence(scored[0].trajectory, 0.0, 0.0)]
    if share:
        packed = prefixes.pack([s["tokens"] for s in sequences], row_tokens)
        rows = prefixes.layout(sequences, packed, row_tokens)
    else:
        packed = packing.pack([len(s["tokens"]) for s in sequences], row_tokens)
        rows = packing.layout(sequences, packed, row_tokens)
    arrays, used = packing.microbatches(rows, micro_rows, max_micro)
    batch = types.RlBatch(
        tokens_BT=arrays["tokens"],
        positions_BT=arrays["positions"],
        segments_BT=arrays["segments"],
        weights_BU=arrays["weights"],
        advantages_BU=arrays["advantages"],
        old_logprobs_BU=arrays["logprobs"],
        rollout_logprobs_BU=arrays["logprobs"],
    )
    if share:
        until, places, members = (arrays[name] for name in ("until", "places", "members"))
        batch = batch.replace(until_BT=until, places_BU=places, members_BU=members)
    return batch, used


def _sequence(trajectory: types.Trajectory, advantage: float, weight: float) -> dict:
    mask = np.asarray(trajectory.loss_mask, np.float32)
    return {
        "tokens": trajectory.tokens,
        "weights": mask * weight,
        "advantages": mask * advantage,
        "logprobs": trajectory.logprobs,
    }


def short_groups(scored: list[types.Scored], group_ids: np.ndarray, rules: Rules) -> list[int]:
    """Groups of which too few members count: less than two, or than this share of them."""
    counted = np.array([is_counted(s, rules) for s in scored], bool)
    short = []
    for group in np.unique(group_ids):
        members = counted[group_ids == group]
        if members.sum() < max(FEWEST, rules.min_group * len(members)):
            short.append(int(group))
    return short


def agreeing_groups(scored: list[types.Scored], group_ids: np.ndarray, rules: Rules) -> list[int]:
    """Groups whose members all have the same outcome, so that none stands out; short ones are
    not among them, as nothing is known of them."""
    short = short_groups(scored, group_ids, rules)
    counted = np.array([is_counted(s, rules) for s in scored], bool)
    rewards = np.array([s.reward for s in scored], np.float64)
    groups = [int(g) for g in np.unique(group_ids) if g not in short]
    return [g for g in groups if np.ptp(rewards[counted & (group_ids == g)]) == 0]


def prepare(
    scored: list[types.Scored], group_ids: np.ndarray, rules: Rules
) -> tuple[list[types.Scored], np.ndarray, np.ndarray]:
    """(trained trajectories, their group ids, advantages); nothing where none can be trained.

    Advantages compare a trajectory with the members of its group that count, also with
    those whose own tokens are left out because a budget cut them: else a policy would be
    judged by its short answers only. A short group is left out whole: what is left of it
    is no sample of the policy, and its mean no baseline.
    """
    short = short_groups(scored, group_ids, rules)
    counted = np.array([is_counted(s, rules) for s in scored], bool) & ~np.isin(group_ids, short)
    rewards = np.array([s.reward + overlong(s.trajectory, rules) for s in scored], np.float64)
    advantages = np.zeros(len(scored))
    advantages[counted] = grpo.advantages(rewards[counted], group_ids[counted], rules.divide_by_std)
    keep = [i for i, s in enumerate(scored) if counted[i] and is_trained(s, rules)]
    return [scored[i] for i in keep], group_ids[keep], advantages[keep]
