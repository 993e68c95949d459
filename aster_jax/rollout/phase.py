"""A run's rollouts: config to engine and tools, problems to scored trajectories.

What sft (accuracy probes), rl and eval share. The programs and the processes of the tool
are kept over a stage's phases; the device's memory is given back between them.

Of several processes each has an engine on its own devices, a tool and a verifier of its own,
and makes the trajectories of the problems that are dealt to it. Then they meet, and all have
all of them. A trajectory's randomness comes from its identity, so it does not depend on who
made it.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import threading
import time
import zlib

import jax

from aster_jax import mesh as meshes
from aster_jax import policy as policies
from aster_jax import settings, together, tools, types, workdir
from aster_jax.data import problems as problem_files
from aster_jax.errors import InputError, Leaving
from aster_jax.lifetime import changes
from aster_jax.reward import verify
from aster_jax.rollout import device, engine, episode, journal, record, results, sampling

JUDGES = 128  # threads that wait for verdicts; the comparing itself is in other processes
VERDICT_S = 600.0  # the verifier has deadlines of its own; this one holds if it has died
STARTS = 3  # of the tool, before a stage gives it up
SHOWN = 5  # gold answers that are named, of each file
LOOK_S = 0.5  # between two looks at whether the process has to leave


@dataclasses.dataclass(frozen=True)
class Players:
    """Everything a phase needs besides weights: device, tool, verifier."""

    device: device.Device
    executor: tools.Executor
    verifier: verify.Verifier


def check(run: workdir.Run) -> None:
    """Raise an InputError now where the engine cannot be built for this mesh or model, or no
    result of the tool could be shown."""
    sizes = settings.engine_sizes(run.config.rollout)
    engine.check(sizes, meshes.batch_shards(meshes.for_rollouts(run.mesh)))
    here, mesh = _own_part(sizes, run.mesh)
    engine.check(here, meshes.batch_shards(mesh))
    engine.attention(policies.expected_config(run), here, mesh)
    if run.config.model.source != "scratch":  # that one learns its vocabulary in the run
        _check_results(run, policies.describe(run))


def _check_results(run, policy):
    limit = run.config.rollout.tool_result_tokens
    results.check(limit, policy.tokenizer, "rollout.tool_result_tokens")


def _own_part(sizes: engine.EngineConfig, mesh) -> tuple[engine.EngineConfig, jax.sharding.Mesh]:
    """The engine's sizes and the mesh of this process."""
    return engine.part(sizes, jax.process_count()), meshes.local(mesh)


