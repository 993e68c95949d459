"""The report's tables: one description, shown as HTML on the page and as text on a terminal."""

import dataclasses
import math
from collections.abc import Sequence

ARM_NAMES = {
    "main": "with the tool",
    "no_tool": "answer without it",
    "think": "think without it",
}
NOTHING = "–"


@dataclasses.dataclass(frozen=True)
class Table:
    """A titled table of strings; every row has one cell per column, `note` says how to read it.

    A table without rows stands for a part of the run that is not there yet.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def headline(results: Sequence[dict], title: str = "Results") -> Table:
    """Accuracy and calls of every checkpoint and arm, with 95 % intervals.

    Columns that say nothing here are left out: the evaluation where there is one, the
    upper bound where it equals the lower, pass@k and maj@k of one sample.
    """
    several = len({r["evaluation"] for r in results}) > 1
    bounds, votes = any(map(_is_bound, results)), any(r["k"] > 1 for r in results)
    columns = [
        ("checkpoint", True, lambda r: r["checkpoint"]),
        ("arm", True, lambda r: arm(r["arm"])),
        ("evaluation", several, lambda r: r["evaluation"]),
        ("accuracy % [95 %]", True, accuracy_cell),
        ("at most %", bounds, lambda r: percent(r["avg_upper"]) if _is_bound(r) else NOTHING),
        ("pass@k %", votes, _passes),
        ("maj@k %", votes, lambda r: percent(r["maj_at_k"]) if r["k"] > 1 else NOTHING),
        ("problems x k", True, lambda r: f"{r['n_problems']} x {r['k']}"),
        ("cut", True, lambda r: str(r["cut"])),
        ("lost", True, lambda r: str(r["masked"])),
        ("calls [95 %]", True, calls_cell),
        ("tokens", True, tokens_cell),
        ("answered %", True, lambda r: percent(_share(r["end"], "answered"))),
    ]  # fmt: skip
    shown = [(name, cell) for name, is_shown, cell in columns if is_shown]
    rows = tuple(tuple(cell(r) for _, cell in shown) for r in results)
    note = _settings_note(results) if results else ""
    return Table(title, tuple(name for name, _ in shown), rows, note)


def accuracy_cell(r: dict) -> str:
    """Accuracy of a result in %, with its interval."""
    return _span(r, "avg_at_k", "avg_low", "avg_high", percent)


def calls_cell(r: dict) -> str:
    """Calls per trajectory of a result, with their interval."""
    return _span(r, "calls_mean", "calls_low", "calls_high", number)


def tokens_cell(r: dict) -> str:
    """Tokens per trajectory of a result."""
    return _known(r["tokens_mean"], lambda mean: number(mean, 0))


def _passes(r: dict) -> str:
    # pass@k of one sample is avg@1 once more.
    return _span(r, "pass_at_k", "pass_low", "pass_high", percent) if r["k"] > 1 else NOTHING


def _is_bound(r: dict) -> bool:
    """Whether a result's accuracy is a lower bound only."""
    return r["cut"] + r["masked"] > 0


def _settings_note(results) -> str:
    """What was asked, once per evaluation and arm with other settings, and how to read it."""
    asked = {}
    for r in results:
        if r["arm"] == "main":
            held = "Generated problems" if r["heldout"] == "generated" else r["heldout"]
            asked[r["evaluation"], _settings(r)] = (
                f"{held}, avg@{r['k']} at temperature {r['temperature']:g} and top-p "
                f"{r['top_p']:g}; at most {r['tokens']} tokens written ({r['turn_tokens']} a turn) "
                f"and {r['max_calls']} tool calls in a context of {r['context_tokens']}"
            )
    named = len({r["evaluation"] for r in results}) > 1
    said = [f"{name}: {text}." if named else f"{text}." for (name, _), text in asked.items()]
    said.append('"Answered": ended by an answer of its own and not by a budget.')
    if any(map(_is_bound, results)):
        said.append(
            '"Cut": ended by a limit of time (trajectory_s, deadline_s). "Lost": by the tool or '
            'the verifier. Both count as wrong, so the accuracy is a lower bound; "at most" '
            "counts them as right."
        )
    if not all(r["complete"] for r in results):
        said.append("What is lost is asked again when the run is started again.")
    return " ".join(said)


