"""The numbers of a study's members -> its tables and a paragraph of what came out. Pure.

Every number is a mean over seeds with its 95 % interval (`intervals.py`). The paragraph is
written by rule: what an interval does not settle is said to be open, in either direction. A
sentence compares numbers of the same seeds only, and a cell tells how many it is of where they
are not all of the variant's.
"""

import dataclasses
import re
from collections.abc import Sequence

from aster_jax.data import visible
from aster_jax.studies import intervals, measures, plan

# By variant, then by seed; a variant without a member that is made has no seeds. The first one
# is what the others are compared with.
Grouped = dict[str, dict[int, measures.Measures]]
# All other numbers are shares or accuracies.
_NO_RATES = (
    "demo_tokens", "demo_calls", "eval_calls_before", "eval_calls_after", "calls_first",
    "calls_last", "entropy_first", "entropy_last",
)  # fmt: skip
# (title, [(column, name of the scalar, digits)])
TABLES = (
    ("Held-out problems, before and after RL", (
        ("tokens of demos", "demo_tokens", 0), ("calls in demos", "demo_calls", 1),
        ("accuracy before", "accuracy_before", 3), ("after", "accuracy_after", 3),
        ("without tool before", "alone_before", 3), ("after", "alone_after", 3),
        ("pass@k before", "pass_before", 3), ("after", "pass_after", 3),
        ("calls before", "eval_calls_before", 2), ("after", "eval_calls_after", 2),
    )),
    (f"Training: mean of the first and of the last {measures.EDGE} RL steps", (
        ("calls first", "calls_first", 2), ("last", "calls_last", 2),
        ("at most one call, last", "one_call_last", 2),
        ("reward first", "reward_first", 3), ("last", "reward_last", 3),
        ("entropy first", "entropy_first", 3), ("last", "entropy_last", 3),
        ("no answer, last", "truncated_last", 2), ("collapsed seeds", "collapsed", 2),
    )),
)  # fmt: skip


def group(numbers: dict[plan.Member, measures.Measures], planned: Sequence[plan.Member]) -> Grouped:
    """The members that are made by variant and seed, in the order of all that are planned."""
    grouped: Grouped = {member.variant: {} for member in planned}
    for member in planned:
        if member in numbers:
            grouped[member.variant][member.seed] = numbers[member]
    return grouped


def scalar(by_seed: dict[int, measures.Measures], name: str) -> dict[int, float | None]:
    """One number of a variant, by seed."""
    return {seed: m.scalars.get(name) for seed, m in by_seed.items()}


def estimate(by_seed: dict[int, measures.Measures], name: str) -> intervals.Estimate | None:
    """Mean over seeds of one number, and its interval."""
    bounds = () if name in _NO_RATES else (intervals.RATE,)
    return intervals.over_seeds(list(scalar(by_seed, name).values()), *bounds)


def said(grouped: Grouped) -> list[str]:
    """What came out, a sentence or two per variant, and each against the first."""
    sentences = [
        f"**{variant}** ({_seeds(by_seed)}): {_came(by_seed)}."
        for variant, by_seed in grouped.items() if by_seed
    ]  # fmt: skip
    after = {variant: scalar(by_seed, "accuracy_after") for variant, by_seed in grouped.items()}
    reference, *others = after
    compared = [variant for variant in others if _known(after[variant])]
    if compared and not _known(after[reference]):
        sentences.append(
            f"Not compared: {', '.join(compared)}; the first variant, {reference}, has no accuracy "
            "after RL to compare with."
        )
        return sentences
    for variant in compared:
        against = intervals.difference(after[variant], after[reference])
        if against is None:
            sentences.append(f"Not compared: {variant} and {reference} have no seed in common.")
            continue
        verdict = _judged(against, "above", "below", "no difference is shown")
        paired = _of(against.n, max(len(after[variant]), len(after[reference])))
        sentences.append(f"After RL, {variant} against {reference}{paired}: {verdict}.")
    return sentences


