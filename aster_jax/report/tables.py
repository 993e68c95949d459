"""The report's tables: one description, shown as HTML on the page and as text on a terminal."""

import dataclasses
import math
from collections.abc import Sequence

ARM_NAMES = {"main": "with the tool", "no_tool": "answer without it"}
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


def headline(results: Sequence[dict]) -> Table:
    """Accuracy and calls of every checkpoint and arm, with 95 % intervals."""
    rows = []
    for r in results:
        # pass@k of one sample is avg@1 once more.
        passes = NOTHING
        if r["k"] > 1:
            low, high = percent(r["pass_low"]), percent(r["pass_high"])
            passes = f"{percent(r['pass_at_k'])} [{low}, {high}]"
        rows.append((
            r["checkpoint"],
            ARM_NAMES[r["arm"]] if r["arm"] in ARM_NAMES else r["arm"],
            f"{percent(r['avg_at_k'])} [{percent(r['avg_low'])}, {percent(r['avg_high'])}]",
            passes,
            f"{r['n_problems']} x {r['k']}",
            str(r["masked"]),
            f"{number(r['calls_mean'])} [{number(r['calls_low'])}, {number(r['calls_high'])}]",
            number(r["tokens_mean"], 0),
            percent(r["end"]["answered"] if "answered" in r["end"] else 0.0),
        ))  # fmt: skip
    columns = (
        "checkpoint", "arm", "accuracy % [95 %]", "pass@k %", "problems x k", "left out",
        "calls [95 %]", "tokens", "answered %",
    )  # fmt: skip
    note = ""
    if results:
        r = results[0]
        note = (
            f"Held-out problems, avg@{r['k']} at temperature {r['temperature']:g}; at most "
            f"{r['tokens']} tokens written and {r['max_calls']} tool calls per trajectory. "
            "\"Answered\": ended by an answer of its own and not by a budget. \"Left out\": "
            "trajectories that the tool, the verifier or a deadline (of a call, a trajectory or "
            "the phase) lost; they count in no other column, which flatters an accuracy where "
            "the longest ones were lost."
        )  # fmt: skip
    return Table("Results", columns, tuple(rows), note)


def families(results: Sequence[dict]) -> Table:
    """Accuracy per problem family, one row per checkpoint and arm."""
    names = sorted({f for r in results for f in r["by_family"]})
    rows = []
    for r in results:
        known = r["by_family"]
        cells = [
            f"{percent(known[f]['avg_at_k'])} (n={known[f]['n']})" if f in known else NOTHING
            for f in names
        ]
        arm = ARM_NAMES[r["arm"]] if r["arm"] in ARM_NAMES else r["arm"]
        rows.append((r["checkpoint"], arm, *cells))
    return Table("Accuracy by family, %", ("checkpoint", "arm", *names), tuple(rows))


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
    ("text before the first call, %", "first_call_position", "percent"),
    ("attempts at a call that failed, %", "failed_call_frac", "percent"),
    ("   malformed, %", "malformed_call_frac", "percent"),
    ("lines of code per call", "code_lines_per_call", "number"),
    ("turns per trajectory", "turns_mean", "number"),
    ("tokens written per turn", "model_tokens_per_turn", "number"),
    ("tokens written per trajectory", "model_tokens_mean", "number"),
    ("left out: tool, verifier or deadline", "masked", "count"),
)


def tool_use(summaries: dict[str, dict]) -> Table:
    """Collapse measures, one column per checkpoint, then call statuses and endings."""
    show = {"count": str, "number": number, "percent": percent}
    columns = list(summaries.values())
    rows = [
        (label, *(NOTHING if s[key] is None else show[kind](s[key]) for s in columns))
        for label, key, kind in _TOOL_ROWS
    ]
    for label, key in (("attempts", "call_status"), ("ended", "end")):
        for name in sorted({n for s in columns for n in s[key]}):
            cells = (percent(s[key][name]) if name in s[key] else NOTHING for s in columns)
            rows.append((f"{label}: {name}, %", *cells))
    note = (
        "Collapse shows as few calls, a first call late in the text, and a lone call that only "
        "verifies. A malformed attempt reaches no tool and is no call. Positions are shares of "
        "characters."
    )
    return Table("Tool use", ("", *summaries), tuple(rows) if columns else (), note)


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


def conclusions(results: Sequence[dict]) -> list[str]:
    """Sentences that compare RL with SFT and the tool with no tool, from the results alone."""
    by_name = {(r["checkpoint"], r["arm"]): r for r in results}
    said = []
    stages_done = [c for c in ("rl1", "rl2") if (c, "main") in by_name]
    if stages_done and ("sft", "main") in by_name:
        before, after = by_name["sft", "main"], by_name[stages_done[-1], "main"]
        change = 100 * (after["avg_at_k"] - before["avg_at_k"])
        said.append(
            f"RL moved accuracy from {percent(before['avg_at_k'])} % after SFT to "
            f"{percent(after['avg_at_k'])} %: {change:+.1f} points."
        )
        if before["calls_mean"]:
            kept = after["calls_mean"] / before["calls_mean"]
            said.append(
                f"Tool calls per trajectory went from {number(before['calls_mean'])} to "
                f"{number(after['calls_mean'])}: {100 * kept:.0f} % of their value after SFT."
            )
    without = [r for r in results if r["arm"] == "no_tool"]
    if without:
        best = max(without, key=lambda r: r["avg_at_k"])
        said.append(
            f"Forced to answer without the tool, the best checkpoint ({best['checkpoint']}) "
            f"solves {percent(best['avg_at_k'])} %."
        )
    return said


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
