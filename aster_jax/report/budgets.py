"""Accuracy under smaller budgets of tokens and calls than the evaluation gave.

From the same episodes: under a budget, one that wrote or called more counts as wrong. So a
curve says what cutting would have cost, not what a policy that knew of the cut would do.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np

from aster_jax.report import collapse, plots, tables

TOKEN_POINTS = 9  # budgets of tokens in the table: quantiles of what was written


def curves(rows: Sequence[collapse.Measured], evaluation: str = "main") -> dict[str, dict]:
    """Per checkpoint, with the tool: {"tokens": [[budget, accuracy]], "calls": the same}.

    Budgets are all values at which the accuracy changes, and the largest that was used.
    What was lost counts as wrong, as in the results.
    """
    with_tool = [r for r in rows if r.arm == "main" and r.evaluation == evaluation]
    return {
        checkpoint: {
            "tokens": _curve([(r.model_tokens, r.is_correct) for r in members]),
            "calls": _curve([(r.num_calls, r.is_correct) for r in members]),
        }
        for (checkpoint,), members in collapse.group(with_tool, "checkpoint").items()
    }


def _curve(used: list[tuple[int, bool]]) -> list[list[float]]:
    """[budget, share of all that were right within it], by budget."""
    right = sorted(spent for spent, is_right in used if is_right)
    last = max(spent for spent, _ in used)
    return [
        [budget, float(np.searchsorted(right, budget, side="right")) / len(used)]
        for budget in sorted({*right, last})
    ]


def at(curve: Sequence[Sequence[float]], budget: float) -> float:
    """The accuracy under a budget."""
    return max((share for spent, share in curve if spent <= budget), default=0.0)


def tables_of(spent: dict[str, dict]) -> list[tables.Table]:
    """The curves at a few budgets, one table for tokens and one for calls."""
    made = []
    for unit, title in (("tokens", "tokens written"), ("calls", "tool calls")):
        points = sorted({int(budget) for c in spent.values() for budget, _ in c[unit]})
        if len(points) > TOKEN_POINTS:
            places = np.linspace(0, len(points) - 1, TOKEN_POINTS).round().astype(int)
            points = [points[i] for i in places]
        rows = tuple(
            (checkpoint, *(tables.percent(at(c[unit], budget)) for budget in points))
            for checkpoint, c in spent.items()
        )
        note = "Of the same episodes: one that used more than the budget counts as wrong."
        columns = ("checkpoint", *(f"at most {budget}" for budget in points))
        if rows:
            made.append(tables.Table(f"Accuracy by budget of {title}, %", columns, rows, note))
    return made


def figure(spent: dict[str, dict]) -> bytes | None:
    """Two panels: accuracy against the budget of tokens, and of calls."""
    if not spent:
        return None
    with matplotlib.rc_context(plots.STYLE):
        drawn, axes = plots.grid(1, 2, height=3.4)
        for ax, unit, label in zip(axes, ("tokens", "calls"), ("tokens written", "tool calls")):
            last = max(c[unit][-1][0] for c in spent.values())
            for checkpoint, c in spent.items():
                budget, share = zip(*c[unit])
                ax.step(
                    [0, *budget, last], [0, *share, share[-1]], where="post", linewidth=2,
                    color=plots.color(checkpoint), label=checkpoint,
                )  # fmt: skip
            ax.set(title=f"Accuracy by budget of {label}", xlabel=f"{label}, at most")
            plots.percent(ax)
        axes[0].legend(loc="upper left", fontsize=9)
        return plots.png(drawn)