def _came(by_seed) -> str:
    """What became of one variant."""
    before, after = (scalar(by_seed, f"accuracy_{when}") for when in ("before", "after"))
    if not _has_rl(by_seed):
        return f"no RL; accuracy {_mean(before)}"
    accuracy = "accuracy after RL is not measured"
    if both := _paired(before, after):
        first, last = both
        accuracy = (
            f"accuracy {_mean(first)} before RL, {_mean(last)} after"
            f"{_of(len(first), len(by_seed))} ({_changed(last, first, 'it')})"
        )
    elif known := _known(after):
        some = _of(len(known), len(by_seed))
        accuracy = f"accuracy {_mean(after)} after RL{some}, before it not measured"
    both = _paired(scalar(by_seed, "calls_first"), scalar(by_seed, "calls_last"))
    if not both:
        return accuracy
    first, last = both
    return (
        f"{accuracy}; calls per trajectory {_mean(first, 2)} in the first RL steps, "
        f"{_mean(last, 2)} in the last{_of(len(first), len(by_seed))} "
        f"({_changed(last, first, 'they')}); {_collapses(by_seed)}"
    )


def _has_rl(by_seed) -> bool:
    return any(m.has_rl for m in by_seed.values())


def _paired(one, other):
    """Both numbers in the seeds that have both; None where no seed has."""
    seeds = [s for s in one if None not in (one[s], other.get(s))]
    return ({s: one[s] for s in seeds}, {s: other[s] for s in seeds}) if seeds else None


def _of(n: int, seeds: int) -> str:
    """In how many seeds, where that is not all of them."""
    return "" if n == seeds else f" in {n} of {seeds} seeds"


def _seeds(by_seed) -> str:
    return f"{len(by_seed)} seed{'s' * (len(by_seed) != 1)}"


def _known(values) -> list[float]:
    return [v for v in values.values() if v is not None]


def _mean(values, digits=3) -> str:
    known = _known(values)
    return f"{sum(known) / len(known):.{digits}f}" if known else "-"


def _changed(after, before, what: str) -> str:
    change = intervals.difference(after, before)
    return _judged(change, f"{what} rose", f"{what} fell", "a change is not shown")


def _judged(change, up: str, down: str, neither: str) -> str:
    """A difference in words: only an interval wholly on one side says which."""
    if change is None:
        return "not measured"
    if change.low is None:
        seeds = "one seed" if change.n == 1 else f"the same in all {change.n} seeds"
        return f"{change.mean:+.3f}, {seeds}: nothing is shown"
    which = up if change.is_above else down if change.is_below else neither
    return f"{which}, {cell(change, 3, change.n, '+')}"


def _collapses(by_seed) -> str:
    """In how many seeds calls fell to less than half, of those that made calls at all."""
    known = _known(scalar(by_seed, "collapsed"))
    if not known:
        return "it made hardly any calls from the start"
    return f"calls fell below half in {sum(known):.0f} of {len(known)}"


def cell(found: intervals.Estimate | None, digits: int, seeds: int, sign: str = "") -> str:
    """A number with its interval, as a table shows it; with `sign` "+" a difference.

    `seeds` is how many the row says that it is of; another number is told.
    """
    if found is None:
        return "-"
    form = f"{sign}.{digits}f"
    text = f"{found.mean:{form}}"
    if found.low is not None:
        text += f" [{found.low:{form}}, {found.high:{form}}]"
    return text if found.n == seeds else f"{text} (n={found.n})"


def _shown(by_seed, name, digits) -> str:
    """A variant's cell of a table of scalars."""
    of_rl = not name.endswith("_before") and not name.startswith("demo_")
    if of_rl and by_seed and not _has_rl(by_seed):
        return "no RL"
    return cell(estimate(by_seed, name), digits, len(by_seed))


