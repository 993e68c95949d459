"""The two sides of the end-to-end benchmark: one step of RL when asked, and where its time went.

Both are given the same weights, questions and settings and wait while the other one works:
`Ours` in this process, with the parts that a run's `rl1` is made of, and `Peer`, a script under
another interpreter that is told to go on by a line on its standard input.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import tempfile
import time

import jax

from aster_jax import config as configs
from aster_jax import mesh, pools, settings, types, workdir
from aster_jax import policy as policies
from aster_jax.data import problems
from aster_jax.lifetime import changes
from aster_jax.rl import grpo, update
from aster_jax.rollout import journal, phase
from aster_jax.train import optim, step

STAGE = "rl1"
MARK = "aster "  # begins the lines of a peer that are meant for the benchmark


@dataclasses.dataclass(frozen=True)
class Work:
    """What both sides do, as the peer reads it.

    `questions` holds (question, gold answer), `problems` for every step in turn; each is asked
    `samples` times. `completion_tokens` bound what follows a prompt, tool results included,
    `turn_tokens` one turn; `micro_rows` are the peer's trajectories per backward pass.
    """

    questions: list[tuple[str, str]]
    steps: int
    problems: int
    samples: int
    turn_tokens: int
    completion_tokens: int
    max_calls: int
    temperature: float
    micro_rows: int
    threads: int
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    clip_norm: float
    clip_low: float
    clip_high: float


class Ours:
    """The policy of a run whose model is `config.model.source`, and its next step of RL.

    Between `with` and its end the tool and the verifier are up. Files go to `directory`.
    """

    def __init__(self, config, directory: pathlib.Path):
        self._config, self._c = config, configs.rl_stage(config, STAGE)
        self._run = workdir.Run(config, directory, mesh.build(1, 1, 1, jax.devices()[:1]))
        self.policy = policies.describe(self._run)
        self._limits = settings.budgets(config, self._c)
        self._tx = optim.build(settings.optimiser(self._c))
        self._state = self._fresh()
        loss = functools.partial(grpo.loss_fn, grpo=settings.policy_loss(config, self._c))
        self._step = step.compile_step(self._state, self.policy.cfg, loss, self._tx, self._run.mesh)
        self._pool, self._stack = pools.train(config, changes.LeftOut()), contextlib.ExitStack()

    def _fresh(self):
        params = policies.base_params(self._run, self.policy)
        return step.fresh_state(params, self._tx, self._run.mesh)

    def __enter__(self):
        how = settings.sampled(self._config.rollout)
        self._players = self._stack.enter_context(phase.players(self._run, self.policy, how))
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def problems(self, at: int) -> list[types.Problem]:
        """Those of step `at`, from 0."""
        chosen = problems.batch(len(self._pool), self._c.prompts, at, self._config.seed)
        return [self._pool[i] for i in chosen]

    def work(self, steps: int, micro_rows: int, threads: int) -> Work:
        """The same for the peer."""
        c, asked = self._c, [p for at in range(steps) for p in self.problems(at)]
        longest = max(len(self.policy.prompt_ids(p.question)) for p in asked)
        names = {f.name for f in dataclasses.fields(Work)} & set(c)
        return Work(**{name: c[name] for name in names} | {
            "questions": [(p.question, p.answer) for p in asked], "steps": steps,
            "problems": c.prompts, "samples": c.group, "threads": threads,
            "completion_tokens": c.context_tokens - longest, "micro_rows": micro_rows,
            "temperature": self._config.rollout.temperature,
        })  # fmt: skip

    def step(self, at: int, warm_up: bool = False) -> dict:
        """Step `at`, from 0: rollout with the tool, rewards, update.

        A `warm_up` trains on made-up rewards first, so that all programs have been compiled
        whatever the real ones are, and puts the weights back.
        """
        begun = time.perf_counter()
        asked = phase.requests(self.problems(at), self._c.group, self.policy)
        episodes = journal.Journal(self._run.directory("episodes") / f"step_{at}.jsonl")
        scored, stats = phase.run_phase(
            self._run, self.policy, self._players, self._state.params, asked, self._limits,
            f"{STAGE}/{at + 1}", episodes, {"step": at + 1},
        )  # fmt: skip
        rollout_s = time.perf_counter() - begun
        if warm_up:
            self._update(at, [
                dataclasses.replace(s, reward=float(i % self._c.group == 0))
                for i, s in enumerate(scored)
            ])  # fmt: skip
            self._state = self._fresh()
        why_not = self._update(at, scored)
        step_s = time.perf_counter() - begun
        episodes.close()
        if not warm_up and stats["compiles_after_warmup"]:
            raise RuntimeError(f"step {at} compiled {stats['compiles_after_warmup']} programs")
        return found(scored, self._c.group, step_s, rollout_s) | {"why_not": why_not}

    def _update(self, at, scored):
        self._state, _, why_not = update.make(
            self._run, self.policy, self._state, scored, self._step, self._c, at + 1
        )
        jax.block_until_ready(self._state)
        return why_not


def found(scored: list[types.Scored], group: int, step_s: float, rollout_s: float) -> dict:
    """What a step did: as the peer's script says it.

    `informative` counts the trajectories of groups whose rewards differ; `trained_tokens` are
    those of the sequences that the update is made of.
    """
    used = []
    for i in range(0, len(scored), group):
        members = scored[i : i + group]
        if len({s.reward for s in members}) > 1:
            used += members
    made = [s.trajectory for s in scored]
    return {
        "step_s": step_s, "rollout_s": rollout_s, "update_s": step_s - rollout_s,
        "trajectories": len(made), "informative": len(used),
        "sampled_tokens": sum(sum(t.loss_mask) for t in made),
        "tokens": sum(len(t.tokens) for t in made),
        "trained_tokens": sum(len(s.trajectory.tokens) for s in used),
        "calls": sum(types.num_calls(c.status for c in t.calls) for t in made),
    }  # fmt: skip


class Peer:
    """A script beside this file under another interpreter, one step for every `step`.

    Raises:
      RuntimeError: the script ended; carries the end of what it said.
    """

    def __init__(self, python, script: str, *arguments):
        self._what = f"{script} under {python}"
        self._said = tempfile.TemporaryFile("w+")
        # Safe path: this folder holds a tools.py that must not stand in for another module's.
        environment = os.environ | {"PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [python, str(pathlib.Path(__file__).with_name(script)), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
            env=environment,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def hello(self) -> dict:
        """What it says once it is ready: versions, threads, its ids of the first prompt."""
        noise = []
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
            noise.append(line)
        self._process.wait()
        self._said.seek(0)
        text = ("".join(noise) + self._said.read()).strip()[-2000:]
        raise RuntimeError(f"{self._what} ended with {self._process.returncode}: {text}")

    def step(self) -> dict:
        """Its next step."""
        with contextlib.suppress(BrokenPipeError):  # why it ended is said below
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        return self.hello()
