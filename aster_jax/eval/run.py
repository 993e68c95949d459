"""The evaluation: checkpoints -> trajectories on held-out problems -> accuracies with intervals.

What is asked has a room of its own (`arms.py`), and so have the episodes there are of an
arm (`episodes.py`), the statistics (`passk.py`) and what is made of them (`results.py`).

An arm is complete when every trajectory has ended by itself or by a budget or limit of
its own. What the tool or the verifier lost is asked or judged again, here and at the next
start; whatever is lost in the end stays in the denominators, as wrong.
"""

import contextlib
import functools
import json
import time

from aster_jax import policy as policies
from aster_jax import pools, settings, together, types, workdir
from aster_jax.errors import InputError
from aster_jax.eval import arms, episodes, results
from aster_jax.lifetime import changes
from aster_jax.report import records
from aster_jax.rollout import journal, phase, record
from aster_jax.train import metrics

CHUNK = 4  # with a fixed schedule, requests of a phase per slot


def run(run: workdir.Run) -> None:
    """Evaluate every checkpoint in every arm; only what is not there yet is made."""
    policy = policies.describe(run)
    wanted = arms.wanted(run)
    problems = {
        name: _problems(run, policy, name, section.heldout or run.config.problems.heldout, section)
        for name, section in settings.evaluations(run.config).items()
    }
    path = run.directory("eval") / "results.json"
    before = records.whole(path, list) or [] if together.is_first() else []
    book = results.Book(wanted, before, run.config.seed)
    if together.is_first():
        _write(path.with_name("asked.json"), book.asked())
    for how, by_checkpoint in arms.by_players(wanted):
        with contextlib.ExitStack() as stack:
            # Called, and the tool started, only where something is to be made.
            players = functools.cache(
                lambda: stack.enter_context(phase.players(run, policy, how))
            )
            for members in by_checkpoint:
                _checkpoint(run, policy, players, members, problems, book)
    if not together.is_first():
        return
    _write(path, book.results())
    _write(path.with_name("differences.json"), book.differences())
    checkpoints = list(dict.fromkeys(arm.checkpoint for arm in wanted))
    counted = {"problems": len(problems["main"]), "checkpoints": checkpoints}
    run.finish("eval", {**counted, "arms": book.covered(run.config)})


def _checkpoint(run, policy, players, members, problems, book):
    """The arms of one checkpoint. Its parameters are read if one of them needs any, and are
    gone when the next checkpoint's are read."""
    params = functools.cache(
        lambda: policies.trained_params(run, policy, members[0].checkpoint)
    )
    for arm in members:
        asked = arm.requests(policy, problems[arm.evaluation])
        had = episodes.Episodes(run.path / arm.file, arm.limits_s) if together.is_first() else None
        _make(run, policy, players, params, arm, asked, had)
        if had is None:
            continue
        is_complete = had.is_complete(asked)
        entry = book.enter(arm, had.seal(asked), is_complete)
        _write(run.path / "eval" / "results.json", book.results())
        _say(run, entry, len(problems) > 1)


def is_current(run: workdir.Run) -> bool:
    """Whether the finished stage is of all that the config asks for now, with nothing lost.

    Looks at no weights and at no episode.
    """
    try:
        wanted = arms.wanted(run)
    except (InputError, OSError):  # a stage or a file is not there: the stage itself says so
        return False
    return arms.are_covered(run.config, wanted, run.summary("eval"))


def _problems(run, policy, name, heldout, section) -> list[types.Problem]:
    """The held-out problems of an evaluation: those that leave room to write in every arm."""
    found = pools.heldout(run.config, heldout)
    label = "eval" if name == "main" else f"eval {name}"
    fitting = phase.fitting(run, policy, found, label, section.context_tokens, arms.FORCED_ANSWER)
    for stage in ("rl1", "rl2"):
        if heldout != "generated" and run.has_begun(stage):
            began = run.path / stage / "began.json"
            known = together.once("began", lambda: records.whole(began))
            left = changes.left_out(run.config, known)
            seen = 0 if heldout in left.files else pools.trained_on(run.config, fitting, left)
            if seen:
                run.say(
                    "eval",
                    f"{seen} of the {len(fitting)} problems of {heldout} were among the training "
                    f"problems of {stage}, which began before that file was named",
                )
    return fitting


