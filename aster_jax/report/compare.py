"""Several runs side by side: what a study shows, and what `aster_jax.report` of several makes.

Pure: runs by name, as `records.read` gives them -> tables, figures and the page's sheet.
"""

from collections.abc import Mapping

from aster_jax.report import records, sections, tables, trends, viewer

Runs = Mapping[str, records.RunRecords]


def sheet(runs: Runs) -> tuple[viewer.Sheet, dict]:
    """(the sheet of the page that compares runs, the numbers behind it for summary.json)."""
    made = viewer.Sheet(
        title=" | ".join(runs),
        lead=f"{len(runs)} runs side by side",
        conclusions=[],
        tables=all_tables(runs),
        figures=figures(runs),
        configs={name: found.config for name, found in runs.items()},
    )
    return made, {
        name: {
            "seed": found.config["seed"],
            "results": found.results,
            "differences": found.differences,
            "tool_use": sections.summaries_of(found),
        }
        for name, found in runs.items()
    }


def all_tables(runs: Runs) -> list[tables.Table]:
    """Accuracy, calls and tokens by run, what the last step of RL was like, and the keys in
    which the configs differ."""
    return [
        results(runs, "Accuracy % [95 %]", tables.accuracy_cell),
        results(runs, "Tool calls per trajectory [95 %]", tables.calls_cell),
        results(runs, "Tokens per trajectory", tables.tokens_cell),
        *(t for t in (last_steps(runs), differing_keys(runs)) if t.rows),
    ]


def results(runs: Runs, title: str, cell) -> tables.Table:
    """One number of every result, a line per checkpoint, arm and evaluation, a column per run.

    `cell` makes the text from an entry of results.json.
    """
    known = {
        name: {(r["checkpoint"], r["arm"], r["evaluation"]): r for r in found.results}
        for name, found in runs.items()
    }
    lines = list(dict.fromkeys(line for found in known.values() for line in found))
    rows = tuple(
        (
            checkpoint, tables.arm(arm), evaluation,
            *(cell(found[line]) if line in found else tables.NOTHING for found in known.values()),
        )
        for line in lines for checkpoint, arm, evaluation in [line]
    )  # fmt: skip
    return tables.Table(title, ("checkpoint", "arm", "evaluation", *runs), rows)


_LAST = (
    ("reward", "rollout/reward_mean"),
    ("calls per trajectory", "rollout/calls_mean"),
    ("at most one call", "rollout/at_most_one_call_frac"),
    ("tokens written", "rollout/model_tokens_mean"),
    ("entropy", "rollout/entropy_mean"),
    ("informative groups", "rl/informative_frac"),
    ("tokens per second", "rollout/tokens_per_s"),
    ("seconds so far", "time_s"),
)


def last_steps(runs: Runs) -> tables.Table:
    """Metrics of each run's newest step of RL."""
    lines = {
        name: [m for m in found.metrics if m["stage"] in records.RL_STAGES]
        for name, found in runs.items()
    }
    if not any(lines.values()):
        return tables.Table("The newest step of RL", (), ())
    rows = [("step", *(f"{found[-1]['stage']} {found[-1]['step']}" if found else tables.NOTHING
                       for found in lines.values()))]  # fmt: skip
    for name, key in _LAST:
        values = [found[-1].get(key) if found else None for found in lines.values()]
        rows.append((name, *(tables.NOTHING if v is None else f"{v:.4g}" for v in values)))
    return tables.Table("The newest step of RL", ("", *runs), tuple(rows))


def differing_keys(runs: Runs) -> tables.Table:
    """The keys whose values are not the same in all configs."""
    flat = [_flat(found.config) for found in runs.values()]
    rows = []
    for key in sorted({key for keys in flat for key in keys}):
        values = [keys[key] if key in keys else tables.NOTHING for keys in flat]
        if len(set(values)) > 1:
            rows.append((key, *(v if len(v) <= 60 else v[:57] + "..." for v in values)))
    return tables.Table("What differs in the configs", ("key", *runs), tuple(rows))


def _flat(config: dict, prefix: str = "") -> dict[str, str]:
    """A config as dotted keys and texts."""
    found = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = str(value)
    return found


def figures(runs: Runs) -> list[viewer.Figure]:
    """Accuracy by checkpoint and the curves of RL, a line for every run."""
    accuracy = trends.runs_accuracy({name: found.results for name, found in runs.items()})
    curves = trends.runs_curves({name: found.metrics for name, found in runs.items()})
    return [
        viewer.Figure("accuracy", "Held-out accuracy", accuracy),
        viewer.Figure("rl", "Reinforcement learning", curves),
    ]
