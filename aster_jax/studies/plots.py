"""A study's one figure: calls, reward and entropy over RL, and accuracy before and after.

Curves and bars are means over seeds, bands and whiskers their 95 % intervals (`intervals.py`).
"""

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from aster_jax.report import plots
from aster_jax.studies import findings, intervals

SHADES = ("#2f74c0", "#e08a1e", "#0b8a6f", "#c8453b", "#7a5cc2", "#8a8f98", "#a4610b", "#24292f")
_CURVES = (
    ("calls", "Tool calls", "calls per trajectory"),
    ("reward", "Training reward", "share correct"),
    ("entropy", "Entropy", "nats per written token"),
)


def figure(grouped: findings.Grouped) -> bytes:
    """PNG bytes; a variant has one colour, its line is the mean over seeds, its band an interval;
    of two seeds, whose interval would hide all others, faint lines are each."""
    matrix = findings.matrix_of(grouped)
    with matplotlib.rc_context(plots.STYLE):
        drawn = Figure(figsize=(11.5, 10.6 if matrix else 7.2), layout="constrained")
        axes = drawn.subplots(3 if matrix else 2, 2)
        shades = dict(zip(grouped, SHADES * (1 + len(grouped) // len(SHADES))))
        for ax, (name, title, label) in zip(axes.flat, _CURVES):
            _curve(ax, grouped, shades, name)
            ax.set(title=title, ylabel=label, xlabel="RL step")
            ax.set_ylim(bottom=0, top=1.02 if name == "reward" else None)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        shown = [v for v, by_seed in grouped.items() if by_seed]
        handles = [Line2D([], [], color=shades[v], linewidth=2.2) for v in shown]
        names = [f"{v} (n={len(grouped[v])})" for v in shown]
        columns = min(len(names), 5) or 1
        drawn.legend(handles, names, loc="outside upper left", ncols=columns, fontsize=10)
        _bars(axes.flat[3], grouped, shades)
        if matrix:
            _matrix(axes.flat[4], matrix)
            axes.flat[5].axis("off")
        drawn.supxlabel(_foot(grouped), fontsize=9, x=0.01, ha="left")
        out = io.BytesIO()
        drawn.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _foot(grouped) -> str:
    """What the picture is of."""
    seeds = findings.seeds(grouped)
    if not seeds:
        return "no member is made"
    return (
        f"seeds {', '.join(map(str, seeds))}; n seeds per variant. Lines: means over seeds, faint "
        "ones: single seeds; bands and whiskers: 95 % over seeds."
    )


def _curve(ax, grouped, shades, name):
    for variant, by_seed in grouped.items():
        curves = [np.array(m.curves[name], float) for m in by_seed.values() if m.curves[name]]
        for curve in curves if len(curves) == 2 else ():
            ax.plot(range(1, len(curve) + 1), curve, color=shades[variant], alpha=0.2, linewidth=1)
        if not curves:
            continue
        steps = range(1, min(map(len, curves)) + 1)  # what all seeds have
        middle, low, high = _over_seeds([curve[: len(steps)] for curve in curves], name)
        marker = "o" if len(steps) == 1 else None
        ax.plot(steps, middle, color=shades[variant], linewidth=2.2, marker=marker)
        if len(steps) == 1:
            ax.errorbar(1, middle, (middle - low, high - middle), color=shades[variant], capsize=3)
        elif len(curves) != 2:
            ax.fill_between(steps, low, high, color=shades[variant], alpha=0.15, linewidth=0)


def _over_seeds(curves, name):
    """Smoothed means of the steps, and the ends of their intervals; NaN where there is none. A
    step at which more than two seeds agree has a band of no width, so that it is not torn."""
    bounds = (intervals.RATE,) if name == "reward" else ((0.0, np.inf),)
    found = [intervals.over_seeds([None if np.isnan(v) else v for v in step], *bounds)
             for step in zip(*curves)]  # fmt: skip
    ends = [(np.nan,) * 3 if e is None
            else (e.mean,) * 3 if e.low is None and e.n > 2
            else (e.mean, e.low, e.high) for e in found]  # fmt: skip
    return [plots.smooth(np.array(line, float)) for line in zip(*ends)]


def _bars(ax, grouped, shades):
    """Accuracy before (hollow) and after (filled) RL, with intervals over seeds."""
    for i, (variant, by_seed) in enumerate(grouped.items()):
        for when, at, face in (("before", i - 0.2, "white"), ("after", i + 0.2, shades[variant])):
            found = findings.estimate(by_seed, f"accuracy_{when}")
            if found is None:
                continue
            reach = None
            if found.low is not None:
                reach = [[found.mean - found.low], [found.high - found.mean]]
            ax.bar(at, found.mean, 0.36, color=face, edgecolor=shades[variant],
                   yerr=reach, capsize=3, error_kw={"ecolor": plots.INK})  # fmt: skip
    ax.set_xticks(range(len(grouped)), list(grouped))
    ax.set(title="Held-out accuracy before (hollow) and after RL", ylabel="avg@k, 95 % over seeds")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylim(0, 1.02)
    ax.grid(axis="x", visible=False)


def _matrix(ax, matrix):
    names = list(dict.fromkeys(n for row in matrix.values() for n in row))
    values = np.array([[row[n].mean if n in row else np.nan for n in names]
                       for row in matrix.values()])  # fmt: skip
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        ax.text(j, i, "-" if np.isnan(value) else f"{value:.2f}", ha="center", va="center",
                color="white" if value > 0.6 else plots.INK)  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(matrix)), list(matrix))
    ax.set(title="Accuracy after RL", xlabel="evaluation", ylabel="trained as")
    ax.grid(visible=False)