def _make(run, policy, players, params, arm, asked, had):
    """Phases until every request has an episode, and then for those that were lost.

    Process 0 knows which episodes there are (`had`; None elsewhere), and says what all of
    them play next.
    """
    began, where = time.monotonic(), arm.where()
    plan = _plan(run, players, arm, asked, had, began)
    while (todo := together.once("eval", lambda: next(plan, None))) is not None:
        path, numbers, spent_s = todo
        part = journal.Journal(path, together.index())
        requests = [asked[i] for i in numbers]
        scored, _ = phase.run_phase(
            run, policy, players(), params(), requests, arm.budgets(run.config, spent_s),
            arm.phase, part, where,
        )  # fmt: skip
        if had is not None:
            had.add(part, [
                record.to_record(s, r.problem, policy.tokenizer, where)
                for s, r in zip(scored, requests, strict=True)
            ])  # fmt: skip


def _plan(run, players, arm, asked, had, began):
    """The phases of an arm, each decided when those before it are made: the path of its
    journal, the numbers of its requests, and the seconds that are spent.

    With a fixed schedule (rollout.lockstep) a chunk is made as a whole or not at all, so
    that a killed run ends with the same bits.
    """
    if had.is_complete(asked):
        return
    rollout = run.config.rollout
    numbers = {(r.problem.id, r.sample): i for i, r in enumerate(asked)}

    def play(requests):
        which = [numbers[r.problem.id, r.sample] for r in requests]
        return str(had.new_part().path), which, time.monotonic() - began

    # What an earlier start has lost is asked for once more, whatever the number of retries.
    rounds = rollout.retries + bool(had.lost(asked) or had.unjudged(asked))
    size = CHUNK * rollout.slots if rollout.lockstep else 0
    for chunk in episodes.chunks(had.unfiled(asked), size):
        missing = had.missing(chunk)
        if missing:
            yield play(chunk if rollout.lockstep else missing)
    for _ in range(rounds):
        if time.monotonic() - began >= (arm.limits_s[1] or float("inf")):
            return  # what would be asked now could only be cut
        _judge_again(run, players, had, asked)
        lost = had.lost(asked)
        if lost:
            yield play(lost)


def _judge_again(run, players, had, asked):
    """Verdicts for the answers that the verifier failed on; nothing is generated for them."""
    unjudged = had.unjudged(asked)
    if not unjudged:
        return
    try:
        scorers = {r.problem.id: r.problem.scorer for r in asked}
        items = [(r["final_text"], r["gold"], scorers[r["problem_id"]]) for r in unjudged]
        verdicts = players().verifier.score(items)
    except Exception as e:  # it has failed before; the results say what is lost
        where = run.keep_traceback("eval")
        run.say("eval", f"the verifier failed once more ({e!r:.80}); see {where}")
        return
    had.add(had.new_part(), [
        {**r, "reward": reward, "verdict": verdict}
        for r, (reward, verdict) in zip(unjudged, verdicts, strict=True)
    ])  # fmt: skip


def _write(path, value):
    metrics.replace(path, json.dumps(value, indent=1) + "\n")


def _say(run, r, is_named):
    """The result on one line; the evaluation's name where there is more than one."""
    name = f" {r['evaluation']}" if is_named else ""
    bound = ""
    if r["cut"] or r["masked"]:
        bound = f"  at most {r['avg_upper']:.3f}: {r['cut']} cut by time, {r['masked']} lost"
    if not r["complete"]:
        bound += ", asked for again at the next start"
    calls = "-" if r["calls_mean"] is None else f"{r['calls_mean']:.2f}"
    run.say(
        "eval",
        f"{r['checkpoint']:4s} {r['arm']:7s}{name}  accuracy {r['avg_at_k']:.3f} "
        f"[{r['avg_low']:.3f}, {r['avg_high']:.3f}]  n={r['n_problems']} k={r['k']}  "
        f"calls {calls}{bound}",
    )