def _settings(r) -> tuple:
    names = ("temperature", "top_p", "tokens", "turn_tokens", "context_tokens", "max_calls")
    return (r["heldout"], r["k"], *(r[name] for name in names))


def _share(shares: dict, name: str) -> float:
    return shares[name] if name in shares else 0.0


def arm(name: str) -> str:
    """An arm in words."""
    return ARM_NAMES[name] if name in ARM_NAMES else name


def _known(value, show) -> str:
    return NOTHING if value is None else show(value)


def _span(r, value, low, high, show) -> str:
    """A number with its interval."""
    return _known(r[value], lambda mean: f"{show(mean)} [{show(r[low])}, {show(r[high])}]")


def families(results: Sequence[dict]) -> Table:
    """Accuracy per problem family, one row per checkpoint, arm and evaluation."""
    names = sorted({f for r in results for f in r["by_family"]})
    several = len({r["evaluation"] for r in results}) > 1
    rows = []
    for r in results:
        known = r["by_family"]
        cells = [
            f"{percent(known[f]['avg_at_k'])} (n={known[f]['n']})" if f in known else NOTHING
            for f in names
        ]
        which = (r["evaluation"],) if several else ()
        rows.append((r["checkpoint"], arm(r["arm"]), *which, *cells))
    columns = ("checkpoint", "arm", *(("evaluation",) if several else ()), *names)
    return Table("Accuracy by family, %", columns, tuple(rows))


def changes(differences: Sequence[dict], checkpoints: Sequence[str]) -> Table:
    """Accuracy from each checkpoint to the next, paired over problems, in points.

    `checkpoints` are those evaluated, in their order.
    """
    steps = list(zip(checkpoints, checkpoints[1:]))
    rows = tuple(
        (f"{d['before']} to {d['after']}", arm(d["arm"]), d["evaluation"], points(d), str(d["n"]))
        for d in differences
        if (d["before"], d["after"]) in steps
    )
    note = (
        "Each problem is compared with itself, so that an interval which leaves out 0 is a "
        "change that other problems of this kind would show too."
    )
    columns = ("from, to", "arm", "evaluation", "accuracy, points [95 %]", "problems")
    return Table("Change in accuracy", columns, rows, note)


_TOOL_ROWS = (
    ("episodes", "episodes", "count"),
    ("calls per trajectory, mean", "calls_mean", "number"),
    ("   median", "calls_p50", "number"),
    ("   75th percentile", "calls_p75", "number"),
    ("   90th percentile", "calls_p90", "number"),
    ("   where the answer is correct", "calls_mean_correct", "number"),
    ("   where it is wrong", "calls_mean_wrong", "number"),
    ("at most one call, %", "at_most_one_call_frac", "percent"),
    ("answered without a call, %", "answered_without_tool_frac", "percent"),
    ("one call, only to verify at the end, %", "only_verifies_frac", "percent"),
    ("first call after the answer was written down, %", "post_hoc_frac", "percent"),
    ("text before the first call, %", "first_call_position", "percent"),
    ("attempts at a call that failed, %", "failed_call_frac", "percent"),
    ("   malformed, %", "malformed_call_frac", "percent"),
    ("   followed by one that succeeded, %", "recovered_frac", "percent"),
    ("correct where all calls succeeded, %", "accuracy_calls_ok", "percent"),
    ("   where some failed, %", "accuracy_call_failed", "percent"),
    ("calls that repeat an earlier one, %", "repeated_call_frac", "percent"),
    ("cells that build on earlier ones, %", "state_reuse_frac", "percent"),
    ("lines of code per call", "code_lines_per_call", "number"),
    ("turns per trajectory", "turns_mean", "number"),
    ("   neither a call nor an answer (void), %", "void_turn_frac", "percent"),
    ("   with stray tags of the markup, %", "stray_tag_turn_frac", "percent"),
    ("log-prob of the token that opens a call", "opening_logprob", "number"),
    ("   entropy there, nats", "opening_entropy", "number"),
    ("log-prob of the token that ends a turn", "ending_logprob", "number"),
    ("   entropy there, nats", "ending_entropy", "number"),
    ("tokens written per turn", "model_tokens_per_turn", "number"),
    ("tokens written per trajectory", "model_tokens_mean", "number"),
    ("cut by a limit of time, counted as wrong", "cut", "count"),
    ("left out: lost by tool or verifier", "masked", "count"),
)


