"""The report stage: everything a run left behind -> one page, its figures and a table.

Can be made at any time, of a run that is finished or not; parts that are missing are
shown as "not run". Reads only the workdir, never a checkpoint.
"""

import json
import os
import pathlib

from aster_jax import together, workdir
from aster_jax.report import alarms, collapse, plots, records, tables, viewer

DIRECTORY = "report"


def run(run: workdir.Run) -> None:
    """Write the report of a run and print its table; process 0 only."""
    together.once("report", lambda: _run(run))


def _run(run):
    print(write(run.path, run.config.report.trajectories), flush=True)
    run.say("report", f"see {run.path / DIRECTORY / 'index.html'}")
    run.finish("report", {"page": "index.html"})


def write(path: pathlib.Path, trajectories: int) -> str:
    """Write index.html, the PNGs, summary.json and summary.txt under `path`/report.

    Args:
      path: a run's workdir. Raises ValueError if it is none, or for a broken line in it.
      trajectories: whole episodes to show per checkpoint.

    Returns the beginning of summary.txt, the results, for a terminal.
    """
    found = records.read(path, trajectories)
    summaries = _summaries(found)
    steps = [
        {"stage": stage, "step": step, **collapse.summarise(rows)}
        for (stage, step), rows in collapse.group(found.rl_rows, "stage", "step").items()
    ]
    figures = _figures(found, summaries, steps)
    shown = [
        tables.headline(found.results),
        *_compared(found),
        tables.tool_use(summaries),
        *_tool_use_of_others(found),
        *_tool_use_in_training(steps),
        tables.families(found.results),
        tables.stages(found.config, found.metrics, found.finished),
    ]
    said = tables.conclusions(found.results, found.differences)
    said += alarms.of_run(found.results, found.metrics)
    directory = path / DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        if figure.png is not None:
            _replace(directory / f"{figure.name}.png", figure.png)
    page = viewer.page(found.config, said, shown, figures, found.shown)
    text = summary_text(found.config, said, shown)
    numbers = {
        "name": found.config["name"],
        "seed": found.config["seed"],
        "results": found.results,
        "earlier_results": found.earlier,
        "differences": found.differences,
        "tool_use": summaries,
        "tool_use_by_step": steps,
    }
    _replace(directory / "index.html", page.encode())
    _replace(directory / "summary.json", (json.dumps(numbers, indent=1) + "\n").encode())
    _replace(directory / "summary.txt", text.encode())
    return summary_text(found.config, said, shown[:1])


def summary_text(config: dict, said: list[str], shown: list[tables.Table]) -> str:
    """The report as plain text: the first table, what follows from it, the other tables."""
    title = f"{config['name']}, seed {config['seed']}, model {config['model']['source']}"
    results, *others = map(tables.to_text, shown)
    return "\n".join([title, "", results, *said, "", *others]) + "\n"


def _compared(found) -> list[tables.Table]:
    """Checkpoints against each other, and results of other settings, where there are any."""
    checkpoints = list(dict.fromkeys(r["checkpoint"] for r in found.results))
    differing = tables.changes(found.differences, checkpoints)
    earlier = tables.headline(found.earlier, "Evaluated before, with other settings")
    return [table for table in (differing, earlier) if table.rows]


def _summaries(found: records.RunRecords, evaluation: str = "main") -> dict[str, dict]:
    """Tool use per checkpoint with the tool; of the RL steps where nothing was evaluated."""
    evaluated = [r for r in found.eval_rows if r.evaluation == evaluation]
    rows = evaluated if found.eval_rows else found.rl_rows
    grouped = collapse.group([r for r in rows if r.arm == "main"], "checkpoint")
    return {checkpoint: collapse.summarise(rows) for (checkpoint,), rows in grouped.items()}


def _tool_use_of_others(found) -> list[tables.Table]:
    """Tool use in every evaluation beside the main one."""
    names = dict.fromkeys(r["evaluation"] for r in found.results if r["evaluation"] != "main")
    return [tables.tool_use(_summaries(found, name), f"Tool use, {name}") for name in names]


def _tool_use_in_training(steps) -> list[tables.Table]:
    """Tool use at the first and the last step of every stage of RL; all steps are in the summary."""
    shown = {}
    for stage in dict.fromkeys(s["stage"] for s in steps):
        own = [s for s in steps if s["stage"] == stage]
        shown |= {f"{stage} step {s['step']}": s for s in (own[0], own[-1])}
    return [tables.tool_use(shown, "Tool use in training")] if shown else []


def _figures(found, summaries, steps) -> list[viewer.Figure]:
    passes = plots.pass_curves(found.results)
    return [
        viewer.Figure("accuracy", "Held-out accuracy", plots.accuracy_bars(found.results)),
        *([viewer.Figure("pass", "Solved by one of k samples", passes)] if passes else []),
        viewer.Figure("rl", "Reinforcement learning", plots.rl_curves(found.metrics)),
        viewer.Figure("tools", "Tool use during RL", plots.tool_curves(steps)),
        viewer.Figure("calls", "Calls per trajectory", plots.calls_histograms(summaries)),
        viewer.Figure("sft", "Supervised fine-tuning", plots.sft_curve(found.metrics)),
    ]


def _replace(path: pathlib.Path, data: bytes) -> None:
    """Write a file so that it is never seen half-written."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    os.replace(temporary, path)
