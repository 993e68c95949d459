"""The numbers of a study's members -> its tables and a paragraph of what came out. Pure.

Every number is a mean over seeds with its 95 % interval (`intervals.py`). The paragraph is
written by rule: what an interval does not settle is said to be open, in either direction.
"""

import dataclasses

from aster_jax.studies import intervals, measures, plan

Grouped = dict[str, dict[int, measures.Measures]]  # by variant, then by seed
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


def group(numbers: dict[plan.Member, measures.Measures]) -> Grouped:
    """Members by variant and seed, in the order in which they were made."""
    grouped: Grouped = {}
    for member, found in numbers.items():
        grouped.setdefault(member.variant, {})[member.seed] = found
    return grouped


def scalar(by_seed: dict[int, measures.Measures], name: str) -> dict[int, float | None]:
    """One number of a variant, by seed."""
    return {seed: m.scalars.get(name) for seed, m in by_seed.items()}


def estimate(by_seed: dict[int, measures.Measures], name: str) -> intervals.Estimate | None:
    """Mean over seeds of one number, and its interval."""
    return intervals.over_seeds(list(scalar(by_seed, name).values()))


def said(grouped: Grouped) -> list[str]:
    """What came out, a sentence or two per variant, and each against the first."""
    sentences, reference = [], next(iter(grouped))
    for variant, by_seed in grouped.items():
        before, after = scalar(by_seed, "accuracy_before"), scalar(by_seed, "accuracy_after")
        if not _known(after):
            continue
        first, last = scalar(by_seed, "calls_first"), scalar(by_seed, "calls_last")
        sentences.append(
            f"**{variant}** ({_seeds(by_seed)}): accuracy {_mean(before)} before RL, "
            f"{_mean(after)} after ({_changed(after, before, 'it')}); calls per trajectory "
            f"{_mean(first, 2)} in the first RL steps, {_mean(last, 2)} in the last "
            f"({_changed(last, first, 'they')}); {_collapses(by_seed)}."
        )
    for variant, by_seed in list(grouped.items())[1:]:
        against = intervals.difference(
            scalar(by_seed, "accuracy_after"), scalar(grouped[reference], "accuracy_after")
        )
        if against is not None:
            verdict = _judged(against, "above", "below", "no difference is shown")
            sentences.append(f"After RL, {variant} against {reference}: {verdict}.")
    return sentences


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
        return f"{change.mean:+.3f}, one seed: nothing is shown"
    which = up if change.is_above else down if change.is_below else neither
    return f"{which}, {cell(change, 3, '+')}"


def _collapses(by_seed) -> str:
    """In how many seeds calls fell to less than half, of those that made calls at all."""
    known = _known(scalar(by_seed, "collapsed"))
    if not known:
        return "it made hardly any calls from the start"
    return f"calls fell below half in {sum(known):.0f} of {len(known)}"


def cell(found: intervals.Estimate | None, digits: int, sign: str = "") -> str:
    """A number with its interval, as a table shows it; with `sign` "+" a difference."""
    if found is None:
        return "-"
    form = f"{sign}.{digits}f"
    text = f"{found.mean:{form}}"
    return text if found.low is None else f"{text} [{found.low:{form}}, {found.high:{form}}]"


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
        rows = [[v, str(len(s)), *(cell(estimate(s, name), d) for _, name, d in used)]
                for v, s in grouped.items()]  # fmt: skip
        if used:
            found.append((title, ["variant", "n", *(c[0] for c in used)], rows))
    if matrix := matrix_of(grouped):
        names = list(next(iter(matrix.values())))
        rows = [[v, str(len(grouped[v])), *(cell(row.get(n), 3) for n in names)]
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
        return cell(intervals.difference(ours, theirs), 3, "+")

    found = [(
        f"The same, less that of `{main}`, paired by seed", ["variant", *rest],
        [[v, *(less(v, n, v, main) for n in rest)] for v in grouped],
    )]  # fmt: skip
    if others:
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
                  if (found := intervals.over_seeds([m.matrix.get(n) for m in by_seed.values()]))}
        for variant, by_seed in grouped.items()
    }  # fmt: skip


def to_markdown(name: str, question: str, grouped: Grouped, failed: dict[str, str]) -> str:
    """The study as one page of markdown, which shows study.png."""
    seeds = sorted({seed for by_seed in grouped.values() for seed in by_seed})
    lines = [f"# {name}", "", question, "", f"Seeds {', '.join(map(str, seeds))}; intervals are "
             "95 % over seeds (Student's t), paired by seed where two are compared.", ""]  # fmt: skip
    lines += [f"- {sentence}" for sentence in said(grouped)]
    lines += [f"- {where} is left out: {why}" for where, why in failed.items()]
    for title, columns, rows in tables(grouped):
        lines += ["", f"## {title}", "", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"![{name}](study.png)"]) + "\n"


def to_json(name: str, grouped: Grouped, failed: dict[str, str]) -> dict:
    """Everything that the page is made of: by variant, the estimates and each seed's numbers."""
    return {
        "name": name,
        "left_out": failed,
        "said": said(grouped),
        "variants": {
            variant: {
                "estimates": {
                    key: dataclasses.asdict(found)
                    for key in next(iter(by_seed.values())).scalars
                    if (found := estimate(by_seed, key))
                },
                "seeds": {str(s): dataclasses.asdict(m) for s, m in by_seed.items()},
            }
            for variant, by_seed in grouped.items()
        },
    }
