"""The report's figures: numbers in, PNG bytes out.

One palette for the whole report: a checkpoint has the same colour in every figure, table
and badge. A faint line is what was measured, a strong one its running mean.
"""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

COLORS = {"base": "#8a8f98", "sft": "#e08a1e", "rl1": "#2f74c0", "rl2": "#0b8a6f"}
OTHER_COLOR = "#7a5cc2"
WRONG_COLOR = "#c8453b"
INK = "#24292f"
RL_STAGES = ("rl1", "rl2")
# Metric, title, label and scale of each panel on reinforcement learning.
RL_PANELS = (
    ("rollout/reward_mean", "Reward", "share of trajectories correct", "percent"),
    ("rollout/calls_mean", "Tool calls", "calls per trajectory", "zero"),
    ("rollout/model_tokens_mean", "Response length", "tokens written", "zero"),
    ("rollout/entropy_mean", "Entropy", "nats per written token", "zero"),
    ("rl/clip_frac", "Clipped tokens", "share of tokens", "percent_free"),
    ("rl/informative_frac", "Informative groups", "share with mixed outcomes", "percent"),
)
# How an arm's bars are called and filled.
_HATCHES = {
    "main": ("with the tool", None),
    "no_tool": ("answer without it", "////"),
    "think": ("think without it", "...."),
}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a8",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "legend.frameon": False,
    "savefig.dpi": 130,
}


def color(checkpoint: str) -> str:
    """The checkpoint's colour, as a hex code."""
    return COLORS[checkpoint] if checkpoint in COLORS else OTHER_COLOR


def smooth(values: Sequence[float]) -> np.ndarray:
    """Running mean over a window that grows with the curve: an eighth, at least 3 points.

    Centred, with shorter windows at both ends; NaN is passed over. Curves of fewer than 8
    points are left as they are.
    """
    values = np.asarray(values, float)
    half = max(len(values) // 16, 1) if len(values) >= 8 else 0
    return np.array(
        [_nanmean(values[max(i - half, 0) : i + half + 1]) for i in range(len(values))]
    )


def _nanmean(values):
    known = values[~np.isnan(values)]
    return known.mean() if len(known) else np.nan


def sft_curve(metrics: Sequence[dict]) -> bytes | None:
    """Loss per trained token over SFT steps, and the probes' accuracy if there were any."""
    lines = [m for m in metrics if m["stage"] == "sft" and "sft/loss" in m]
    if not lines:
        return None
    probes = [m for m in lines if "sft/probe_accuracy" in m]
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(1, 2 if probes else 1, height=3.4)
        line(axes[0], [m["step"] for m in lines], [m["sft/loss"] for m in lines], COLORS["sft"])
        axes[0].set(title="SFT loss", xlabel="optimiser step", ylabel="nats per trained token")
        axes[0].set_ylim(bottom=0)
        if probes:
            steps = [m["step"] for m in probes]
            accuracy = [m["sft/probe_accuracy"] for m in probes]
            axes[1].plot(steps, accuracy, color=COLORS["sft"], marker="o", linewidth=2)
            axes[1].set(title="Accuracy during SFT", xlabel="optimiser step")
            axes[1].set_ylabel("solved, one sample each")
            percent(axes[1])
        return png(figure)


def rl_curves(metrics: Sequence[dict]) -> bytes | None:
    """Six panels over RL steps: outcome, calls, length, entropy, clipping, information."""
    lines = [m for m in metrics if m["stage"] in RL_STAGES]
    if not lines:
        return None
    offsets = stage_offsets(lines)
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(2, 3, height=6.2)
        for ax, (key, title, label, scale) in zip(axes, RL_PANELS):
            for stage, offset in offsets.items():
                have = [m for m in lines if m["stage"] == stage and key in m]
                line(ax, [m["step"] + offset for m in have], [m[key] for m in have], color(stage))
            ax.set(title=title, ylabel=label, xlabel="RL step")
            set_scale(ax, scale)
            mark_stages(ax, offsets)
            ax.set_xlim(0, last_step(lines, offsets) + 1)
        return png(figure)


def tool_curves(steps: Sequence[dict]) -> bytes | None:
    """Three panels over RL steps on collapse: lone calls, who calls, what fails.

    `steps` are collapse summaries with "stage" and "step" added.
    """
    if not steps:
        return None
    offsets = stage_offsets(steps)
    shares = ("Collapse", "share of trajectories", "percent")
    panels = (
        (*shares, (("at most one call", "at_most_one_call_frac", INK, "-"),
                   ("answers without a call", "answered_without_tool_frac", OTHER_COLOR, "--"),
                   ("only verifies at the end", "only_verifies_frac", WRONG_COLOR, ":"))),
        ("Calls by outcome", "calls per trajectory", "zero",
         (("correct", "calls_mean_correct", COLORS["rl2"], "-"),
          ("wrong", "calls_mean_wrong", WRONG_COLOR, "-"))),
        ("Failed calls", "share of attempts", "percent_free",
         (("any failure", "failed_call_frac", WRONG_COLOR, "-"),
          ("malformed", "malformed_call_frac", INK, "--"))),
    )  # fmt: skip
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(1, 3, height=3.6)
        for ax, (title, label, scale, curves) in zip(axes, panels):
            at = [s["step"] + offsets[s["stage"]] for s in steps]
            for name, key, shade, dashes in curves:
                values = [np.nan if s[key] is None else s[key] for s in steps]
                line(ax, at, values, shade, name, dashes)
            ax.set(title=title, ylabel=label, xlabel="RL step")
            set_scale(ax, scale)
            mark_stages(ax, offsets)
            ax.set_xlim(0, last_step(steps, offsets) + 1)
            ax.legend(loc="best", fontsize=9)
        return png(figure)


def accuracy_bars(results: Sequence[dict]) -> bytes | None:
    """Held-out accuracy per checkpoint and arm with 95 % intervals, a panel per evaluation.

    A dotted box on a bar reaches from the lower to the upper bound, where they differ.
    """
    by_name = _by_evaluation(results)
    if not by_name:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(by_name), 1, height=3.8 * len(by_name), width=7.2)
        for ax, (name, members) in zip(axes, by_name.items()):
            _bars(ax, members)
            ax.set(title=f"Accuracy on held-out problems{'' if name == 'main' else f', {name}'}")
            ax.set_ylabel(f"avg@{members[0]['k']}, 95 % interval")
            ax.grid(axis="x", visible=False)
            percent(ax)
            ax.set_ylim(0, 1.08)
        return png(figure)


