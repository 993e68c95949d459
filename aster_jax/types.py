"""The values that travel between stages, on one page, and the axis-letter key.

Axis letters (suffixes of array names in pure code, one key for the whole project):

    B rows            T query positions     S key positions (of a page, where there are pages)
    D model width     F feed-forward width  N query heads   K key/value heads
    G N // K          H head size           V vocabulary    L layers
    M microbatches    P prefill rows        C prefill chunk length
    Z cache pages     W pages of a row      A rows of one decode call     R T * G
    U tokens of a row's trajectories (as many as T where none is shared)

Host lists are plain plurals (`tokens`, `rewards`). Log-probabilities are natural logs
(nats); rewards are in [0, 1]; durations are seconds.
"""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question with a checkable answer; where every stage starts.

    `id` is unique and stable across runs: curriculum filters, sampling keys and logs
    refer to it. `family` groups problems of one kind in reports. `scorer`, if any, names the
    problem to the library that it comes from, whose own rules judge answers (`reward/gym.py`);
    `answer` is then an example of a right one.
    """

    id: str
    question: str
    answer: str
    family: str
    scorer: str = ""


SpanKind = Literal["prompt", "model", "tool"]


@dataclasses.dataclass(frozen=True)
class Span:
    """A run of tokens [start, stop) of one origin: given, sampled, or from the tool.

    `end_s` is when the host had all of it, in seconds from the trajectory's first slot on;
    a measurement, so that two spans are equal whatever the clock said.
    """

    kind: SpanKind
    start: int
    stop: int
    end_s: float = dataclasses.field(default=0.0, compare=False)


@dataclasses.dataclass(frozen=True)
class CallRecord:
    """What one tool call (or malformed attempt at one) did, for metrics and the viewer.

    `status` is a tool status (`aster_jax.tools.result`) or "malformed" when the turn
    could not be parsed as a call and the tool was never reached.
    """

    code: str
    status: str
    text: str
    wall_s: float
    queue_s: float


EndReason = Literal[
    "answered",  # the model ended a turn that holds no tool call
    "turn_budget",  # one turn ran into its own token budget
    "token_budget",  # the model wrote all the tokens it was allowed
    "context_budget",  # prompt + model + tool tokens filled the context
    "call_budget",  # it called again after being told that no calls are left
    "malformed",  # too many turns in a row that could not be parsed
    "infrastructure",  # the tool or a judge failed: masked from the loss, never scored
    "dropped",  # whoever asked wanted no more of it (chat, server)
    "deadline",  # our clock ran out: masked from the loss; an evaluation counts it as wrong
]


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One episode: a single append-only list of token ids and what is known per id.

    `loss_mask[t]` is 1 iff the policy sampled token t. `logprobs[t]` is the log-prob of
    token t under the distribution it was sampled from, `entropies[t]` the entropy of that
    distribution before truncation, in nats; both are 0 where the mask is 0. All four lists
    have equal length; `spans` cover them without gaps. `opener` is the text, if any, that
    the first answer was made to begin with; its ids are part of the prompt's span.
    """

    problem_id: str
    sample: int
    tokens: tuple[int, ...]
    loss_mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    spans: tuple[Span, ...]
    calls: tuple[CallRecord, ...]
    end: EndReason
    final_text: str
    opener: str = ""


@dataclasses.dataclass(frozen=True)
class Scored:
    """A trajectory with its outcome reward and the verifier's verdict."""

    trajectory: Trajectory
    reward: float
    verdict: str


def is_lost(end: str, verdict: str) -> bool:
    """Whether the tool or the verifier failed, so that what came of an episode is not known."""
    return end == "infrastructure" or (verdict.startswith("verifier_") and end != "deadline")


def says_nothing(end: str, verdict: str) -> bool:
    """Whether an episode failed through our fault (its tool, our clock) or its verifier did.

    None of these says what the policy can do, so training and filtering leave it out. What
    an evaluation makes of one is its own rule.
    """
    return is_lost(end, verdict) or end == "deadline"