def tool_config(config) -> tools.ToolConfig:
    """The tool's settings of a run; processes on one host share its processors."""
    c, beside = settings.tool(config), together.beside()
    if c.max_running or beside == 1:
        return c
    return dataclasses.replace(c, max_running=max(1, 2 * (os.cpu_count() or 1) // beside))


def check_tool(run: workdir.Run) -> None:
    """Start the tool once, bare, and stop it: InputError where this host cannot isolate."""
    config = dataclasses.replace(tool_config(run.config), preload=())
    try:
        start_tool(config).close()
    except RuntimeError as e:
        raise InputError(f"{e}; `python -m aster_jax.tools doctor` tells what this host has") from e


def start_tool(config: tools.ToolConfig) -> tools.Executor:
    """The tool, tried again where it does not start: what happens to a process while it starts
    may happen once. Raises RuntimeError after `STARTS` failures."""
    for attempt in range(STARTS - 1):
        try:
            return tools.Executor(config)
        except (RuntimeError, OSError):
            time.sleep(attempt)
    return tools.Executor(config)


def check_golds(run: workdir.Run) -> None:
    """Say which gold answers of problem files can only be met letter for letter, by row: right
    answers in another spelling will earn nothing there."""
    p = run.config.problems
    for name in dict.fromkeys([p.source, *changes.heldout_files(run.config)]):
        if name == "generated":
            continue
        found = problem_files.load(name, duplicates="drop")
        unread = verify.unreadable_golds([x.answer for x in found], verifying(run.config))
        rows = problem_files.rows_of(name) if unread else {}
        for i, reason in unread[:SHOWN]:
            where = f"{name} row {rows[found[i].question]}"
            gold = f"{found[i].answer!r:.60}"
            run.say("run", f"{where}: only its own spelling meets the answer {gold}: {reason}")
        if len(unread) > SHOWN:
            run.say("run", f"and {len(unread) - SHOWN} more answers of {name}")


@contextlib.contextmanager
def players(run: workdir.Run, policy: policies.Policy, how: sampling.Sampling):
    """Start the tool and the verifier, and build the programs; stop them at the end.

    Raises an InputError where no result of the tool could be shown.
    """
    _check_results(run, policy)
    sizes, mesh = _own_part(settings.engine_sizes(run.config.rollout), run.mesh)
    kernel, why = engine.attention(policy.cfg, sizes, mesh)
    run.say("engine", f"decoding attends by {kernel}: {why}")
    dev = device.Device(policy.cfg, sizes, how, policy.stop_ids, run.mesh)
    with (
        start_tool(tool_config(run.config)) as executor,
        verify.Verifier(verifying(run.config)) as verifier,
    ):
        yield Players(dev, executor, verifier)


def verifying(config) -> verify.VerifyConfig:
    """The verifier's settings of a run: as isolated as the tool, as far as the host can;
    processes on one host share its processors."""
    beside = together.beside()
    return verify.VerifyConfig(
        max_running=0 if beside == 1 else max(1, (os.cpu_count() or 1) // beside),
        min_tier=config.tools.min_tier, allow_unsafe=config.tools.allow_unsafe,
    )  # fmt: skip


def requests(
    problems: list[types.Problem], samples: int, policy: policies.Policy, opener: str = ""
) -> list[episode.Request]:
    """`samples` trajectories per problem, a problem's side by side.

    `opener`: text that every answer begins with.
    """
    made, ids = [], policy.opener_ids(opener)
    for problem in problems:
        prompt = policy.prompt_ids(problem.question)
        made += [episode.Request(problem, i, prompt, ids, opener) for i in range(samples)]
    return made


def fitting(
    run: workdir.Run,
    policy: policies.Policy,
    problems: list[types.Problem],
    section: str,
    context_tokens: int,
    opener: str = "",
) -> list[types.Problem]:
    """The problems whose prompt leaves room to write within a context.

    Says how many do not; raises InputError when none does.
    """
    room = context_tokens - len(policy.opener_ids(opener))
    fits = [p for p in problems if len(policy.prompt_ids(p.question)) < room]
    if len(fits) < len(problems):
        text = f"of {len(problems)} problems have prompts that fill {section}.context_tokens={room}"
        if not fits:
            raise InputError(f"all {text}; raise it, and rollout.capacity with it")
        run.say(section, f"{len(problems) - len(fits)} {text}; left out")
    return fits


def run_phase(
    run: workdir.Run,
    policy: policies.Policy,
    with_whom: Players,
    params: dict,
    asked: list[episode.Request],
    limits: episode.Budgets,
    phase: str,
    episodes: journal.Journal | None = None,
    where: dict | None = None,
    reuse: bool = False,
) -> tuple[list[types.Scored], dict]:
    """Make and score all trajectories of one phase; `phase` names its randomness.

    A trajectory is scored as soon as it ends, while others go on, and then written to
    `episodes` with `where` (stage, step, ...). With `reuse`, those that stand there already
    under the same `where`, and say something, are not made again. Returns them in the order
    asked, and the phase's counters. Raises `errors.Leaving` when the process has to go.

    Of several processes all call this, with the same arguments but for their own `episodes`,
    and get the same back.
    """
    key = jax.random.fold_in(jax.random.key(run.config.seed), zlib.crc32(phase.encode()))
    kept: dict = {}  # process 0 knows what stands there, and brings it to the meeting
    there = together.once("kept", lambda: _begin(kept, episodes, where if reuse else None))
    names = {(problem, sample) for problem, sample in there}
    missing = [r for r in asked if (r.problem.id, r.sample) not in names]
    stats: dict = {"phase_s": 0.0, "sampled_tokens": 0, "verify_s": 0.0}
    scored = []
    if missing:
        dealt = together.deal([r.problem.id for r in missing], together.count())
        mine = [r for r, i in zip(missing, dealt, strict=True) if i == together.index()]
        judged = _Judging(run, policy, with_whom.verifier, mine, episodes, where or {})
        if not with_whom.device.is_warm:
            with_whom.device.warm_up(params)
        with_whom.device.begin(params, key)
        try:
            made, stats = _play(run, policy, with_whom, mine, limits, judged, phase)
            began = time.monotonic()
            scored = judged.scored(made)
            stats["verify_s"] = time.monotonic() - began
        except Leaving:
            together.everybody("played", False)
            raise
        if not all(together.everybody("played", True)):
            raise Leaving
    if together.count() > 1:
        stats = _over_processes(together.everybody("stats", stats))
        found = together.exchange("episodes", [*kept.values(), *scored])
        scored = [s for part in found for s in part]
        if episodes is not None and not together.is_first():
            episodes.close()
    known = kept | {(s.trajectory.problem_id, s.trajectory.sample): s for s in scored}
    stats["kept_episodes"] = len(asked) - len(missing)
    return [known[r.problem.id, r.sample] for r in asked], stats


def _begin(kept: dict, episodes, where) -> list:
    """Fill `kept` with what need not be made again, if `where` says what that is; the names.
    Without any, the journals are emptied."""
    if episodes is not None and where is not None:
        kept |= _known(episodes, where)
    if episodes is not None and not kept:
        episodes.discard()
    return list(kept)


def _over_processes(found: list[dict]) -> dict:
    """The counters of a phase from those of all processes: seconds are of the slowest."""
    return {
        name: (max if name.endswith("_s") else sum)(s[name] for s in found if name in s)
        for name in dict.fromkeys(name for s in found for name in s)
    }


def _known(episodes, where) -> dict:
    """Episodes that need not be made again, by problem and sample."""
    found = {}
    for r in episodes.read():
        same = all(r.get(name) == value for name, value in where.items())
        if same and not types.says_nothing(r["end"], r["verdict"]):
            found[r["problem_id"], r["sample"]] = record.from_record(r)
    return found


def _play(run, policy, with_whom, asked, limits, judged, phase):
    """The host loop over all requests; the device's memory is free afterwards."""
    stage, rollout = phase.split("/")[0], run.config.rollout

    def show(ended, total, stats):
        rate = stats["sampled_tokens"] / max(stats["phase_s"], 1e-9)
        run.live(
            stage,
            f"{ended}/{total} trajectories, {rate:.0f} tok/s, {stats['tool_calls']} calls, "
            f"reward {judged.reward / max(judged.count, 1):.2f} of {judged.count} scored",
        )

    loop = episode.Rollout(
        with_whom.device, with_whom.executor, policy.tokenizer, policy.style, limits,
        rollout.lockstep, rollout.ahead, run.config.seed, on_end=judged.begin,
        on_progress=show if run.is_watched() else None,
        retries=rollout.retries, stopping=run.notice.is_given,
    )  # fmt: skip
    try:
        made = loop.run(asked)
    except BaseException:
        judged.abandon()
        raise
    finally:
        with_whom.device.end()
    return made, dict(loop.stats)


class _Judging:
    """Verdicts of a phase as its trajectories end, and their lines in the journal."""

    def __init__(self, run, policy, verifier, asked, episodes, where):
        self._run, self._policy, self._verifier = run, policy, verifier
        self._asked, self._episodes, self._where = asked, episodes, where
        self._threads = concurrent.futures.ThreadPoolExecutor(JUDGES, "aster-judge")
        self._verdicts: dict[int, concurrent.futures.Future] = {}
        self._counting = threading.Lock()
        self.count, self.reward = 0, 0.0

    def begin(self, i: int, made: types.Trajectory) -> None:
        """Judge a trajectory behind the caller's back."""
        self._verdicts[i] = self._threads.submit(self._judge, i, made)

    def _judge(self, i, made) -> types.Scored:
        reward, verdict = 0.0, "no_answer"
        for _ in range(1 + self._run.config.rollout.retries):
            reward, verdict = self._score(made.final_text, self._asked[i].problem)
            if not verdict.startswith("verifier_"):
                break
        scored = types.Scored(made, reward, verdict)
        if self._episodes is not None:
            problem = self._asked[i].problem
            self._episodes.add(
                record.to_record(scored, problem, self._policy.tokenizer, self._where)
            )
        with self._counting:
            self.count, self.reward = self.count + 1, self.reward + reward
        return scored

    def _score(self, text, problem):
        try:
            return self._verifier.score([(text, problem.answer, problem.scorer)])[0]
        except Exception as e:  # whatever it is, it is not the answer's fault, and no reason to end
            where = self._run.keep_traceback("verifier")
            self._run.say("reward", f"the verifier failed ({e!r:.80}); see {where}")
            return 0.0, "verifier_error"

    def scored(self, made: list[types.Trajectory]) -> list[types.Scored]:
        """All of them, in order; one whose verdict does not come in time has none."""
        deadline = time.monotonic() + VERDICT_S
        waiting = set(self._verdicts.values())
        while waiting and time.monotonic() < deadline:
            _, waiting = concurrent.futures.wait(waiting, LOOK_S)
            if self._run.notice.is_given():
                self.abandon()
                raise Leaving
        self.abandon()
        return [
            self._verdicts[i].result() if self._verdicts[i].done() and not self._verdicts[i].cancelled()
            else types.Scored(trajectory, 0.0, "verifier_timeout")
            for i, trajectory in enumerate(made)
        ]

    def abandon(self) -> None:
        """Wait for no verdict any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
