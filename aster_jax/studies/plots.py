"""A study's one figure: calls, reward and entropy over RL, and accuracy before and after."""

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from aster_jax.report import plots
from aster_jax.studies import findings

SHADES = ("#2f74c0", "#e08a1e", "#0b8a6f", "#c8453b", "#7a5cc2", "#8a8f98", "#a4610b", "#24292f")
_CURVES = (
    ("calls", "Tool calls", "calls per trajectory"),
    ("reward", "Training reward", "share correct"),
    ("entropy", "Entropy", "nats per written token"),
)


def figure(grouped: findings.Grouped) -> bytes:
    """PNG bytes; a variant has one colour, a faint line is one seed, a strong one their mean."""
    matrix = findings.matrix_of(grouped)
    with matplotlib.rc_context(plots.STYLE):
        drawn = Figure(figsize=(11.5, 10.4 if matrix else 7.0), layout="constrained")
        axes = drawn.subplots(3 if matrix else 2, 2)
        shades = dict(zip(grouped, SHADES * (1 + len(grouped) // len(SHADES))))
        for ax, (name, title, label) in zip(axes.flat, _CURVES):
            _curve(ax, grouped, shades, name)
            ax.set(title=title, ylabel=label, xlabel="RL step")
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        handles, names = axes.flat[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside upper left", ncols=len(names) or 1, fontsize=10)
        _bars(axes.flat[3], grouped, shades)
        if matrix:
            _matrix(axes.flat[4], matrix)
            axes.flat[5].axis("off")
        out = io.BytesIO()
        drawn.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _curve(ax, grouped, shades, name):
    for variant, by_seed in grouped.items():
        curves = [m.curves[name] for m in by_seed.values() if m.curves[name]]
        for curve in curves:
            ax.plot(range(1, len(curve) + 1), curve, color=shades[variant], alpha=0.2, linewidth=1)
        if curves:
            length = min(map(len, curves))
            mean = np.mean([c[:length] for c in curves], axis=0)
            ax.plot(range(1, length + 1), plots.smooth(mean), color=shades[variant],
                    linewidth=2.2, label=variant)  # fmt: skip


def _bars(ax, grouped, shades):
    """Accuracy before (hollow) and after (filled) RL, with intervals over seeds."""
    for i, (variant, by_seed) in enumerate(grouped.items()):
        for when, at, face in (("before", i - 0.2, "white"), ("after", i + 0.2, shades[variant])):
            found = findings.estimate(by_seed, f"accuracy_{when}")
            if found is None:
                continue
            reach = 0 if found.low is None else found.high - found.mean
            ax.bar(at, found.mean, 0.36, color=face, edgecolor=shades[variant],
                   yerr=reach or None, capsize=3, error_kw={"ecolor": plots.INK})  # fmt: skip
    ax.set_xticks(range(len(grouped)), list(grouped))
    ax.set(title="Held-out accuracy before (hollow) and after RL", ylabel="avg@k, 95 % over seeds")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylim(0, 1.02)
    ax.grid(axis="x", visible=False)


def _matrix(ax, matrix):
    names = list(next(iter(matrix.values())))
    values = np.array([[row[n].mean if n in row else np.nan for n in names]
                       for row in matrix.values()])  # fmt: skip
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        ax.text(j, i, f"{value:.2f}", ha="center", va="center",
                color="white" if value > 0.6 else plots.INK)  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(matrix)), list(matrix))
    ax.set(title="Accuracy after RL", xlabel="evaluation", ylabel="trained as")
    ax.grid(visible=False)