def num_calls(statuses: Iterable[str]) -> int:
    """Tool calls among the statuses of an episode's call records.

    A malformed attempt reached no tool, so it is no sign that the tool is used; it is told
    apart wherever calls are counted. Only the budget (`max_calls`) charges it as a call.
    """
    return sum(status != "malformed" for status in statuses)


def void_turns(statuses: Iterable[str], turns: int, end: str, verdict: str) -> int:
    """Turns of an episode that are neither a complete call nor an answer (SimpleTIR, arXiv
    2509.02479).

    That is an attempt at a call that cannot be read, a last turn that a budget cut, and one
    that ended by itself with nothing boxed in it. `statuses` are those of the call records:
    the i-th attempt ends the i-th of the model's `turns`. A complete call whose result had no
    room any more is no void turn, nor is what our clock cut.
    """
    statuses = list(statuses)
    void = sum(status == "malformed" for status in statuses)
    cut = end in ("turn_budget", "token_budget", "context_budget")
    if turns > len(statuses) and (cut or (end == "answered" and verdict == "no_answer")):
        void += 1
    return void


@dataclasses.dataclass(frozen=True)
class Demo:
    """A demonstration ready for SFT: ids, mask (1 = trained on) and what it came from."""

    problem_id: str
    family: str
    tokens: tuple[int, ...]
    loss_mask: tuple[int, ...]
    num_calls: int


@flax.struct.dataclass
class SftBatch:
    """Packed rows for SFT, each array [M, B, T] (the step sees one [B, T] at a time).

    `segments` number the sequences of a row from 1 (0 = padding), `positions` count from
    0 in each. `weights` is the loss mask over the trained tokens of the whole batch.
    """

    tokens_BT: jax.Array
    positions_BT: jax.Array
    segments_BT: jax.Array
    weights_BT: jax.Array


@flax.struct.dataclass
class RlBatch:
    """Packed trajectories for the policy loss; `tokens`, `positions`, `segments` as in `SftBatch`.

    What the loss reads of each token of each trajectory, U per row: `weights` and `advantages`
    of its trajectory; `old_logprobs` under the policy at the start of the update, as the trainer
    computes them; `rollout_logprobs` as the engine sampled them; `reference_logprobs` under the
    reference policy, None where nothing is compared with one.

    In plain rows a token's place is its own, and U = T. Where trajectories share what they
    begin with (`data/prefixes.py`), `until` is the place up to which each of the T is seen,
    `places` which of the T each of the U is, and `members` the number of its trajectory in the
    row; else all three are None.
    """

    tokens_BT: jax.Array
    positions_BT: jax.Array
    segments_BT: jax.Array
    weights_BU: jax.Array
    advantages_BU: jax.Array
    old_logprobs_BU: jax.Array
    rollout_logprobs_BU: jax.Array
    reference_logprobs_BU: jax.Array | None = None
    until_BT: jax.Array | None = None
    places_BU: jax.Array | None = None
    members_BU: jax.Array | None = None

    @property
    def wanted_BT(self) -> jax.Array:
        """The places at which the loss reads something of weight; of one microbatch."""
        is_read_BU = self.weights_BU > 0
        if self.places_BU is None:
            return is_read_BU
        rows_B1 = jnp.arange(self.tokens_BT.shape[0])[:, None]
        return jnp.zeros(self.tokens_BT.shape, bool).at[rows_B1, self.places_BU].max(is_read_BU)

    @property
    def trajectory_BU(self) -> jax.Array:
        """Which trajectory of its row each token belongs to, from 1; 0 = padding."""
        return self.segments_BT if self.members_BU is None else self.members_BU

    def read(self, x_BT: jax.Array) -> jax.Array:
        """Of a number per place, that of each token of each trajectory."""
        if self.places_BU is None:
            return x_BT
        return jnp.take_along_axis(x_BT, self.places_BU, axis=-1)
