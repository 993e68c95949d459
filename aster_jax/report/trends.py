"""Figures over RL steps beside the outcome's: how episodes and calls ended, where the time
went, how far engine and trainer are apart; and the curves of several runs on one page.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np

from aster_jax.report import plots, turns

SHADES = ("#0b8a6f", "#c8453b", "#e08a1e", "#7a5cc2", "#2f74c0", "#8a8f98", "#b0568c", "#5a8f3c")
PARTS = (
    ("time/rollout_s", "rollout"), ("time/verify_s", "verdicts"), ("time/write_s", "writing"),
    ("time/old_logprobs_s", "old log-probs"), ("time/update_s", "update"),
)  # fmt: skip
# Title, label, scale and curves of each panel on the health of tool use.
HEALTH = (
    ("Turns without use", "share of turns", "percent_free",
     (("void", "void_turn_frac"), ("stray tags", "stray_tag_turn_frac"),
      ("unreadable", "polluted"), ("empty", "collapsed"))),
    ("What calls do", "share of what could", "percent",
     (("repeat a code", "repeated_call_frac"), ("build on state", "state_reuse_frac"),
      ("recover from a failure", "recovered_frac"))),
    ("Reasoned first", "share", "percent",
     (("answer before the tool", "post_hoc_frac"), ("text before the first call", "first_call_position"))),
    ("Certainty at tags", "mean log-prob, nats", "free",
     (("a call's opening", "opening_logprob"), ("a turn's end", "ending_logprob"))),
    ("Entropy at tags", "nats", "zero",
     (("a call's opening", "opening_entropy"), ("a turn's end", "ending_entropy"))),
    ("Right", "share of trajectories", "percent",
     (("where a call failed", "accuracy_call_failed"), ("where all succeeded", "accuracy_calls_ok"),
      ("validation", "rl/eval_accuracy"), ("validation, one of k", "rl/eval_pass"))),
)  # fmt: skip


def ending_areas(steps: Sequence[dict]) -> bytes | None:
    """Two panels of stacked shares by RL step: how trajectories ended, what calls came to.

    `steps` are collapse summaries with "stage" and "step" added.
    """
    if not steps:
        return None
    offsets = plots.stage_offsets(steps)
    with matplotlib.rc_context(plots.STYLE):
        figure, axes = plots.grid(1, 2, height=3.6)
        for ax, key, first, title in (
            (axes[0], "end", "answered", "How trajectories ended"),
            (axes[1], "call_status", "ok", "What became of calls"),
        ):
            names = sorted({n for s in steps for n in s[key]}, key=lambda n: (n != first, n))
            at = [s["step"] + offsets[s["stage"]] for s in steps]
            bottom = np.zeros(len(steps))
            for name, shade in zip(names, SHADES * 2):
                share = np.array([s[key].get(name, 0.0) for s in steps])
                label = name.replace("_", " ")
                ax.bar(at, share, 1.0, bottom=bottom, color=shade, label=label, linewidth=0)
                bottom += share
            ax.set(title=title, xlabel="RL step")
            plots.percent(ax)
            ax.set_xlim(0.5, plots.last_step(steps, offsets) + 0.5)
            plots.mark_stages(ax, offsets)
            if names:  # no calls at all leave nothing to explain
                ax.legend(loc="lower left", fontsize=9, frameon=True, framealpha=0.9)
        return plots.png(figure)


def health_curves(steps: Sequence[dict], metrics: Sequence[dict]) -> bytes | None:
    """Six panels over RL steps on what goes wrong before accuracy does: the format of turns, what
    calls do with each other, reasoning ahead of the tool, certainty at tags, and who is right.

    `steps` are collapse summaries with "stage" and "step" added, `metrics` the lines of
    metrics.jsonl, for what is measured on the validation split.
    """
    if not steps:
        return None
    states = [{state: s["turn_state"].get(state, 0.0) for state in turns.STATES} for s in steps]
    steps = [{**s, **state} for s, state in zip(steps, states, strict=True)]
    measured = [m for m in metrics if m["stage"] in plots.RL_STAGES and "rl/eval_accuracy" in m]
    offsets = plots.stage_offsets(steps)
    with matplotlib.rc_context(plots.STYLE):
        figure, axes = plots.grid(2, 3, height=6.6)
        for ax, (title, label, scale, curves) in zip(axes, HEALTH):
            for (name, key), shade in zip(curves, (SHADES[1], SHADES[4], SHADES[2], SHADES[3])):
                found = measured if key.startswith("rl/") else steps
                values = [_known(s, key) for s in found]
                if not np.all(np.isnan(values)):
                    at = [s["step"] + offsets[s["stage"]] for s in found]
                    plots.line(ax, at, values, shade, name)
            ax.set(title=title, ylabel=label, xlabel="RL step")
            if scale == "free":
                ax.margins(y=0.15)
            else:
                plots.set_scale(ax, scale)
            plots.mark_stages(ax, offsets)
            ax.set_xlim(0, plots.last_step(steps, offsets) + 1)
            if ax.get_legend_handles_labels()[1]:
                ax.legend(loc="best", fontsize=9)
        return plots.png(figure)


def time_curves(metrics: Sequence[dict]) -> bytes | None:
    """Three panels over RL steps: seconds by part of a step, tokens, difference of log-probs."""
    lines = [m for m in metrics if m["stage"] in plots.RL_STAGES]
    if not any(key in m for m in lines for key, _ in PARTS):
        return None
    offsets = plots.stage_offsets(lines)
    at = [m["step"] + offsets[m["stage"]] for m in lines]
    with matplotlib.rc_context(plots.STYLE):
        figure, axes = plots.grid(1, 3, height=3.6)
        parts = [(name, [_known(m, key, 0.0) for m in lines]) for key, name in PARTS]
        parts = [(name, values) for name, values in parts if any(values)]
        axes[0].stackplot(
            at, [v for _, v in parts], labels=[n for n, _ in parts], colors=SHADES[::-1], linewidth=0
        )
        axes[0].set(title="Time of a step", ylabel="seconds", xlabel="RL step")
        axes[0].set_ylim(bottom=0)
        plots.line(axes[1], at, [_known(m, "rollout/tokens_per_s") for m in lines], SHADES[4])
        axes[1].set(title="Rollout", ylabel="tokens sampled per second", xlabel="RL step")
        axes[1].set_ylim(bottom=0)
        for key, name, shade in (
            ("rl/logp_diff_mean", "mean", SHADES[0]), ("rl/logp_diff_max", "largest", SHADES[1]),
        ):  # fmt: skip
            values = [max(_known(m, key), 1e-9) for m in lines]
            plots.line(axes[2], at, values, shade, name)
        axes[2].set(title="Engine and trainer apart", ylabel="log-prob, nats", xlabel="RL step")
        axes[2].set_yscale("log")
        for ax in axes:
            plots.mark_stages(ax, offsets)
            ax.set_xlim(0, plots.last_step(lines, offsets) + 1)
        axes[0].legend(loc="upper right", fontsize=9, frameon=True, framealpha=0.9)
        axes[2].legend(loc="best", fontsize=9)
        return plots.png(figure)


def runs_curves(metrics: dict[str, Sequence[dict]]) -> bytes | None:
    """The panels of `plots.RL_PANELS` over RL steps with a line for every run."""
    having = {
        name: [m for m in lines if m["stage"] in plots.RL_STAGES] for name, lines in metrics.items()
    }
    having = {name: lines for name, lines in having.items() if lines}
    if not having:
        return None
    with matplotlib.rc_context(plots.STYLE):
        figure, axes = plots.grid(2, 3, height=6.6)
        for ax, (key, title, label, scale) in zip(axes, plots.RL_PANELS):
            for (name, lines), shade in zip(having.items(), _cycle(len(having))):
                offsets = plots.stage_offsets(lines)
                points = [(m["step"] + offsets[m["stage"]], m[key]) for m in lines
                          if m.get(key) is not None]  # fmt: skip
                if points:
                    plots.line(ax, *zip(*points), shade, name)
            ax.set(title=title, ylabel=label, xlabel="RL step")
            plots.set_scale(ax, scale)
        axes[0].legend(loc="best", fontsize=9)
        return plots.png(figure)


def runs_accuracy(results: dict[str, Sequence[dict]]) -> bytes | None:
    """Accuracy with the tool of every checkpoint, a line with 95 % intervals for every run."""
    having = {
        name: [r for r in found if r["arm"] == "main" and r["evaluation"] == "main"]
        for name, found in results.items()
    }
    having = {name: found for name, found in having.items() if found}
    if not having:
        return None
    order = dict.fromkeys(r["checkpoint"] for found in having.values() for r in found)
    places = {c: i for i, c in enumerate([c for c in plots.COLORS if c in order]
                                         + [c for c in order if c not in plots.COLORS])}  # fmt: skip
    with matplotlib.rc_context(plots.STYLE):
        figure, (ax,) = plots.grid(1, 1, height=3.8, width=8.2)
        for i, ((name, found), shade) in enumerate(zip(having.items(), _cycle(len(having)))):
            at = [places[r["checkpoint"]] + 0.06 * (i - (len(having) - 1) / 2) for r in found]
            value = np.array([r["avg_at_k"] for r in found])
            spread = [value - [r["avg_low"] for r in found], [r["avg_high"] for r in found] - value]
            ax.errorbar(
                at, value, yerr=np.maximum(spread, 0), color=shade, marker="o", capsize=3,
                linewidth=2, label=name,
            )  # fmt: skip
        ax.set_xticks(range(len(places)), [c.upper() for c in places])
        ax.set(title="Accuracy on held-out problems", ylabel="avg@k, 95 % interval")
        plots.percent(ax)
        ax.legend(loc="best", fontsize=9)
        return plots.png(figure)


def _cycle(count):
    order = (4, 2, 0, 1, 3, 6, 5, 7)
    return [SHADES[order[i % len(order)]] for i in range(count)]


def _known(line, key, otherwise=np.nan):
    value = line.get(key)
    return otherwise if value is None else value
