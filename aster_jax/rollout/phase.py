"""A run's rollouts: config to engine and tools, problems to scored trajectories.

What sft (accuracy probes), rl and eval share. The programs and the processes of the tool
are kept over a stage's phases; the device's memory is given back between them.
"""

import concurrent.futures
import contextlib
import dataclasses
import zlib

import jax

from aster_jax import mesh as meshes
from aster_jax import policy as policies
from aster_jax import pools, tools, types, workdir
from aster_jax.errors import InputError
from aster_jax.reward import verify
from aster_jax.rollout import device, engine, episode, sampling

JUDGES = 4  # threads that wait for verdicts; the comparing itself is in other processes


@dataclasses.dataclass(frozen=True)
class Players:
    """Everything a phase needs besides weights: device, tool, verifier."""

    device: device.Device
    executor: tools.Executor
    verifier: verify.Verifier


def engine_config(rollout) -> engine.EngineConfig:
    """Sizes of the engine from the config section `rollout`."""
    names = [f.name for f in dataclasses.fields(engine.EngineConfig)]
    sizes = {name: rollout[name] for name in names}
    return engine.EngineConfig(**sizes | {"prefill_buckets": tuple(rollout.prefill_buckets)})


def check(run: workdir.Run) -> None:
    """Raise a ValueError now where the engine cannot be built for this mesh or model."""
    sizes = engine_config(run.config.rollout)
    engine.check(sizes, meshes.batch_shards(run.mesh))
    engine.attention(policies.expected_config(run), sizes, run.mesh)


@contextlib.contextmanager
def players(run: workdir.Run, policy: policies.Policy, how: sampling.Sampling):
    """Start the tool and the verifier, and build the programs; stop them at the end."""
    sizes = engine_config(run.config.rollout)
    kernel, why = engine.attention(policy.cfg, sizes, run.mesh)
    run.say("engine", f"decoding attends by {kernel}: {why}")
    dev = device.Device(policy.cfg, sizes, how, policy.stop_ids, run.mesh)
    checks = verify.VerifyConfig(min_tier=run.config.tools.min_tier)
    with (
        tools.Executor(pools.tool_config(run.config)) as executor,
        verify.Verifier(checks) as verifier,
    ):
        yield Players(dev, executor, verifier)


def sampling_of(section) -> sampling.Sampling:
    """Sampling keys of a config section."""
    top_k = section.top_k if "top_k" in section else 0
    return sampling.Sampling(section.temperature, section.top_p, top_k)


def budgets(config, section) -> episode.Budgets:
    """Budgets of a stage's config section, with what all stages share."""
    return episode.Budgets(
        turn_tokens=section.turn_tokens,
        response_tokens=section.response_tokens,
        context_tokens=section.context_tokens,
        max_calls=section.max_calls,
        tool_result_tokens=config.rollout.tool_result_tokens,
        max_malformed=config.rollout.max_malformed,
        call_s=config.rollout.call_s,
        trajectory_s=config.rollout.trajectory_s,
        deadline_s=config.rollout.deadline_s,
    )


def requests(
    problems: list[types.Problem], samples: int, policy: policies.Policy, opener: tuple = ()
) -> list[episode.Request]:
    """`samples` trajectories per problem, a problem's side by side."""
    made = []
    for problem in problems:
        prompt = policy.prompt_ids(problem.question)
        made += [episode.Request(problem, i, prompt, opener) for i in range(samples)]
    return made


def fitting(
    run: workdir.Run,
    policy: policies.Policy,
    problems: list[types.Problem],
    section: str,
    opener: tuple = (),
) -> list[types.Problem]:
    """The problems whose prompt leaves room to write within the section's context.

    Says how many do not; raises ValueError when none does.
    """
    room = run.config[section].context_tokens - len(opener)
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
) -> tuple[list[types.Scored], dict]:
    """Make and score all trajectories of one phase; `phase` names its randomness.

    A trajectory is scored as soon as it ends, while others go on. Returns them in the order
    asked, and the phase's counters.
    """
    key = jax.random.fold_in(jax.random.key(run.config.seed), zlib.crc32(phase.encode()))
    if not with_whom.device.is_warm:
        with_whom.device.warm_up(params)
    with_whom.device.begin(params, key)
    stage, rollout = phase.split("/")[0], run.config.rollout
    verdicts: dict[int, concurrent.futures.Future] = {}

    def score(i, made):
        pair = (made.final_text, asked[i].problem.answer)
        verdicts[i] = judges.submit(with_whom.verifier.score, [pair])

    def show(ended, total, stats):
        known = [f.result()[0][0] for f in list(verdicts.values()) if f.done()]
        rate = stats["sampled_tokens"] / max(stats["phase_s"], 1e-9)
        run.live(
            stage,
            f"{ended}/{total} trajectories, {rate:.0f} tok/s, {stats['tool_calls']} calls, "
            f"reward {sum(known) / max(len(known), 1):.2f} of {len(known)} scored",
        )

    with concurrent.futures.ThreadPoolExecutor(JUDGES) as judges:
        loop = episode.Rollout(
            with_whom.device, with_whom.executor, policy.tokenizer, policy.style, limits,
            rollout.lockstep, rollout.ahead, run.config.seed, on_end=score, on_progress=show,
        )  # fmt: skip
        made = loop.run(asked)
        with_whom.device.end()
        scores = [verdicts[i].result()[0] for i in range(len(made))]
    scored = [types.Scored(t, reward, verdict) for t, (reward, verdict) in zip(made, scores)]
    return scored, dict(loop.stats)
