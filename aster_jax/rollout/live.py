"""One trajectory: what is asked for, what it may use, and its state while it is made."""

import concurrent.futures
import dataclasses
import zlib

from aster_jax import types
from aster_jax.errors import InputError
from aster_jax.rollout import results, sampling


@dataclasses.dataclass(frozen=True)
class Budgets:
    """What one trajectory may use.

    turn_tokens and response_tokens count tokens the model writes, per turn and in total;
    context_tokens counts everything; tool_result_tokens is kept of one result (head and
    tail); max_calls counts tool calls, malformed attempts included; max_malformed counts
    attempts in a row. Three limits of time, in seconds, `math.inf` for none: call_s of one
    tool call with its queue, after which the tool has lost it; trajectory_s of one trajectory
    from the time it first got a slot, and deadline_s of the whole phase, after which what is
    unfinished ends as "deadline".
    """

    turn_tokens: int
    response_tokens: int
    context_tokens: int
    max_calls: int
    tool_result_tokens: int
    max_malformed: int
    call_s: float
    trajectory_s: float
    deadline_s: float

    def __post_init__(self):
        # A row that may write nothing would never be decoded, and never end.
        for name in ("turn_tokens", "response_tokens", "context_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("call_s", "trajectory_s", "deadline_s"):
            if not getattr(self, name) >= 0:  # nor is NaN, which no time would ever pass
                raise InputError(f"{name}={getattr(self, name)} must be a time of at least 0 s")


@dataclasses.dataclass(frozen=True)
class Request:
    """One trajectory to be made.

    `opener` is given text at the start of the first answer (an eval arm that forces an
    answer), part of the prompt for the loss but of the turn for the parser; `opener_text`
    is that text, which the trajectory carries on. `budgets` are its own, else the phase's;
    `how` it samples counts where the device mixes ways. With `one_turn` it ends with its
    first turn, whatever that says: whoever asked reads it.
    """

    problem: types.Problem
    sample: int
    prompt: tuple[int, ...]
    opener: tuple[int, ...] = ()
    opener_text: str = ""
    budgets: Budgets | None = None
    how: sampling.Sampling = sampling.Sampling()
    one_turn: bool = False

    @property
    def given(self) -> tuple[int, ...]:
        """The ids that the row starts with; the same for a problem's whole group."""
        return (*self.prompt, *self.opener)

    def shares(self, other: "Request") -> bool:
        """Whether both start with the same ids; the problem is asked first, as it is quicker."""
        return self.problem.id == other.problem.id and self.given == other.given

    @property
    def uid(self) -> int:
        """The problem's part of the sampling key."""
        return zlib.crc32(self.problem.id.encode())

    def tool_seed(self, seed: int) -> int:
        """What its interpreter is seeded with, in a run of that seed."""
        return zlib.crc32(f"{seed}/{self.problem.id}/{self.sample}".encode())


@dataclasses.dataclass
class Live:
    """A trajectory under way: its ids so far, what it may use, and what it waits for.

    `index` is its place among the requests; `slot` is None while it has none. `flying`
    counts the dispatches that decode it and have not been read yet. `since` is when it
    first got a slot, `called` when its tool call was submitted. `written` is how many
    tokens the model wrote.
    """

    request: Request
    index: int
    budgets: Budgets
    slot: int | None
    tokens: list[int]
    mask: list[int]
    logprobs: list[float]
    entropies: list[float]
    spans: list[types.Span]
    calls: list[types.CallRecord] = dataclasses.field(default_factory=list)
    turn_start: int = 0
    malformed_in_row: int = 0
    told_no_calls: bool = False
    session: int | str | None = None
    code: str = ""
    call: concurrent.futures.Future | None = None
    called: float = 0.0
    since: float | None = None
    flying: int = 0
    written: int = 0

    def extend(
        self, kind: types.SpanKind, tokens: list[int], logprobs=None, entropies=None, now=None
    ) -> None:
        """Append tokens of one origin; those of the model come with log-probs and entropies.

        `now` is the time on the clock that `since` is of; None where none has passed.
        """
        end_s = 0.0 if now is None or self.since is None else now - self.since
        nothing = [0.0] * len(tokens)
        self.tokens += tokens
        self.mask += [int(kind == "model")] * len(tokens)
        self.logprobs += nothing if logprobs is None else logprobs
        self.entropies += nothing if entropies is None else entropies
        self.written += len(tokens) if kind == "model" else 0
        last = self.spans[-1] if self.spans else types.Span(kind, 0, 0)
        if last.kind == kind:
            self.spans[-1:] = [types.Span(kind, last.start, last.stop + len(tokens), end_s)]
        else:
            self.spans.append(types.Span(kind, last.stop, last.stop + len(tokens), end_s))

    def left(self) -> int:
        """Tokens that the model may still write in this turn."""
        return min(
            self.budgets.turn_tokens - (len(self.tokens) - self.turn_start),
            self.budgets.response_tokens - self.written,
            self.budgets.context_tokens - len(self.tokens),
        )

    def exhausted(self) -> types.EndReason | None:
        """The budget that is used up, if one is."""
        if self.written >= self.budgets.response_tokens:
            return "token_budget"
        if len(self.tokens) >= self.budgets.context_tokens:
            return "context_budget"
        if len(self.tokens) - self.turn_start >= self.budgets.turn_tokens:
            return "turn_budget"
        return None

    def trajectory(self, reason: types.EndReason, final_text: str) -> types.Trajectory:
        """What it has become."""
        return types.Trajectory(
            problem_id=self.request.problem.id,
            sample=self.request.sample,
            tokens=tuple(self.tokens),
            loss_mask=tuple(self.mask),
            logprobs=tuple(self.logprobs),
            entropies=tuple(self.entropies),
            spans=tuple(self.spans),
            calls=tuple(self.calls),
            end=reason,
            final_text=final_text,
            opener=self.request.opener_text,
        )


def check(requests: list[Request], budgets: Budgets) -> None:
    """ValueError where a prompt is empty or fills the context."""
    for request in requests:
        context_tokens = (request.budgets or budgets).context_tokens
        if not 0 < len(request.given) < context_tokens:
            raise InputError(
                f"the prompt of problem {request.problem.id} has {len(request.given)} tokens, the "
                f"context is {context_tokens}; filter such prompts first"
            )


def check_budgets(budgets: Budgets, capacity: int, executor, tokenizer) -> None:
    """ValueError where an engine whose rows hold `capacity` tokens cannot give so much, or a
    result of the tool could not be shown."""
    if budgets.context_tokens > capacity:
        raise InputError(
            f"context_tokens={budgets.context_tokens} is more than the engine's capacity "
            f"of {capacity} tokens per row; raise rollout.capacity"
        )
    if executor is None and budgets.max_calls:
        raise InputError(f"max_calls={budgets.max_calls} needs a tool executor; none given")
    if budgets.max_calls:
        results.check(budgets.tool_result_tokens, tokenizer, "tool_result_tokens")


def fresh(request: Request, index: int, budgets: Budgets) -> Live:
    """A trajectory that holds what is given; `budgets` where the request has none of its own."""
    given, own = list(request.given), request.budgets or budgets
    live = Live(request, index, own, None, [], [], [], [], [], turn_start=len(given))
    live.extend("prompt", given)
    return live
