"""Which transcripts become demonstrations: one rule after the other, each counted.

    transcripts -> by_content -> (a vocabulary, where one is learned) -> by_size -> types.Demo

The paper's filters (section 0.1) are among them: the answer is right, there are at least so
many tool calls and, if asked, every call succeeded. The paper's set has the last one, which
is why it never shows a recovery; ours may keep demonstrations that do.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

from aster_jax import types
from aster_jax.data import chat
from aster_jax.demos import contamination, transcript
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import InputError

RIGHT = ("exact", "equivalent")
DUPLICATES = ("keep", "exact", "similar")


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is kept; the fields are the keys `demos.NAME` (see config.py).

    `row_tokens` is the longest that fits a training row of SFT.
    """

    count: int
    row_tokens: int
    right_only: bool = True
    min_calls: int = 0
    max_calls: int = 0
    keep_errors: bool = True
    max_void: int = 0
    duplicates: str = "keep"
    decontaminate: str = "normalised"
    ngram_words: int = 13
    max_per_problem: int = 0
    text_only_share: float = 0.0
    max_tokens: int = 0
    exact_count: bool = False

    def __post_init__(self):
        for name, choices in (("duplicates", DUPLICATES), ("decontaminate", contamination.KINDS)):
            if getattr(self, name) not in choices:
                raise InputError(f"demos.{name}={getattr(self, name)!r}; choose one of {choices}")
        if not 0 <= self.text_only_share <= 1:
            raise InputError(f"demos.text_only_share={self.text_only_share} is outside [0, 1]")
        if 0 < self.max_calls < self.min_calls:
            raise InputError(
                f"demos.max_calls={self.max_calls} is below demos.min_calls={self.min_calls}: "
                "nothing could be kept"
            )
        if self.ngram_words < 1:
            raise InputError(f"demos.ngram_words={self.ngram_words} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Line:
    """What one rule did: transcripts before and after it, and why the others went."""

    rule: str
    key: str
    before: int
    after: int
    reasons: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A transcript that is not kept."""

    origin: str
    problem_id: str
    rule: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Kept:
    """What is left, and how that came about; `error` says why nothing of what there was fits."""

    transcripts: list[Transcript]
    lines: list[Line]
    dropped: list[Dropped]
    error: str = ""


def by_content(
    transcripts: Sequence[Transcript],
    rules: Rules,
    held: Sequence[types.Problem],
    unusable: Mapping[str, int] | None = None,
) -> Kept:
    """Those that pass every rule that needs no tokens.

    Args:
      held: problems that nothing may be trained on.
      unusable: how many rows of the source were no transcript, by reason: the first line.
    """
    copies = contamination.find(
        [t.problem for t in transcripts], held, rules.decontaminate, rules.ngram_words
    )
    kept = Kept(list(transcripts), [], [])
    if unusable:
        rows = len(transcripts) + sum(unusable.values())
        kept.lines.append(Line("usable rows", "bad_rows", rows, len(transcripts), dict(unusable)))
    for rule, key, judge in (
        ("finished", "", lambda t: "" if t.finished else "unfinished"),
        ("right answer", "right_only", lambda t: _wrong(t, rules)),
        ("tool calls", "min_calls, max_calls", lambda t: _calls(t, rules)),
        ("tool success", "keep_errors", lambda t: _failed(t, rules)),
        ("void turns", "max_void", lambda t: "void_turn" if t.num_void > rules.max_void else ""),
        ("held-out problems", "decontaminate", lambda t: _held_out(t, copies)),
        ("markup", "", _unwritable),  # before the first of several is taken for all of them
        ("duplicates", "duplicates", _repeated(rules)),
    ):
        kept = _apply(kept, rule, key, judge)
    return kept


def by_size(
    candidates: Kept, rules: Rules, render: Callable[[Transcript], types.Demo]
) -> tuple[Kept, list[types.Demo]]:
    """`count` of them that fit, in their order, with the asked share of those without calls.

    Where one sort is short, the other is cut so that the share holds. Of one problem the first
    `max_per_problem` that fit count. Nothing is raised where none is left: then the result has
    an `error`, for whoever has reported what became of them.
    """
    limit = min(rules.max_tokens or rules.row_tokens, rules.row_tokens)
    text_only = round(rules.count * rules.text_only_share)
    room = {True: text_only, False: rules.count - text_only}
    if not rules.text_only_share:
        room = {True: rules.count, False: rules.count}
    demos, why, lengths, fitting = {}, {}, [], []
    taken, answered = collections.Counter(), collections.Counter()
    for t in candidates.transcripts:
        sort = not t.num_calls
        if 0 < rules.max_per_problem <= answered[t.problem.id]:
            why[id(t)] = "more_per_problem"
        elif taken[sort] >= room[sort] or len(demos) >= rules.count:
            why[id(t)] = "more_than_count"
        else:
            demo = render(t)
            lengths.append(len(demo.tokens))
            if lengths[-1] > limit:
                why[id(t)] = f"too_long: {lengths[-1]} tokens"
                continue
            demos[id(t)] = demo
            taken[sort] += 1
            answered[t.problem.id] += 1
            fitting.append(t)
    why |= dict.fromkeys(_surplus(fitting, rules), "more_than_share")
    kept = candidates
    for rule, key, reason in (
        ("length", "max_tokens", "too_long"),
        ("per problem", "max_per_problem", "more_per_problem"),
        ("count", "count", "more_than_count"),
        ("share of text only", "text_only_share", "more_than_share"),
    ):
        concerned = {i: said for i, said in why.items() if said.partition(":")[0] == reason}
        kept = _apply(kept, rule, key, lambda t, by=concerned: by[id(t)] if id(t) in by else "")
    if candidates.transcripts and not kept.transcripts:
        kept = dataclasses.replace(kept, error=_nothing(candidates, rules, limit, lengths))
    return kept, [demos[id(t)] for t in kept.transcripts]


def table(lines: Sequence[Line]) -> str:
    """The rules as a table in markdown."""
    rows = ["| rule | key of demos | before | after | dropped |", "|---|---|---|---|---|"]
    for line in lines:
        why = ", ".join(f"{name}: {n}" for name, n in sorted(line.reasons.items()))
        rows.append(f"| {line.rule} | {line.key} | {line.before} | {line.after} | {why} |")
    return "\n".join(rows) + "\n"


def reasons(lines: Sequence[Line]) -> dict[str, int]:
    """How many each reason dropped, over all rules."""
    total = collections.Counter()
    for line in lines:
        total.update(line.reasons)
    return dict(total)


def _apply(kept: Kept, rule: str, key: str, judge: Callable[[Transcript], str]) -> Kept:
    """Drop those for which `judge` has a reason."""
    left, dropped = [], []
    for t in kept.transcripts:
        if reason := judge(t):
            dropped.append(Dropped(t.origin, t.problem.id, rule, reason))
        else:
            left.append(t)
    # What follows a colon is about the one transcript; counted is what stands before it.
    counts = collections.Counter(d.reason.partition(":")[0] for d in dropped)
    line = Line(rule, key, len(kept.transcripts), len(left), dict(counts))
    return Kept(left, [*kept.lines, line], [*kept.dropped, *dropped])


def _wrong(t, rules) -> str:
    return t.verdict if rules.right_only and t.verdict and t.verdict not in RIGHT else ""


def _calls(t, rules) -> str:
    if not t.num_calls and rules.text_only_share:
        return ""
    if t.num_calls < rules.min_calls:
        return "too_few_calls"
    return "too_many_calls" if 0 < rules.max_calls < t.num_calls else ""


def _failed(t, rules) -> str:
    failed = any(s not in ("ok", *transcript.VOID) for s in t.statuses)
    return "failed_call" if failed and not rules.keep_errors else ""


def _held_out(t, copies) -> str:
    return f"held_out: {copies[t.problem.question]}" if t.problem.question in copies else ""


def _repeated(rules) -> Callable[[Transcript], str]:
    """Says of all but the first of equals that they are copies of it."""
    seen: dict[str, str] = {}

    def judge(t):
        if rules.duplicates == "keep":
            return ""
        key = _identity(t, rules.duplicates)
        if key in seen:
            return f"duplicate: of {seen[key]}"
        seen[key] = t.origin or t.problem.id
        return ""

    return judge


def _identity(t, duplicates) -> str:
    """What two transcripts share that are the same; "similar" ones differ in spaces and words
    around their code."""
    if duplicates == "exact":
        return json.dumps(t.messages, ensure_ascii=False, sort_keys=True)
    code = [json.dumps(call, sort_keys=True) for m in t.messages for call in transcript.calls_of(m)]
    said = code or [t.final_text]
    return "\n".join("".join(text.split()) for text in (t.problem.question, *said))


def _unwritable(t) -> str:
    """Why no markup can be written for it: what a teacher wrote may be no call, or no text."""
    if transcript.has_half(t):
        return f"not_writable: {transcript.HALF}"
    try:
        chat.render_text(t.messages, None, "chatml")
    except InputError as e:
        return f"not_writable: {e}"
    return ""


def _surplus(fitting, rules) -> set[int]:
    """Those beyond what the share allows, where one of the two sorts is short: what is kept is
    the most of which the share, rounded, can be had."""
    if not rules.text_only_share:
        return set()
    sorts = {s: [id(t) for t in fitting if (not t.num_calls) == s] for s in (True, False)}
    for n in range(min(rules.count, len(fitting)), -1, -1):
        text_only = round(n * rules.text_only_share)
        if text_only <= len(sorts[True]) and n - text_only <= len(sorts[False]):
            break
    return {*sorts[True][text_only:], *sorts[False][n - text_only :]}


def _nothing(candidates, rules, limit, lengths) -> str:
    """Why none is left, and what to do."""
    if lengths and min(lengths) > limit:
        return (
            f"none of {len(candidates.transcripts)} demonstrations fits {_length_key(rules)}="
            f"{limit}; the shortest has {min(lengths)} tokens: raise it"
        )
    text_only = sum(not t.num_calls for t in candidates.transcripts)
    return (
        f"demos.text_only_share={rules.text_only_share} cannot be had of {text_only} demonstrations "
        f"without and {len(candidates.transcripts) - text_only} with calls; change it, or bring "
        "the sort that is missing"
    )


def _length_key(rules) -> str:
    own = 0 < rules.max_tokens < rules.row_tokens
    return "demos.max_tokens" if own else "sft.row_tokens"