def _bars(ax, results):
    """The bars of one evaluation, one group per checkpoint."""
    checkpoints = list(dict.fromkeys(r["checkpoint"] for r in results))
    arms = [a for a in _HATCHES if any(r["arm"] == a for r in results)]
    width = 0.8 / len(arms)
    for r in results:
        beside = arms.index(r["arm"]) - (len(arms) - 1) / 2
        x = checkpoints.index(r["checkpoint"]) + beside * width
        whiskers = [[r["avg_at_k"] - r["avg_low"]], [r["avg_high"] - r["avg_at_k"]]]
        shade, (_, hatch) = color(r["checkpoint"]), _HATCHES[r["arm"]]
        ax.bar(
            x, r["avg_at_k"], width * 0.92, yerr=np.maximum(whiskers, 0), capsize=4,
            color="white" if hatch else shade, edgecolor=shade, hatch=hatch,
            error_kw={"ecolor": INK, "elinewidth": 1.2},
        )  # fmt: skip
        unknown = r["avg_upper"] - r["avg_at_k"]
        if unknown > 0:
            ax.bar(
                x, unknown, width * 0.92, bottom=r["avg_at_k"], color="none", edgecolor=INK,
                linestyle=":",
            )  # fmt: skip
        ax.annotate(
            f"{'≥ ' * (unknown > 0)}{100 * r['avg_at_k']:.1f}", (x, max(r["avg_high"], r["avg_upper"])),
            xytext=(0, 4), textcoords="offset points", ha="center",
            fontsize=10 if len(arms) < 3 else 8,
        )  # fmt: skip
    ax.set_xticks(range(len(checkpoints)), [c.upper() for c in checkpoints])
    if len(arms) > 1:
        for name, hatch in map(_HATCHES.get, arms):
            ax.bar(0, 0, color="white" if hatch else INK, edgecolor=INK, hatch=hatch, label=name)
        ax.legend(loc="upper left", fontsize=10)


