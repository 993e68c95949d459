"""The evaluation: checkpoints x arms on the held-out problems, under explicit budgets.

The arm "main" is the policy with its tool. The arm "no_tool" opens the first turn with
the words of an answer and allows no call, so that a number has to come from the head.
"""

import dataclasses
import json

from aster_jax import policy as policies
from aster_jax import pools, workdir
from aster_jax.data import chat
from aster_jax.eval import passk
from aster_jax.rollout import phase, record
from aster_jax.train import metrics

FORCED_ANSWER = "The answer is \\boxed{"


def run(run: workdir.Run) -> None:
    """Evaluate every checkpoint that exists; one file per checkpoint and arm, then all."""
    c = run.config.eval
    policy = policies.describe(run)
    opener = tuple(chat.opener_ids(FORCED_ANSWER, policy.tokenizer, policy.style))
    held_out = pools.select(run.config, "heldout", run.config.problems.num_heldout)
    held_out = phase.fitting(run, policy, held_out, "eval", opener)
    arms = ("main", "no_tool") if c.no_tool else ("main",)
    made = {"base", *run.config.stages, *filter(run.is_finished, c.checkpoints)}
    stages = [s for s in c.checkpoints if s in made]
    results = []
    with phase.players(run, policy, phase.sampling_of(c)) as players:
        for checkpoint in stages:
            params = policies.trained_params(run, policy, checkpoint)
            for arm in arms:
                path = run.directory("eval") / f"{checkpoint}_{arm}.jsonl"
                if not path.exists():
                    _evaluate(run, policy, players, params, held_out, checkpoint, arm, path)
                records = [json.loads(line) for line in path.read_text().splitlines()]
                results.append(_result(run, checkpoint, arm, records))
                _say(run, results[-1])
    parts = [run.path / "eval" / f"{s}_{a}.jsonl" for s in stages for a in arms]
    metrics.replace(run.path / "eval" / "episodes.jsonl", "".join(p.read_text() for p in parts))
    metrics.replace(run.path / "eval" / "results.json", json.dumps(results, indent=1) + "\n")
    run.finish("eval", {"problems": len(held_out), "checkpoints": stages})


def _evaluate(run, policy, players, params, held_out, checkpoint, arm, path):
    limits = phase.budgets(run.config, run.config.eval)
    opener = ()
    if arm == "no_tool":
        opener = tuple(chat.opener_ids(FORCED_ANSWER, policy.tokenizer, policy.style))
        limits = dataclasses.replace(limits, max_calls=0)
    asked = phase.requests(held_out, run.config.eval.samples, policy, opener)
    scored, _ = phase.run_phase(
        run, policy, players, params, asked, limits, f"eval/{checkpoint}/{arm}"
    )
    by_id = {p.id: p for p in held_out}
    where = {"stage": "eval", "step": 0, "checkpoint": checkpoint, "arm": arm}
    lines = [
        json.dumps(record.to_record(s, by_id[s.trajectory.problem_id], policy.tokenizer, where))
        for s in scored
    ]
    metrics.replace(path, "\n".join(lines) + "\n")


def _result(run, checkpoint, arm, records) -> dict:
    """The line of results.json: accuracies with intervals, tool use, endings."""
    c = run.config.eval
    return {
        "checkpoint": checkpoint,
        "arm": arm,
        "tokens": c.response_tokens,
        "max_calls": c.max_calls if arm == "main" else 0,
        "temperature": c.temperature,
        **passk.summarise(records, run.config.seed),
    }


def _say(run, r):
    masked = f"  left out {r['masked']}: tool, verifier or deadline" if r["masked"] else ""
    run.say(
        "eval",
        f"{r['checkpoint']:4s} {r['arm']:7s}  accuracy {r['avg_at_k']:.3f} "
        f"[{r['avg_low']:.3f}, {r['avg_high']:.3f}]  n={r['n_problems']} k={r['k']}  "
        f"calls {r['calls_mean']:.2f}{masked}",
    )
