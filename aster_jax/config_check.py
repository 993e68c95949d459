"""What makes a config valid: checked once, before anything is run.

Where in the flow: right after the flags are read, in `main` and in `launch.plan`.
"""

from ml_collections import ConfigDict

from aster_jax import config as configs
from aster_jax import settings, track
from aster_jax.demos import teacher
from aster_jax.errors import InputError
from aster_jax.rl import batch

MOST_SEED = 2**31 - 1


def is_seed(value) -> bool:
    """Whether random numbers can be drawn from it: a whole number of 31 bits, and no truth value."""
    return type(value) is int and 0 <= value <= MOST_SEED


def validate(c: ConfigDict) -> None:
    """Raise an InputError for values that cannot work together, before anything is run.

    Builds what every stage will build and needs no device for (`settings.build_all`), so
    that no impossible value waits for its stage.
    """
    check_given(c)
    _validate_names(c)
    _validate_counts(c)
    _validate_also(c)
    _validate_shares(c)
    _validate_sizes(c)
    if {"sft", "rl1", "rl2"} & set(c.stages):
        _validate_training(c)
    settings.build_all(c, {stage: configs.rl_stage(c, stage) for stage in ("rl1", "rl2")})


def check_given(c: ConfigDict) -> None:
    """Raise an InputError for a key that is None although its default is not.

    A ConfigDict takes None in place of anything. What nobody gives has to be left out instead;
    only keys of rl1 and rl2 are None, where they take the value of rl.
    """
    default = configs.default()
    for key in configs.keys(default):
        if _value(c, key) is None and _value(default, key) is not None:
            raise InputError(f"{key}=None is no value; give one, or leave the key out")


def _validate_names(c):
    unknown = [s for s in c.stages if s not in configs.STAGES]
    if unknown:
        raise InputError(f"stages has {unknown}; known stages are {', '.join(configs.STAGES)}")
    if list(c.stages) != [s for s in configs.STAGES if s in c.stages]:
        order = ", ".join(configs.STAGES)
        raise InputError(f"stages={tuple(c.stages)} must keep the order {order}")
    if unknown := [t for t in c.track if t not in track.KNOWN]:
        raise InputError(f"track has {unknown}; known are {', '.join(track.KNOWN)}, or () for none")
    if not c.name:
        raise InputError("name is empty; the experiment file must set c.name")
    if not is_seed(c.seed):
        raise InputError(f"seed={c.seed!r} must be a whole number from 0 to {MOST_SEED}")
    dtypes = ("float32", "bfloat16")
    for section, name, choices in (
        *((s, "normalise", batch.NORMALISERS) for s in configs.RL_SECTIONS),
        *((s, "hand_on", ("last", "best")) for s in configs.RL_SECTIONS),
        ("demos", "bad_rows", ("skip", "refuse")),
        ("model", "param_dtype", dtypes),
        ("model", "compute_dtype", dtypes),
        ("model", "accum_dtype", ("float32", "float64")),
        ("model", "training_attention", ("auto", "xla", "gpu", "tpu")),
        ("rollout", "dtype", dtypes),
        ("rollout", "attention", ("auto", "xla", "gpu", "tpu")),
        ("rollout", "ahead", (0, 1, 2)),
    ):
        value = c[section][name]
        if value not in choices and not (value is None and section in ("rl1", "rl2")):
            raise InputError(f"{section}.{name}={value!r}; choose one of {choices}")
    teacher.read_styles(c.demos.style)
    unknown = [s for s in c.eval.checkpoints if s not in configs.CHECKPOINTS]
    if unknown:
        known = ", ".join(configs.CHECKPOINTS)
        raise InputError(f"eval.checkpoints has {unknown}; known are {known}")


