"""Sections of the config -> the typed settings of the part that reads them.

Every part checks its own settings when they are made, and needs no device for it. So
`build_all`, which makes all of them, finds an impossible value before anything is run.
"""

import dataclasses
import math

from ml_collections import ConfigDict

from aster_jax import tools
from aster_jax.data import chat
from aster_jax.demos import curate, dialects, endpoint, ledger, talk
from aster_jax.errors import InputError
from aster_jax.rl import batch, grpo
from aster_jax.rollout import engine, live, sampling
from aster_jax.train import optim, retention

UNCOUNTED_CALLS = 100_000  # an interpreter's own limit; the episode's budget counts calls
# Keys of `eval` that say which checkpoints are evaluated and how, and not what one is asked.
NOT_IN_ALSO = ("checkpoints", "also")


def tool(config) -> tools.ToolConfig:
    """The executor's settings of a run."""
    try:
        return tools.ToolConfig(**config.tools.to_dict(), max_calls=UNCOUNTED_CALLS)
    except ValueError as e:  # the executor stands alone and has no errors of ours
        raise InputError(str(e).replace("ToolConfig.", "tools.")) from e


def engine_sizes(rollout) -> engine.EngineConfig:
    """Sizes of the engine from the config section `rollout`."""
    names = [f.name for f in dataclasses.fields(engine.EngineConfig)]
    sizes = {name: rollout[name] for name in names}
    return engine.EngineConfig(**sizes | {"prefill_buckets": tuple(rollout.prefill_buckets)})


def sampled(section) -> sampling.Sampling:
    """Sampling keys of a config section (`rollout`, or an evaluation)."""
    top_k = section.top_k if "top_k" in section else 0
    return sampling.Sampling(section.temperature, section.top_p, top_k)


def budgets(config, section, timed=None) -> live.Budgets:
    """Budgets of a stage's config section, with what all stages share.

    `timed` is the section with trajectory_s and deadline_s; None takes `rollout`. There 0
    is no limit.
    """
    timed = config.rollout if timed is None else timed
    return live.Budgets(
        turn_tokens=section.turn_tokens,
        response_tokens=section.response_tokens,
        context_tokens=section.context_tokens,
        max_calls=section.max_calls,
        tool_result_tokens=config.rollout.tool_result_tokens,
        max_malformed=config.rollout.max_malformed,
        call_s=config.rollout.call_s or math.inf,
        trajectory_s=timed.trajectory_s or math.inf,
        deadline_s=timed.deadline_s or math.inf,
    )


def rules(config) -> curate.Rules:
    """Which transcripts become demonstrations."""
    names = [f.name for f in dataclasses.fields(curate.Rules) if f.name != "row_tokens"]
    values = {name: config.demos[name] for name in names}
    return curate.Rules(row_tokens=config.sft.row_tokens, **values)


def teacher_server(config) -> endpoint.Endpoint:
    """Where a teacher is and how patiently it is asked."""
    names = [f.name for f in dataclasses.fields(endpoint.Endpoint)]
    return endpoint.Endpoint(**{name: config.demos.teacher[name] for name in names})


def teacher_how(config) -> dialects.How:
    """What a teacher is asked for."""
    t = config.demos.teacher
    if t.api not in dialects.PATHS:
        raise InputError(f"demos.teacher.api={t.api!r}; choose one of {tuple(dialects.PATHS)}")
    if t.style and t.style not in chat.STYLES:
        raise InputError(f"demos.teacher.style={t.style!r}; choose one of {chat.STYLES}, or ''")
    names = [f.name for f in dataclasses.fields(dialects.How)]
    own = {"style": t.style or config.model.style, "extra": dialects.check_extra(t.extra)}
    return dialects.How(**{name: t[name] for name in names} | own)


def teacher_budgets(config) -> talk.Budgets:
    """Of one conversation with a teacher."""
    t = config.demos.teacher
    for name in ("samples", "turn_tokens", "response_tokens", "at_once"):
        if t[name] < 1:
            raise InputError(f"demos.teacher.{name}={t[name]} must be at least 1")
    return talk.Budgets(
        t.turn_tokens, t.response_tokens, t.max_calls, config.rollout.max_malformed
    )


