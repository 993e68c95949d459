"""What the report of one run consists of: tables, figures and sentences, in their order.

Pure: what was read (`records.RunRecords`) -> the first page's sheet, and the numbers behind it.
"""

from aster_jax.report import (
    alarms,
    budgets,
    collapse,
    plots,
    records,
    rules,
    tables,
    trends,
    viewer,
)


def of_run(found: records.RunRecords) -> tuple[viewer.Sheet, dict]:
    """(the sheet of a run's page, the numbers that summary.json holds)."""
    summaries = summaries_of(found)
    steps = steps_of(found)
    raised = rules.of_run(found.metrics)
    spent = budgets.curves(found.eval_rows)
    shown = [
        tables.headline(found.results),
        *_compared(found),
        rules.table(raised, found.metrics),
        tables.tool_use(summaries),
        *_tool_use_of_others(found),
        *_tool_use_in_training(steps),
        tables.families(found.results),
        *_breakdowns(found),
        *budgets.tables_of(spent),
        tables.stages(found.config, found.metrics, found.finished),
    ]
    config = found.config
    sheet = viewer.Sheet(
        title=config["name"],
        lead=f"Run report, seed {config['seed']}, model {config['model']['source']}",
        conclusions=[
            *tables.conclusions(found.results, found.differences),
            *alarms.of_run(found.results, found.metrics),
        ],
        tables=shown,
        figures=_figures(found, summaries, steps, spent),
        configs={config["name"]: config},
    )
    numbers = {
        "name": config["name"],
        "seed": config["seed"],
        "results": found.results,
        "earlier_results": found.earlier,
        "differences": found.differences,
        "tool_use": summaries,
        "tool_use_by_step": steps,
        "alarms": raised,
        "budgets": spent,
    }
    return sheet, numbers


def steps_of(found: records.RunRecords) -> list[dict]:
    """Tool use of every RL step, with "stage" and "step"."""
    grouped = collapse.group(found.rl_rows, "stage", "step")
    return [
        {"stage": stage, "step": step, **collapse.summarise(rows)}
        for (stage, step), rows in grouped.items()
    ]


def summaries_of(found: records.RunRecords, evaluation: str = "main") -> dict[str, dict]:
    """Tool use per checkpoint with the tool; of the RL steps where nothing was evaluated."""
    evaluated = [r for r in found.eval_rows if r.evaluation == evaluation]
    rows = evaluated if found.eval_rows else found.rl_rows
    grouped = collapse.group([r for r in rows if r.arm == "main"], "checkpoint")
    return {checkpoint: collapse.summarise(rows) for (checkpoint,), rows in grouped.items()}


def _compared(found) -> list[tables.Table]:
    """Checkpoints against each other, and results of other settings, where there are any."""
    checkpoints = list(dict.fromkeys(r["checkpoint"] for r in found.results))
    differing = tables.changes(found.differences, checkpoints)
    earlier = tables.headline(found.earlier, "Evaluated before, with other settings")
    return [table for table in (differing, earlier) if table.rows]


def _tool_use_of_others(found) -> list[tables.Table]:
    """Tool use in every evaluation beside the main one."""
    names = dict.fromkeys(r["evaluation"] for r in found.results if r["evaluation"] != "main")
    return [tables.tool_use(summaries_of(found, name), f"Tool use, {name}") for name in names]


def _tool_use_in_training(steps) -> list[tables.Table]:
    """Tool use at the first and the last step of every stage of RL; all steps are in the summary."""
    shown = {}
    for stage in dict.fromkeys(s["stage"] for s in steps):
        own = [s for s in steps if s["stage"] == stage]
        shown |= {f"{stage} step {s['step']}": s for s in (own[0], own[-1])}
    return [tables.tool_use(shown, "Tool use in training")] if shown else []


def _breakdowns(found) -> list[tables.Table]:
    """How episodes ended and what became of calls, where there are any."""
    made = (tables.endings(found.results), tables.call_statuses(found.results))
    return [table for table in made if table.rows]


def _figures(found, summaries, steps, spent) -> list[viewer.Figure]:
    passes = plots.pass_curves(found.results)
    optional = (
        ("pass", "Solved by one of k samples", passes),
        ("budgets", "Accuracy under smaller budgets", budgets.figure(spent)),
        ("endings", "How trajectories and calls ended during RL", trends.ending_areas(steps)),
        ("health", "How the tool is used during RL", trends.health_curves(steps, found.metrics)),
        ("time", "Time, tokens, and how far engine and trainer are apart",
         trends.time_curves(found.metrics)),
    )  # fmt: skip
    made = {name: viewer.Figure(name, caption, png) for name, caption, png in optional if png}
    return [
        viewer.Figure("accuracy", "Held-out accuracy", plots.accuracy_bars(found.results)),
        *(made[name] for name in ("pass", "budgets") if name in made),
        viewer.Figure("rl", "Reinforcement learning", plots.rl_curves(found.metrics)),
        viewer.Figure("tools", "Tool use during RL", plots.tool_curves(steps)),
        *(made[name] for name in ("health", "endings") if name in made),
        viewer.Figure("calls", "Calls per trajectory", plots.calls_histograms(summaries)),
        *(made[name] for name in ("time",) if name in made),
        viewer.Figure("sft", "Supervised fine-tuning", plots.sft_curve(found.metrics)),
    ]
