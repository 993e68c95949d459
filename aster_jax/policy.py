"""The model that a run trains: its sizes, tokenizer and markup, and its parameters by stage.

Where weights, model, data and checkpoints meet, so that sft, rl and eval ask one place.
"""

import dataclasses
import functools
import math

import jax

from aster_jax import config as configs
from aster_jax import mesh as meshes
from aster_jax import settings, together, weights, workdir
from aster_jax.data import chat, tokenizer
from aster_jax.errors import InputError
from aster_jax.lifetime import changes, provenance
from aster_jax.model import config as model_config
from aster_jax.model import transformer
from aster_jax.train import checkpoint, disk, memory, optim, retention, step

# Keys of `model` that say how any model is computed, whatever its sizes.
HOW = (
    "param_dtype", "compute_dtype", "accum_dtype", "remat", "keep_attention", "keep_products",
    "training_attention",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Policy:
    """What turns text into ids and ids into scores: everything but the parameters."""

    cfg: model_config.ModelConfig
    tokenizer: object
    style: str
    tools: tuple | None
    suffix: str = ""  # what every question ends with

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a turn."""
        return tuple(chat.stop_ids(self.tokenizer, self.style))

    def prompt_ids(self, question: str) -> tuple[int, ...]:
        """A problem's prompt, ending where the model starts to write."""
        tools = list(self.tools) if self.tools else None
        return tuple(chat.prompt_ids(question + self.suffix, tools, self.tokenizer, self.style))

    def opener_ids(self, text: str) -> tuple[int, ...]:
        """The ids that every answer begins with when it is begun for the model; none for ""."""
        return tuple(chat.opener_ids(text, self.tokenizer, self.style)) if text else ()


@functools.lru_cache(maxsize=4)
def _known(source: str):
    return weights.describe(source)


def fetch(run: workdir.Run) -> None:
    """Have the model's files on this host before anybody looks at them: downloaded once where
    the processes share a cache."""
    if run.config.model.source != "scratch":
        together.first_then_rest("model", lambda: _known(run.config.model.source))


def describe(run: workdir.Run) -> Policy:
    """The run's policy without its weights.

    A model from scratch has the vocabulary learned by the demos stage; any other has its
    checkpoint's own.
    """
    m, suffix = run.config.model, run.config.problems.suffix
    tools = (chat.TOOL,) if m.show_tool else None
    if m.source == "scratch":
        run.summary("demos")
        words = tokenizer.load(run.path / "demos" / "tokenizer")
        return Policy(_scratch_config(m, words.vocab_size), words, m.style, tools, suffix)
    known = _known(m.source)
    if known.tokenizer is None:
        raise InputError(
            f"model.source {m.source!r} has no tokenizer; put its tokenizer.json or "
            "tokenizer.model beside the weights"
        )
    cfg = dataclasses.replace(known.config, **_how(m))
    return Policy(cfg, known.tokenizer, m.style, tools, suffix)


def _scratch_config(m, vocab_size: int) -> model_config.ModelConfig:
    return model_config.ModelConfig(
        vocab_size=vocab_size,
        num_layers=m.num_layers,
        d_model=m.d_model,
        d_ff=m.d_ff,
        num_heads=m.num_heads,
        num_kv_heads=m.num_kv_heads,
        head_dim=m.head_dim,
        rope_theta=m.rope_theta,
        rms_norm_eps=1e-6,
        tie_embeddings=True,
        qk_norm=True,
        max_positions=1 << 20,
        **_how(m),
    )


def _how(m) -> dict:
    return {k: m[k] for k in HOW}


def check(run: workdir.Run) -> None:
    """Raise a ValueError now for what would else fail a stage later, and allocate nothing.

    Weights that are missing, damaged or without a tokenizer; a model that cannot fit the
    memory, does not divide over the mesh or was made for shorter contexts.
    """
    c = run.config
    if c.model.style not in chat.STYLES:
        raise InputError(f"model.style={c.model.style!r}; choose one of {chat.STYLES}")
    cfg = expected_config(run)
    _check_memory(run, cfg)
    meshes.shardings(transformer.abstract_params(cfg), run.mesh)
    if c.rollout.capacity > cfg.max_positions:
        raise InputError(
            f"rollout.capacity={c.rollout.capacity} exceeds the {cfg.max_positions} positions "
            f"that model.source {c.model.source!r} was made for; lower it and the contexts"
        )
    if c.model.source != "scratch" and _known(c.model.source).style != c.model.style:
        run.say(
            "model",
            f"model.style is {c.model.style}, the checkpoint's own chat template is of style "
            f"{_known(c.model.source).style}: it will be taught new markup",
        )
    check_rows(c, run.mesh)


def check_rows(c, mesh) -> None:
    """InputError where a microbatch of a stage does not divide over the mesh."""
    shards = meshes.batch_shards(mesh)
    for stage in set(c.stages) & set(changes.TRAINING):
        micro_rows = section_of(c, stage).micro_rows
        if micro_rows % shards:
            raise InputError(
                f"{stage}.micro_rows={micro_rows} must be a multiple of the {shards} "
                "devices along data x fsdp"
            )


def section_of(c, stage: str):
    """The config section of a training stage."""
    return c.sft if stage == "sft" else configs.rl_stage(c, stage)


def say_origin(run: workdir.Run) -> None:
    """Record what the process runs on, and say what changed since the start before."""
    if together.is_first():
        for text in provenance.record(run.path, weights.revision(run.config.model.source)):
            run.say("run", f"{text}; bits may differ from here on")


def say_disk(run: workdir.Run) -> None:
    """Say what the run will write at most; InputError where its checkpoints cannot fit."""
    c, stages = run.config, {}
    for stage in changes.TRAINING:
        if stage not in c.stages or run.is_finished(stage):
            continue
        section = section_of(c, stage)
        steps, kept, played = section.steps, settings.kept(section), {}
        if stage != "sft":
            played = {
                "trajectories": section.steps * section.prompts * section.group
                * (1 + section.refill_tries),
                "tokens": section.context_tokens,
            }
        elif section.epochs:
            # At most a row for each demonstration. Many share one, so the checkpoints of
            # keep_every, alone in growing with the steps, are not to refuse a run.
            steps = math.ceil(section.epochs * c.demos.count / section.rows)
            kept = dataclasses.replace(kept, every=0)
        tx = optim.build(settings.optimiser(section))
        stages[stage] = disk.Stage(tx, steps, section.save_every, kept, **played)
    if stages:
        needed = disk.needed_bytes(expected_config(run), stages)
        run.say("run", disk.check(run.path, needed))


def _check_memory(run, cfg):
    c = run.config
    sampled = (c.rollout.pool_tokens, c.rollout.dtype)
    left = [s for s in changes.TRAINING if s in c.stages and not run.is_finished(s)]
    for stage in left:
        section = section_of(c, stage)
        micro = (section.micro_rows, section.row_tokens)
        copies = 2 if stage != "sft" and section.kl_coef else 1
        memory.check(cfg, run.mesh, *sampled, micro, section.moments_dtype, copies)
    if not left:
        memory.check(cfg, run.mesh, *sampled)


def expected_config(run: workdir.Run) -> model_config.ModelConfig:
    """The model's sizes before any stage has run, with the size of vocabulary asked for."""
    m = run.config.model
    return _scratch_config(m, m.vocab_size) if m.source == "scratch" else describe(run).cfg


def base_params(run: workdir.Run, policy: Policy) -> dict:
    """The parameters before any training, laid out on the run's mesh."""
    m = run.config.model
    if m.source == "scratch":
        return step.init_params(policy.cfg, run.config.seed, run.mesh)

    def place(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        spec = meshes.spec_of(path, shape, run.mesh)
        return jax.sharding.NamedSharding(run.mesh, spec)

    return weights.load(m.source, sharding=place, dtype=m.param_dtype).params


def starts_from(run: workdir.Run, stage: str) -> str:
    """Where a training stage takes its parameters from: the nearest one before it that is
    part of this run, "base" where there is none.

    So RL can start from a model that somebody else has fine-tuned: without demos and sft.
    """
    earlier = changes.TRAINING[: changes.TRAINING.index(stage)]
    used = [s for s in earlier if s in run.config.stages or run.has_begun(s) or run.has_ended(s)]
    return used[-1] if used else "base"


def trained_params(run: workdir.Run, policy: Policy, stage: str) -> dict:
    """The parameters that a finished stage ("base", "sft", "rl1", "rl2") hands on.

    Those of its last step, or its best one (`hand_on`); a stage of no steps hands on what
    it started from. Only parameters are read, not the optimiser's state.
    """
    if stage == "base":
        return base_params(run, policy)
    step_ = handed_on(run, stage)
    if not step_:
        return trained_params(run, policy, starts_from(run, stage))
    return params_of(run, policy, stage, step_)


def params_of(run: workdir.Run, policy: Policy, stage: str, step_: int) -> dict:
    """The parameters of one checkpoint of a stage, on the run's mesh."""
    abstract = step.abstract_params(policy.cfg, run.mesh)
    with checkpoint.Checkpoints(run.path / stage / "checkpoints", retention.Keep()) as saved:
        return saved.params(step_, abstract)


def is_damaged(run: workdir.Run, stage: str) -> bool:
    """Whether a finished stage's last checkpoint cannot be read although nothing that has been
    made from it is on disk. It can then be made again from the one before."""
    later = changes.TRAINING[changes.TRAINING.index(stage) + 1 :]
    if not run.has_ended(stage) or any(changes.steps_made(run.path, s) for s in later):
        return False
    last = run.summary(stage)["step"]
    if not last:
        return False
    with checkpoint.Checkpoints(run.path / stage / "checkpoints", retention.Keep()) as saved:
        return not saved.is_whole(last)


def handed_on(run: workdir.Run, stage: str) -> int:
    """The step whose parameters a finished stage hands on; 0 when it made none."""
    made = run.summary(stage)
    wants_best = stage != "sft" and configs.rl_stage(run.config, stage).hand_on == "best"
    best = made.get("best") if wants_best else None
    return made["step"] if best is None else best