def teacher_caps(config) -> ledger.Caps:
    """What may be spent on a teacher."""
    t = config.demos.teacher
    if t.cap_money and not (t.price_prompt or t.price_written):
        raise InputError(
            f"demos.teacher.cap_money={t.cap_money} caps nothing while price_prompt and "
            "price_written are 0; give the prices of a million tokens"
        )
    return ledger.Caps(t.cap_tokens, t.cap_money, t.price_prompt, t.price_written)


def optimiser(section) -> optim.OptimConfig:
    """The optimiser keys of a config section."""
    names = [f.name for f in dataclasses.fields(optim.OptimConfig)]
    return optim.OptimConfig(**{name: section[name] for name in names})


def policy_loss(config, stage) -> grpo.GrpoConfig:
    """The switches of the loss for one RL stage (`config.rl_stage`)."""
    return grpo.GrpoConfig(
        clip_low=stage.clip_low,
        clip_high=stage.clip_high,
        dual_clip=stage.dual_clip,
        tis_cap=stage.tis_cap,
        on_policy=stage.minibatches * stage.updates == 1,
        temperature=config.rollout.temperature,
        loss=stage.loss,
        token_mask=stage.token_mask,
        sequence_mask=stage.sequence_mask,
        kl_coef=stage.kl_coef,
        entropy_coef=stage.entropy_coef,
    )


def kept(section) -> retention.Keep:
    """Which checkpoints of a stage stay on disk."""
    best = "keep_best" in section and section.keep_best and section.eval_every > 0
    return retention.Keep(last=section.keep, every=section.keep_every, best=best)


def evaluations(config) -> dict[str, ConfigDict]:
    """Every evaluation by name: section `eval` itself, called "main", and those in `also`.

    Each has the keys of `eval` and `heldout`, "" for the run's own held-out problems.
    """
    own = {k: v for k, v in config.eval.items() if k not in NOT_IN_ALSO}
    own["heldout"] = ""
    made = {"main": ConfigDict(own).lock()}
    for i, changes in enumerate(config.eval.also):
        if not isinstance(changes, dict | ConfigDict) or not isinstance(changes.get("name"), str):
            raise InputError(f"eval.also[{i}]={changes!r} must be a dict with a 'name' of its own")
        changes = dict(changes)
        name = changes.pop("name")
        if name in made or not name.replace("-", "").replace("_", "").isalnum():
            raise InputError(
                f"eval.also[{i}] has name {name!r}; names are letters, digits, - and _, each once"
            )
        unknown = sorted(set(changes) - set(own))
        if unknown:
            raise InputError(f"eval.also {name!r} has {unknown}; known keys are {', '.join(own)}")
        try:
            section = ConfigDict(own)
            section.update(changes)
        except TypeError as e:
            raise InputError(f"eval.also {name!r}: {e}") from e
        made[name] = section.lock()
    return made


def build_all(config, rl_stages: dict[str, ConfigDict]) -> None:
    """Make all settings once. Raises InputError for the first that cannot be."""
    tool(config)
    rules(config)
    for teacher in (teacher_server, teacher_how, teacher_budgets, teacher_caps):
        teacher(config)
    engine_sizes(config.rollout)
    sampled(config.rollout)
    for name, section in {"sft": config.sft, **rl_stages}.items():
        with_name(name, optimiser, section)
        with_name(name, kept, section)
    for name, stage in rl_stages.items():
        with_name(name, policy_loss, config, stage)
        with_name(name, batch.rules, stage)
        with_name(name, budgets, config, stage)
    for name, section in evaluations(config).items():
        named = "eval" if name == "main" else f"eval.also {name!r}"
        with_name(named, sampled, section)
        with_name(named, budgets, config, section, section)


def with_name(section: str, make, *arguments):
    """`make(*arguments)`; an error says which section of the config it is about."""
    try:
        return make(*arguments)
    except InputError as e:
        raise InputError(f"{section}: {e}") from e