def tables(grouped: Grouped) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, columns, rows) of every table that has something to show."""
    found = []
    families = dict.fromkeys(
        n.removesuffix("_after") for by_seed in grouped.values() for m in by_seed.values()
        for n in m.scalars if n.endswith("_after")
        and n not in ("accuracy_after", "pass_after", "eval_calls_after", "alone_after")
    )  # fmt: skip
    by_family = tuple(
        (f"{f} {when}" if when == "before" else when, f"{f}_{when}", 3)
        for f in families for when in ("before", "after")
    )  # fmt: skip
    for title, columns in (*TABLES, ("Accuracy by family, before and after RL", by_family)):
        used = [c for c in columns if any(estimate(s, c[1]) for s in grouped.values())]
        rows = [[v, str(len(s)), *(_shown(s, name, d) for _, name, d in used)]
                for v, s in grouped.items()]  # fmt: skip
        if used:
            found.append((title, ["variant", "n", *(c[0] for c in used)], rows))
    if matrix := matrix_of(grouped):
        names = list(dict.fromkeys(n for row in matrix.values() for n in row))
        rows = [[v, str(len(grouped[v])), *(cell(row.get(n), 3, len(grouped[v])) for n in names)]
                for v, row in matrix.items()]  # fmt: skip
        found.append(("Accuracy after RL by evaluation", ["variant", "n", *names], rows))
        found += _matrix_differences(grouped, names)
    return found


def _matrix_differences(grouped, names):
    """What an evaluation costs a variant, and what a variant has over the first in each of them."""
    (reference, *others), (main, *rest) = grouped, names

    def less(variant, name, other, base):
        ours, theirs = (
            {seed: m.matrix.get(n) for seed, m in grouped[v].items()}
            for v, n in ((variant, name), (other, base))
        )
        return cell(intervals.difference(ours, theirs), 3, len(grouped[variant]), "+")

    found = [(
        f"The same, less that of `{main}`, paired by seed", ["variant", *rest],
        [[v, *(less(v, n, v, main) for n in rest)] for v in grouped],
    )]  # fmt: skip
    if others and any(m.matrix for m in grouped[reference].values()):
        found.append((
            f"The same, less that of {reference}, paired by seed", ["variant", *names],
            [[v, *(less(v, n, reference, n) for n in names)] for v in others],
        ))  # fmt: skip
    return found


def matrix_of(grouped: Grouped) -> dict[str, dict[str, intervals.Estimate]]:
    """Accuracy after RL by variant and evaluation; empty where there is one evaluation."""
    names = list(dict.fromkeys(
        n for by_seed in grouped.values() for m in by_seed.values() for n in m.matrix
    ))  # fmt: skip
    if len(names) < 2:
        return {}
    return {
        variant: {n: found for n in names
                  if (found := intervals.over_seeds([m.matrix.get(n) for m in by_seed.values()],
                                                    intervals.RATE))}
        for variant, by_seed in grouped.items()
    }  # fmt: skip


def to_markdown(
    name: str, question: str, grouped: Grouped, failed: dict[str, str], missing: Sequence[str]
) -> str:
    """The study as one page of markdown, which shows study.png.

    `failed` says by member why it was left out, `missing` names those that are not made yet.
    """
    made = sum(map(len, grouped.values()))
    lines = [f"# {name}", "", question, ""]
    if failed or missing:
        total = made + len(failed) + len(missing)
        still = f"; missing: {', '.join(missing)}" if missing else ""
        lines += [f"{made} of {total} members{still}.", ""]
    if made:
        lines += [f"Seeds {', '.join(map(str, seeds(grouped)))}; intervals are 95 % over seeds "
                  "(Student's t), paired by seed where two are compared.", ""]  # fmt: skip
    lines += [f"- {sentence}" for sentence in said(grouped)]
    lines += [f"- {where} is left out: {why}" for where, why in failed.items()]
    for title, columns, rows in tables(grouped):
        heads = map(_as_cell, columns)
        lines += ["", f"## {title}", "", f"| {' | '.join(heads)} |", "| --- " * len(columns) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    # The page is printed too, and why a member gave up may quote what others wrote.
    return visible.escaped("\n".join([*lines, "", f"![{name}](study.png)"])) + "\n"


def _as_cell(text: str) -> str:
    """A text as a cell shows it: a family is whatever a problem file says."""
    return re.sub(r"([\\|<\[`])", r"\\\1", " ".join(text.split()))


def seeds(grouped: Grouped) -> list[int]:
    """Every seed that some variant has."""
    return sorted({seed for by_seed in grouped.values() for seed in by_seed})


def to_json(name: str, grouped: Grouped, failed: dict[str, str], missing: Sequence[str]) -> dict:
    """Everything that the page is made of: by variant, the estimates and each seed's numbers."""
    return {
        "name": name,
        "left_out": failed,
        "missing": list(missing),
        "said": said(grouped),
        "variants": {
            variant: {
                "estimates": {
                    key: dataclasses.asdict(found)
                    for key in dict.fromkeys(k for m in by_seed.values() for k in m.scalars)
                    if (found := estimate(by_seed, key))
                },
                "seeds": {str(s): dataclasses.asdict(m) for s, m in by_seed.items()},
            }
            for variant, by_seed in grouped.items()
        },
    }