def tool_use(summaries: dict[str, dict], title: str = "Tool use") -> Table:
    """Collapse measures, one column per checkpoint, then call statuses and endings."""
    show = {"count": str, "number": number, "percent": percent}
    columns = list(summaries.values())
    rows = [
        (label, *(NOTHING if s[key] is None else show[kind](s[key]) for s in columns))
        for label, key, kind in _TOOL_ROWS
    ]
    for label, key in (("turns", "turn_state"), ("attempts", "call_status"), ("ended", "end")):
        for name in sorted({n for s in columns for n in s[key]}):
            cells = (percent(s[key][name]) if name in s[key] else NOTHING for s in columns)
            rows.append((f"{label}: {name}, %", *cells))
    note = (
        "Collapse shows as few calls, a first call late in the text, and a lone call that only "
        "verifies. A malformed attempt reaches no tool and is no call. Positions are shares of "
        "characters. An answer counts as written down before the first call where it stands there "
        "as a word of its own, and not in the question; a small number may do so by chance. A cell "
        "builds on an earlier one if it reads a name that was bound there, imports left out. A "
        "polluted turn has tags of the markup where none belong, a collapsed one nothing at all."
    )
    return Table(title, ("", *summaries), tuple(rows) if columns else (), note)


def endings(results: Sequence[dict]) -> Table:
    """How the evaluated trajectories ended: cut by which budget, or by an answer of their own."""
    note = "Truncated is what a budget of tokens cut: turn, token and context budget."
    return _breakdown("How trajectories ended, %", results, "end", note, TRUNCATED)


def call_statuses(results: Sequence[dict]) -> Table:
    """What became of the attempts at a call, malformed ones included."""
    having = [r for r in results if r["call_status"]]
    return _breakdown("What became of calls, % of attempts", having, "call_status", "", ())


TRUNCATED = ("turn_budget", "token_budget", "context_budget")


def _breakdown(title, results, key, note, summed) -> Table:
    names = sorted({name for r in results for name in r[key]}, key=lambda n: (n not in ("answered", "ok"), n))
    several = len({r["evaluation"] for r in results}) > 1
    is_summed = sum(name in names for name in summed) > 0
    rows = []
    for r in results:
        cells = [percent(_share(r[key], name)) for name in names]
        if is_summed:
            cells.append(percent(sum(_share(r[key], name) for name in summed)))
        which = (r["evaluation"],) if several else ()
        rows.append((r["checkpoint"], arm(r["arm"]), *which, *cells))
    shown = [name.replace("_", " ") for name in names]
    columns = ("checkpoint", "arm", *(("evaluation",) if several else ()), *shown)
    return Table(
        title, (*columns, "truncated") if is_summed else columns, tuple(rows), note if is_summed else ""
    )


def stages(config: dict, metrics: Sequence[dict], finished: dict[str, dict]) -> Table:
    """What was run: state, steps and time of every stage of the config."""
    rows = []
    for stage in config["stages"]:
        if stage == "report":
            continue
        lines = [m for m in metrics if m["stage"] == stage]
        state = "finished" if stage in finished else "under way" if lines else "not run"
        rows.append((
            stage,
            state,
            str(lines[-1]["step"]) if lines else NOTHING,
            duration(_time_in_steps(lines)) if lines else NOTHING,
            _closing(finished[stage]) if stage in finished else NOTHING,
        ))  # fmt: skip
    columns = ("stage", "state", "steps", "time in steps", "closing numbers")
    return Table("Stages", columns, tuple(rows))