def _validate_counts(c):
    """What divides, or has to be there at all, is at least 1; what is counted, at least 0."""
    optim = ("micro_rows", "row_tokens", "keep", "max_unusable")
    rl = ("prompts", "minibatches", "updates", "eval_problems", "eval_samples", *optim)
    for section, names in {
        "sft": ("rows", "probe_problems", *optim),
        "rl": rl, "rl1": (*rl, *configs.BUDGETS), "rl2": (*rl, *configs.BUDGETS),
        "eval": (*configs.BUDGETS, "samples"),
        "rollout": ("page_tokens", "slots", "capacity", "steps_per_dispatch", "prefill_rows"),
        "demos": ("count",), "mesh": ("fsdp", "context", "tensor"),
    }.items():  # fmt: skip
        for name in names:
            if c[section][name] is not None and c[section][name] < 1:
                raise InputError(f"{section}.{name}={c[section][name]} must be at least 1")
    for key in configs.keys(c):
        section, _, name = key.rpartition(".")
        value = _value(c, key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if section and number and not value >= (-1 if section == "mesh" else 0):
            raise InputError(f"{key}={value} must not be negative")
    stages = {stage: configs.rl_stage(c, stage) for stage in ("rl1", "rl2")}
    for section, keys_, whole, part in (
        *((name, stage, "prompts", "minibatches") for name, stage in stages.items()),
        ("sft", c.sft, "rows", "micro_rows"),
    ):
        if keys_[whole] % keys_[part]:
            raise InputError(
                f"{_named(c, section, whole)}={keys_[whole]} must be a multiple of "
                f"{_named(c, section, part)}={keys_[part]}"
            )
    for name, stage in stages.items():
        if name in c.stages and stage.group < 2:
            raise InputError(
                f"{_named(c, name, 'group')}={stage.group}: a trajectory is compared with the others of "
                "its group, and there are none; give at least 2"
            )


def _value(c, key: str):
    """What stands at a dotted name; None below a section that is None."""
    for part in key.split("."):
        c = None if c is None else c[part]
    return c


def _named(c, section, key) -> str:
    """The key whose value counts, as the user would write it."""
    inherited = section in ("rl1", "rl2") and c[section][key] is None
    return f"rl.{key}" if inherited else f"{section}.{key}"


def _validate_shares(c):
    for section, name in (
        *((s, key) for s in configs.RL_SECTIONS for key in ("min_group", "min_step", "overlong_share")),
        ("filter", "min_scored"), ("demos", "slip_share"), ("sft", "stop_accuracy"),
    ):  # fmt: skip
        value = c[section][name]
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{section}.{name}={value} is a share; give one between 0 and 1")
    for stage in ("rl1", "rl2"):
        keys = configs.rl_stage(c, stage)
        if not keys.overlong_share and "soft" in (
            keys.on_turn_budget, keys.on_token_budget, keys.on_context_budget
        ):  # fmt: skip
            name = _named(c, stage, "overlong_share")
            raise InputError(f"{name}=0 leaves a budget that is soft nothing to act on; DAPO's is 0.2")


def _validate_sizes(c):
    evals = settings.evaluations(c)
    named = {"eval" if name == "main" else f"eval.also {name!r}": e for name, e in evals.items()}
    for name, section in {"rl1": c.rl1, "rl2": c.rl2, **named}.items():
        if section.context_tokens > c.rollout.capacity:
            raise InputError(
                f"{name}.context_tokens={section.context_tokens} exceeds "
                f"rollout.capacity={c.rollout.capacity}; raise the capacity"
            )
    for name in ("rl1", "rl2"):
        stage = configs.rl_stage(c, name)
        if stage.context_tokens > stage.row_tokens:
            raise InputError(
                f"{name}.context_tokens={stage.context_tokens} exceeds "
                f"{_named(c, name, 'row_tokens')}={stage.row_tokens}: a trajectory must fit a "
                "training row"
            )
    page = c.rollout.page_tokens
    if c.rollout.pool_tokens // page < -(-c.rollout.capacity // page):
        raise InputError(
            f"rollout.pool_tokens={c.rollout.pool_tokens} holds less than one row of "
            f"rollout.capacity={c.rollout.capacity} tokens in pages of {page}; raise the pool"
        )


def _validate_also(c):
    """Values of further evaluations, by the rules of `eval` itself."""
    for name, section in settings.evaluations(c).items():
        for key, value in section.items():
            least = 1 if key in ("samples", *configs.BUDGETS) else 0
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name != "main" and (value is None or (number and not value >= least)):
                raise InputError(f"eval.also {name!r} has {key}={value}; it must be at least {least}")


def _validate_measured(c, stages):
    """What acts on measurements that are not made."""
    if "sft" in c.stages and c.sft.stop_accuracy and not c.sft.probe_every:
        raise InputError(
            f"sft.stop_accuracy={c.sft.stop_accuracy} never stops anything with sft.probe_every=0; "
            "give the steps between probes, or stop_accuracy=0"
        )
    for name in {"rl1", "rl2"} & set(c.stages):
        keys_ = stages[name]
        if keys_.hand_on == "best" and not (keys_.eval_every and keys_.keep_best):
            raise InputError(
                f"{_named(c, name, 'hand_on')}=best needs measurements and the best one's checkpoint, but "
                f"{_named(c, name, 'eval_every')}={keys_.eval_every} and "
                f"{_named(c, name, 'keep_best')}={keys_.keep_best}"
            )


def _validate_training(c):
    """What would train next to nothing, or something else than was sampled."""
    if c.model.param_dtype != "float32":
        raise InputError(
            f"model.param_dtype={c.model.param_dtype!r}: an update of 1e-6 of a parameter is below "
            "what bfloat16 can tell apart, so most updates would be lost; train with float32 and "
            "save memory with model.compute_dtype=bfloat16, model.remat or more mesh.fsdp"
        )
    stages = {"sft": c.sft, **{name: configs.rl_stage(c, name) for name in ("rl1", "rl2")}}
    for name, keys_ in stages.items():
        cut = 2 * c.mesh.context if c.mesh.context > 1 else 1
        if name in c.stages and keys_.row_tokens % cut:
            raise InputError(
                f"{_named(c, name, 'row_tokens')}={keys_.row_tokens} must be a multiple of {cut}: each "
                f"of mesh.context={c.mesh.context} devices holds two stretches of a row"
            )
    _validate_measured(c, stages)
    rollout = c.rollout
    if not {"rl1", "rl2"} & set(c.stages):
        return
    if rollout.temperature <= 0:
        raise InputError(
            f"rollout.temperature={rollout.temperature}: greedy members of a group are all the "
            "same and teach nothing; give a positive one"
        )
    if rollout.top_p < 1 or rollout.top_k:
        raise InputError(
            f"rollout.top_p={rollout.top_p}, rollout.top_k={rollout.top_k}: the policy loss is of "
            "the whole distribution; train with top_p=1 and top_k=0 (eval has its own)"
        )