def pass_curves(results: Sequence[dict]) -> bytes | None:
    """pass@k against k with the tool, a panel per evaluation of more than one sample."""
    with_tool = [r for r in results if r["arm"] == "main" and r["k"] > 1]
    by_name = _by_evaluation(with_tool)
    if not by_name:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(by_name), 1, height=3.6 * len(by_name), width=7.2)
        for ax, (name, members) in zip(axes, by_name.items()):
            for r in members:
                k, value, low, high = zip(*r["pass_curve"])
                shade = color(r["checkpoint"])
                ax.fill_between(k, low, high, color=shade, alpha=0.15, linewidth=0)
                ax.plot(k, value, color=shade, marker=".", linewidth=2, label=r["checkpoint"])
            ax.set(title=f"pass@k{'' if name == 'main' else f', {name}'}", xlabel="k, samples")
            ax.set_ylabel("solved by one of k, 95 % interval")
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
            percent(ax)
            ax.legend(loc="best", fontsize=10)
        return png(figure)


def _by_evaluation(results) -> dict[str, list[dict]]:
    by_name: dict[str, list[dict]] = {}
    for r in results:
        by_name.setdefault(r["evaluation"], []).append(r)
    return by_name


def calls_histograms(summaries: dict[str, dict]) -> bytes | None:
    """How many calls trajectories made, one panel per checkpoint, on one scale."""
    summaries = {name: s for name, s in summaries.items() if s["episodes"]}
    if not summaries:
        return None
    most = max(calls for s in summaries.values() for calls, _ in s["calls_histogram"])
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(1, len(summaries), height=3.0, sharey=True)
        for ax, (name, s) in zip(axes, summaries.items()):
            calls, counts = zip(*s["calls_histogram"])
            ax.bar(calls, np.array(counts) / s["episodes"], 0.9, color=color(name))
            ax.axvline(s["calls_mean"], color=INK, linestyle="--", linewidth=1.2)
            ax.set(title=f"{name.upper()}: {s['calls_mean']:.2f} on average", xlabel="tool calls")
            ax.set_xlim(-0.7, max(most, 3) + 0.7)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            percent(ax)
        axes[0].set_ylabel("share of trajectories")
        return png(figure)


def grid(rows, columns, height, width=11.5, sharey=False):
    """A figure at page width, and its axes as a flat list."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, list(axes.flat)


def line(ax, x, y, shade, name=None, dashes="-"):
    """What was measured, faint, and its running mean."""
    ax.plot(x, y, color=shade, alpha=0.3, linewidth=1, marker="." if len(x) < 40 else None)
    ax.plot(x, smooth(y), color=shade, linewidth=2.2, linestyle=dashes, label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def set_scale(ax, scale):
    """The y axis: "percent", "percent_free" (up to what there is) or "zero" (from 0 on)."""
    if scale == "percent":
        percent(ax)
    elif scale == "percent_free":
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_ylim(0, min(max(1.15 * ax.get_ylim()[1], 0.01), 1.02))
    else:
        ax.set_ylim(0, ax.get_ylim()[1] * 1.1 if ax.get_ylim()[1] > 0 else 1)


def percent(ax):
    """Shares from 0 to 100 %."""
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def stage_offsets(lines) -> dict[str, int]:
    """Steps to add to each stage's own, so that the stages stand one after the other."""
    offsets, total = {}, 0
    for stage in RL_STAGES:
        steps = [m["step"] for m in lines if m["stage"] == stage]
        if steps:
            offsets[stage] = total
            total += max(steps)
    return offsets


def last_step(lines, offsets) -> int:
    """The last step, counted over both stages."""
    return max(m["step"] + offsets[m["stage"]] for m in lines)


def mark_stages(ax, offsets):
    """A dashed line where stage 2 begins."""
    for stage, offset in offsets.items():
        if offset:
            ax.axvline(offset + 0.5, color="#9aa0a8", linestyle="--", linewidth=1)
            ax.annotate(
                "stage 2" if stage == "rl2" else stage, (offset + 0.5, 1), xytext=(4, -10),
                xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9,
                color="#4b5563", bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
            )  # fmt: skip


def png(figure) -> bytes:
    """The figure's bytes, without the date, so that equal data gives equal files."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