def _time_in_steps(lines: Sequence[dict]) -> float:
    """Seconds over all the times a stage was started: its clock begins anew when it resumes.

    Each part ends where the clock falls back. What a killed part did after its last
    checkpoint was done again and is not in the metrics.
    """
    times = [m["time_s"] for m in lines]
    return sum(now for now, then in zip(times, [*times[1:], 0.0]) if then < now)


def _closing(numbers: dict) -> str:
    """The first few scalars that a finished stage left."""
    shown = []
    for name, value in numbers.items():
        if isinstance(value, float) and math.isfinite(value):
            shown.append(f"{name} {value:.3g}")
        elif isinstance(value, int | str):
            shown.append(f"{name} {value}")
    return ", ".join(shown[:5]) or NOTHING


def conclusions(results: Sequence[dict], differences: Sequence[dict] = ()) -> list[str]:
    """Sentences that compare RL with SFT and the tool with no tool, from the results alone.

    Accuracies are the headline's; where time or the tool took some, it is said that they
    are lower bounds.
    """
    said = []
    for name in dict.fromkeys(r["evaluation"] for r in results):
        by_name = {(r["checkpoint"], r["arm"]): r for r in results if r["evaluation"] == name}
        prefix = "" if name == "main" else f"{name}: "
        of_it = [d for d in differences if (d["evaluation"], d["arm"]) == (name, "main")]
        said += [prefix + sentence for sentence in _compared(by_name, of_it)]
    return said


def _compared(by_name: dict, differences) -> list[str]:
    """The sentences of one evaluation."""
    said = []
    trained = [c for c in ("rl1", "rl2") if (c, "main") in by_name]
    if trained and ("sft", "main") in by_name:
        before, after = by_name["sft", "main"], by_name[trained[-1], "main"]
        change = f"{100 * (after['avg_at_k'] - before['avg_at_k']):+.1f} points"
        for d in differences:
            if (d["before"], d["after"]) == ("sft", trained[-1]):
                change = points(d, " points")
        said.append(
            f"RL moved accuracy from {percent(before['avg_at_k'])} % after SFT to "
            f"{percent(after['avg_at_k'])} %: {change}.{_bound(before, after)}"
        )
        if before["calls_mean"] and after["calls_mean"] is not None:
            kept = after["calls_mean"] / before["calls_mean"]
            said.append(
                f"Tool calls per trajectory went from {number(before['calls_mean'])} to "
                f"{number(after['calls_mean'])}: {100 * kept:.0f} % of their value after SFT."
            )
    for arm, condition in (
        ("no_tool", "Forced to answer without the tool"),
        ("think", "Thinking at any length without the tool"),
    ):
        without = [r for (_, of), r in by_name.items() if of == arm]
        if without:
            best = max(without, key=lambda r: r["avg_at_k"])
            said.append(
                f"{condition}, the best checkpoint ({best['checkpoint']}) "
                f"solves {percent(best['avg_at_k'])} %.{_bound(best)}"
            )
    return said


def _bound(*compared: dict) -> str:
    """What is to be said beside an accuracy that is only a lower bound."""
    if not any(map(_is_bound, compared)):
        return ""
    missing = sum(r["cut"] + r["masked"] for r in compared)
    most = " and ".join(f"{percent(r['avg_upper'])} %" for r in compared)
    name = "Both are lower bounds" if len(compared) > 1 else "This is a lower bound"
    return f" {name}: {missing} trajectories were cut or lost and count as wrong (at most {most})."


def points(difference: dict, unit: str = "") -> str:
    """A difference of accuracies in percentage points with its interval."""
    low, high = 100 * difference["low"], 100 * difference["high"]
    return f"{100 * difference['delta']:+.1f}{unit} [{low:.1f}, {high:.1f}]"


def to_text(table: Table) -> str:
    """The table with aligned columns; its title alone and "not run" when it has no rows."""
    if not table.rows:
        return f"{table.title}: not run\n"
    lines = [table.columns, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([table.title, text[0], rule, *text[1:]]) + "\n"


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def number(value: float, decimals: int = 2) -> str:
    """A number with so many decimals."""
    return f"{value:.{decimals}f}"


def duration(seconds: float) -> str:
    """Seconds as `45 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
